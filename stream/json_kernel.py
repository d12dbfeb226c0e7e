"""The compiled reader of JSON records: one loop over their bytes, into arrays.

``stream.json_scan`` gives it the fields as tables. It takes a record whole or leaves it whole.
"""

from __future__ import annotations

import numpy as np

from features.compiled import kernel
from features.hashing import hash_bytes

#: What a field holds: a text, a number (``WHOLE`` ones are integers), one of the actions, a flat object of
#: texts, or something that only ``null`` is taken of.
TEXT, NUMBER, WHOLE, TIME, ACTION, CONTEXT_OBJECT, NULL = range(7)
#: Decimal digits of a whole number that a float64 always holds, and powers of ten that it holds exactly: a
#: quotient or product of two such numbers is the right one (Clinger, "How to read floating point numbers
#: accurately", PLDI 1990).
_EXACT_DIGITS, _EXACT_POWER = 15, 22
#: Columns of the table in which fields are found by their names.
LETTERS = 64
POWERS = 10.0 ** np.arange(_EXACT_POWER + 1)
#: Columns of the table of fields.
_HOLDS, _COLUMN, _SPAN, _LEAST, _MOST, _NULLABLE = range(6)
#: Of a name that was read before: where it stood, its bytes with quotes and colon, and its field or -1.
_AT, _SIZE, _FIELD = range(3)
_QUOTE, _BACKSLASH, _COMMA, _COLON, _OPEN, _CLOSE = (ord(c) for c in '"\\,:{}')
_MINUS, _PLUS, _DOT, _ZERO_DIGIT, _NINE_DIGIT, _SMALL_E, _LARGE_E = (ord(c) for c in "-+.09eE")
_SPACE, _TAB, _NEWLINE, _RETURN = (ord(c) for c in " \t\n\r")
#: Bytes that are characters of a text as they stand: neither its end, nor an escape, nor beyond ASCII.
_PLAIN = np.array([32 <= byte < 128 and byte not in (_QUOTE, _BACKSLASH) for byte in range(256)])
_FAILED = -1
#: What a whole number may have of digits, so that it fits.
_MOST_DIGITS = 18
#: Beyond this a power of ten is left to a closer look in any case.
_LARGEST_EXPONENT = 10_000
_NO_KEY = np.uint64(0)


@kernel
def _space(data, i, end):  # type: ignore[no-untyped-def]
    """The first place from ``i`` on that is no white space."""
    while i < end and (data[i] == _SPACE or data[i] == _TAB or data[i] == _NEWLINE or data[i] == _RETURN):
        i += 1
    return i


@kernel
def _utf8(data, i, end):  # type: ignore[no-untyped-def]
    """Bytes of the character that begins at ``i`` with a byte above 127; 0 where it is none (RFC 3629)."""
    first = data[i]
    if first < 0xC2 or first > 0xF4:
        return 0
    size = 2 if first < 0xE0 else (3 if first < 0xF0 else 4)
    if i + size > end:
        return 0
    for k in range(1, size):
        if data[i + k] < 0x80 or data[i + k] > 0xBF:
            return 0
    second = data[i + 1]
    # Neither longer than needed, nor a half of a surrogate pair, nor above the last character.
    if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
        return 0
    if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
        return 0
    return size


@kernel
def _text(data, i, end):  # type: ignore[no-untyped-def]
    """A text from its opening quote on: place of its closing quote and characters; or ``_FAILED``."""
    if i >= end or data[i] != _QUOTE:
        return _FAILED, 0
    begin = i = i + 1
    while True:
        while i < end and _PLAIN[data[i]]:
            i += 1
        if i >= end:
            return _FAILED, 0
        if data[i] == _QUOTE:
            return i, i - begin
        # Bytes that are no character of their own move the beginning, so that characters are counted.
        size = _utf8(data, i, end)
        if size == 0:
            return _FAILED, 0
        i += size
        begin += size - 1


@kernel
def _is(data, begin, end, names, first, last):  # type: ignore[no-untyped-def]
    """Whether the bytes are those of a name."""
    if last - first != end - begin:
        return False
    for k in range(end - begin):  # noqa: SIM110 - a generator is not compiled
        if data[begin + k] != names[first + k]:
            return False
    return True


@kernel
def _number(data, i, end):  # type: ignore[no-untyped-def]
    """A number that is not negative: its end or ``_FAILED``, digits as a whole number, their count, the power
    of ten to multiply it with, and whether it is written as a whole number."""
    begin, digits, count, power, whole = i, np.int64(0), 0, 0, True
    while i < end and _ZERO_DIGIT <= data[i] <= _NINE_DIGIT:
        if count > 0 or data[i] != _ZERO_DIGIT:
            count += 1
            if count <= _MOST_DIGITS:
                digits = digits * 10 + np.int64(data[i] - _ZERO_DIGIT)
        i += 1
    if i == begin or (data[begin] == _ZERO_DIGIT and i > begin + 1):
        return _FAILED, digits, count, power, whole
    if i < end and data[i] == _DOT:
        whole = False
        i += 1
        begin = i
        while i < end and _ZERO_DIGIT <= data[i] <= _NINE_DIGIT:
            if count > 0 or data[i] != _ZERO_DIGIT:
                count += 1
                if count <= _MOST_DIGITS:
                    digits = digits * 10 + np.int64(data[i] - _ZERO_DIGIT)
            power -= 1
            i += 1
        if i == begin:
            return _FAILED, digits, count, power, whole
    if i < end and (data[i] == _SMALL_E or data[i] == _LARGE_E):
        whole = False
        i += 1
        sign = 1
        if i < end and (data[i] == _MINUS or data[i] == _PLUS):
            sign = -1 if data[i] == _MINUS else 1
            i += 1
        begin, exponent = i, 0
        while i < end and _ZERO_DIGIT <= data[i] <= _NINE_DIGIT:
            if exponent < _LARGEST_EXPONENT:
                exponent = exponent * 10 + int(data[i] - _ZERO_DIGIT)
            i += 1
        if i == begin:
            return _FAILED, digits, count, power, whole
        power += sign * exponent
    return i, digits, count, power, whole


@kernel
def _literal(data, i, end):  # type: ignore[no-untyped-def]
    """The end of ``true``, ``false`` or ``null``, or ``_FAILED``; and whether it was ``null``."""
    if i + 4 <= end:
        a, b, c, d = data[i], data[i + 1], data[i + 2], data[i + 3]
        if a == 110 and b == 117 and c == 108 and d == 108:  # null
            return i + 4, True
        if a == 116 and b == 114 and c == 117 and d == 101:  # true
            return i + 4, False
        if i + 5 <= end and a == 102 and b == 97 and c == 108 and d == 115 and data[i + 4] == 101:  # false
            return i + 5, False
    return _FAILED, False


@kernel
def _named(data, begin, end, names, bounds):  # type: ignore[no-untyped-def]
    """Which of ``names`` stands there; -1 where none does."""
    for at in range(len(bounds) - 1):
        if _is(data, begin, end, names, bounds[at], bounds[at + 1]):
            return at
    return -1


@kernel
def _context(data, i, end, most, names, bounds, columns, row, keys):  # type: ignore[no-untyped-def]
    """A flat object of texts: its end or ``_FAILED``; those of ``names`` go into ``keys``."""
    for column in columns:
        keys[row, column] = _NO_KEY
    i = _space(data, i + 1, end)
    if i < end and data[i] == _CLOSE:
        return i + 1
    while True:
        closing, _ = _text(data, i, end)
        if closing < 0:
            return _FAILED
        at = _named(data, i + 1, closing, names, bounds)
        i = _space(data, closing + 1, end)
        if i >= end or data[i] != _COLON:
            return _FAILED
        i = _space(data, i + 1, end)
        closing, characters = _text(data, i, end)
        if closing < 0 or characters > most:
            return _FAILED
        if at >= 0:
            keys[row, columns[at]] = hash_bytes(data, i + 1, closing)
        i = _space(data, closing + 1, end)
        if i < end and data[i] == _CLOSE:
            return i + 1
        if i >= end or data[i] != _COMMA:
            return _FAILED
        i = _space(data, i + 1, end)


@kernel
def _again(data, i, end, one):  # type: ignore[no-untyped-def]
    """Whether a field's name with its quotes and colon stands at ``i`` that stood at ``one[_AT]`` before."""
    at, size = one[_AT], one[_SIZE]
    if size == 0 or i + size > end:
        return False
    # Without a way out amid the loop, several bytes are compared at once.
    differing = data[i] ^ data[at]
    for k in range(1, size):
        differing |= data[i + k] ^ data[at + k]
    return differing == 0


@kernel
def read_records(  # type: ignore[no-untyped-def]
    data, ends, names, bounds, places, factor, table, required, contexts, context_bounds, context_columns,
    choices, choice_bounds, powers, taken, times, keys, numbers, codes, spans, later,
):  # fmt: skip
    """Read every record; returns how many numbers are left for a closer look, in ``later``."""
    waiting, begin = 0, 0
    # A producer writes its fields in one order: each name is compared with the last one in its place first.
    expected = np.zeros((2 * (len(bounds) - 1), 3), dtype=np.int64)
    for row in range(len(ends)):
        end = ends[row]
        i = _space(data, begin, end)
        begin = end
        if i >= end or data[i] != _OPEN:
            continue
        given, before, place = 0, waiting, -1
        i = _space(data, i + 1, end)
        good = False
        while True:
            place += 1
            if place < len(expected) and _again(data, i, end, expected[place]):
                f = expected[place, _FIELD]
                i = _space(data, i + expected[place, _SIZE], end)
            else:
                closing, _ = _text(data, i, end)
                if closing < 0:
                    break
                f = -1
                size = closing - i - 1
                if 0 < size < len(places):
                    f = places[size, (factor * np.int64(data[i + 1]) + np.int64(data[closing - 1])) % LETTERS]
                    if f >= 0 and not _is(data, i + 1, closing, names, bounds[f], bounds[f + 1]):
                        f = -1
                if closing + 1 < end and data[closing + 1] == _COLON and place < len(expected):
                    expected[place, _AT] = i
                    expected[place, _SIZE] = closing + 2 - i
                    expected[place, _FIELD] = f
                i = _space(data, closing + 1, end)
                if i >= end or data[i] != _COLON:
                    break
                i = _space(data, i + 1, end)
            if i >= end:
                break
            holds = -1
            if f >= 0:
                if given >> f & 1:
                    break  # twice
                given |= 1 << f
                holds = table[f, _HOLDS]
            if data[i] == _QUOTE:
                closing, characters = _text(data, i, end)
                if closing < 0:
                    break
                if holds == TEXT:
                    if characters < table[f, _LEAST] or characters > table[f, _MOST]:
                        break
                    if table[f, _COLUMN] >= 0:
                        keys[row, table[f, _COLUMN]] = hash_bytes(data, i + 1, closing)
                    if table[f, _SPAN] >= 0:
                        spans[row, table[f, _SPAN], 0] = i + 1
                        spans[row, table[f, _SPAN], 1] = closing
                elif holds == ACTION:
                    at = _named(data, i + 1, closing, choices, choice_bounds)
                    if at < 0:
                        break
                    codes[row] = at
                elif holds != -1:
                    break
                i = closing + 1
            elif _ZERO_DIGIT <= data[i] <= _NINE_DIGIT:
                first = i
                i, digits, count, power, whole = _number(data, i, end)
                if i < 0:
                    break
                if holds in (WHOLE, TIME):
                    if not whole or count > _MOST_DIGITS:
                        break
                    if digits < table[f, _LEAST] or digits > table[f, _MOST]:
                        break
                    if holds == TIME:
                        times[row] = digits
                    elif table[f, _COLUMN] >= 0:
                        numbers[row, table[f, _COLUMN]] = float(digits)
                elif holds == NUMBER:
                    if count <= _EXACT_DIGITS and -_EXACT_POWER <= power <= _EXACT_POWER:
                        value = float(digits)
                        value = value * powers[power] if power >= 0 else value / powers[-power]
                        if value > table[f, _MOST]:
                            break
                        if table[f, _COLUMN] >= 0:
                            numbers[row, table[f, _COLUMN]] = value
                    elif waiting == len(later):
                        break
                    else:
                        later[waiting, 0], later[waiting, 1] = row, table[f, _COLUMN]
                        later[waiting, 2], later[waiting, 3] = first, i
                        later[waiting, 4] = table[f, _MOST]
                        waiting += 1
                elif holds != -1:
                    break
            elif data[i] == _OPEN:
                if holds != CONTEXT_OBJECT:
                    break
                i = _context(
                    data, i, end, table[f, _MOST], contexts, context_bounds, context_columns, row, keys
                )
                if i < 0:
                    break
            else:
                i, null = _literal(data, i, end)
                if i < 0:
                    break
                if holds != -1:
                    if not null or not table[f, _NULLABLE]:
                        break
                    if holds == NUMBER and table[f, _COLUMN] >= 0:
                        numbers[row, table[f, _COLUMN]] = np.nan
                    if holds == CONTEXT_OBJECT:
                        for column in context_columns:
                            keys[row, column] = _NO_KEY
            i = _space(data, i, end)
            if i < end and data[i] == _COMMA:
                i = _space(data, i + 1, end)
                continue
            good = i < end and data[i] == _CLOSE and _space(data, i + 1, end) == end
            break
        taken[row] = good and given & required == required
        if not taken[row]:
            waiting = before
    return waiting
