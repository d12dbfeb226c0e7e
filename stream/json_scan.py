"""JSON records of one kind of event straight to columns, without a Python object an event.

The scanner takes what it is sure of and leaves the rest: a record with an escape in a text, a nested value
that nothing asks for, a wrong or a missing field is decoded by msgspec, which also says what is wrong with
it. What both take, both read alike: the contract of events stays the one place that says what is allowed, and
bounds and names are taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.events import ACTIONS, EVENTS
from features.compiled import kernel
from features.events import IntArray
from features.hashing import FNV_OFFSET, FNV_PRIME, Keys, hash_numbers, mixed
from features.scope import CONTEXT
from stream.event_columns import Columns, Layout, type_keys

BoolArray = npt.NDArray[np.bool_]

#: What a field holds: a text, a number (``_WHOLE`` ones are integers), one of the actions, a flat object of
#: texts, or something that only ``null`` is taken of.
_TEXT, _NUMBER, _WHOLE, _TIME, _ACTION, _CONTEXT, _NULL = range(7)
#: Texts whose place in the record is told: ids that are kept as texts, and names for people.
ID_SPAN, ITEM_SPAN = 0, 1
_SPANS = {"impression_id": ID_SPAN, "item_id": ITEM_SPAN}
_FIELD_OF_CODE = "type"
#: Decimal digits of a whole number that a float64 always holds, and powers of ten that it holds exactly: a
#: quotient or product of two such numbers is the right one (Clinger, "How to read floating point numbers
#: accurately", PLDI 1990).
_EXACT_DIGITS, _EXACT_POWER = 15, 22
#: Columns of the table in which fields are found by their names.
_LETTERS = 64
_POWERS = 10.0 ** np.arange(_EXACT_POWER + 1)


class Scanned(NamedTuple):
    """``taken`` (n,): the records that were read; the others' rows mean nothing. ``times`` (n,) ms UTC.

    ``columns``: all but ``ids`` are filled. ``spans`` (n, 2, 2): where texts of ``_SPANS`` begin and end.
    """

    taken: BoolArray
    times: IntArray
    columns: Columns
    spans: IntArray


class Scanner:
    """Reads records of the kind of ``layout``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        kind = EVENTS[layout.kind]
        fields = [_Field.of(one, layout) for one in msgspec.inspect.type_info(kind).fields]  # type: ignore[attr-defined]
        self._names = _texts([field.name for field in fields])
        self._table = np.array(
            [(f.holds, f.column, f.span, f.least, f.most, f.nullable) for f in fields], dtype=np.int64
        )
        self._places = _places([field.name for field in fields])
        self._required = sum(1 << k for k, field in enumerate(fields) if field.required)
        #: What a missing field is: an amount that is not known, and every other number zero.
        self._missing = np.zeros(len(layout.numbers))
        self._missing[[f.column for f in fields if f.holds == _NUMBER and f.nullable]] = np.nan
        wanted = [name for name in layout.keys if name.startswith(CONTEXT)]
        # What was searched stands in an impression's context.
        own = {field.name for field in fields}
        wanted += ["query"] if "query" in layout.keys and "query" not in own else []
        self._contexts = _texts([name.removeprefix(CONTEXT) for name in wanted])
        self._context_columns = np.array([layout.keys.index(name) for name in wanted], dtype=np.int64)
        self._choices = _texts(ACTIONS)
        self._place = layout.keys.index("position") if "position" in layout.keys and layout.kind == 0 else -1
        self._types = type_keys(layout) if _FIELD_OF_CODE in own else None

    def scan(self, data: bytes, ends: IntArray) -> Scanned:
        """``data``: the records one behind the other, ``ends`` (n,) where each ends."""
        n, layout = len(ends), self._layout
        keys = np.zeros((n, len(layout.keys) + 1), dtype=np.uint64)
        numbers = np.tile(self._missing, (n, 1))
        times, codes = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int16)
        spans = np.zeros((n, len(_SPANS), 2), dtype=np.int64)
        taken = np.zeros(n, dtype=np.bool_)
        later = np.empty((n * (numbers.shape[1] + 1), 5), dtype=np.int64)
        with np.errstate(over="ignore"):
            count = _scan(
                np.frombuffer(data, dtype=np.uint8),
                ends,
                *self._names,
                *self._places,
                self._table,
                self._required,
                *self._contexts,
                self._context_columns,
                *self._choices,
                _POWERS,
                taken,
                times,
                keys,
                numbers,
                codes,
                spans,
                later,
            )
        for row, column, begin, end, most in later[:count].tolist():
            numbers[row, column] = value = float(data[begin:end])
            taken[row] &= 0.0 <= value <= most
        if self._place >= 0:
            keys[:, self._place] = hash_numbers(numbers[:, 0].astype(np.int64))
        if self._types is not None:
            codes = self._codes(keys[:, -1])
        columns = Columns(np.empty(0, dtype=object), keys[:, :-1], numbers, codes)
        return Scanned(taken, times, columns, spans)

    def _codes(self, types: Keys) -> npt.NDArray[np.int16]:
        """The codes of the keys of a behaviour's types."""
        assert self._types is not None
        known, numbers = self._types
        at = np.minimum(np.searchsorted(known, types), len(known) - 1)
        other = np.int16(max(self._layout.types.values()))
        codes: npt.NDArray[np.int16] = np.where(known[at] == types, numbers[at], other)
        return codes


class _Field(NamedTuple):
    """A field of the contract as the scanner knows it. ``column``, ``span``: where it goes, -1 for nowhere.

    ``least`` and ``most``: characters of a text, or the bounds of a number.
    """

    name: str
    holds: int
    column: int
    span: int
    least: int
    most: int
    nullable: bool
    required: bool

    @classmethod
    def of(cls, field: Any, layout: Layout) -> _Field:
        """From what msgspec knows of it. Raises ``TypeError`` for a type that the scanner does not know."""
        kinds, name = msgspec.inspect, field.encode_name
        nullable = isinstance(field.type, kinds.UnionType)
        given = field.type.types[0] if nullable else field.type
        least: int = int(getattr(given, "ge", None) or 0)
        most: int = int(getattr(given, "le", None) or 0)
        column = layout.numbers.index(name) if name in layout.numbers else -1
        if isinstance(given, kinds.StrType):
            holds, least, most = _TEXT, int(given.min_length or 0), int(given.max_length or 0)
            column = layout.keys.index(name) if name in layout.keys else -1
            if name == _FIELD_OF_CODE:
                column = len(layout.keys)
        elif isinstance(given, kinds.IntType):
            holds = _TIME if name == "event_time" else _WHOLE
        elif isinstance(given, kinds.FloatType):
            holds = _NUMBER
        elif isinstance(given, kinds.LiteralType) and set(given.values) == set(ACTIONS):
            holds = _ACTION
        elif isinstance(given, kinds.DictType) and isinstance(given.value_type, kinds.StrType):
            holds, most = _CONTEXT, int(given.value_type.max_length or 0)
        elif nullable:
            holds = _NULL
        else:
            raise TypeError(f"the field {name} of an event has a type that the scanner does not know")
        span = _SPANS.get(name, -1)
        return cls(name, holds, column, span, least, most, nullable, field.required)


def _texts(names: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Names one behind the other, and where each ends."""
    encoded = [name.encode() for name in names]
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum(
        [0, *map(len, encoded)], dtype=np.int64
    )


def _places(names: Sequence[str]) -> tuple[npt.NDArray[np.int64], int]:
    """Numbers of names by their length and their first and last letter, -1 for none; and the factor of the
    first letter with which all names are told apart."""
    for factor in range(1, _LETTERS):
        places = np.full((max(map(len, names)) + 1, _LETTERS), -1, dtype=np.int64)
        for number, name in enumerate(names):
            places[len(name), (factor * ord(name[0]) + ord(name[-1])) % _LETTERS] = number
        if np.count_nonzero(places >= 0) == len(names):
            return places, factor
    raise ValueError(f"not all of these are told apart: {', '.join(names)}")


_HOLDS, _COLUMN, _SPAN, _LEAST, _MOST, _NULLABLE = range(6)
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
def _key(data, begin, end):  # type: ignore[no-untyped-def]
    """What ``features.hashing.hash_texts`` gives for these bytes."""
    if begin == end:
        return _NO_KEY
    x = FNV_OFFSET
    for k in range(begin, end):
        x = (x ^ np.uint64(data[k])) * FNV_PRIME
    return mixed(x)


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
            keys[row, columns[at]] = _key(data, i + 1, closing)
        i = _space(data, closing + 1, end)
        if i < end and data[i] == _CLOSE:
            return i + 1
        if i >= end or data[i] != _COMMA:
            return _FAILED
        i = _space(data, i + 1, end)


@kernel
def _scan(  # type: ignore[no-untyped-def]
    data, ends, names, bounds, places, factor, table, required, contexts, context_bounds, context_columns,
    choices, choice_bounds, powers, taken, times, keys, numbers, codes, spans, later,
):  # fmt: skip
    """Read every record; returns how many numbers are left for a closer look, in ``later``."""
    waiting, begin = 0, 0
    for row in range(len(ends)):
        end = ends[row]
        i = _space(data, begin, end)
        begin = end
        if i >= end or data[i] != _OPEN:
            continue
        given, before = 0, waiting
        i = _space(data, i + 1, end)
        good = False
        while True:
            closing, _ = _text(data, i, end)
            if closing < 0:
                break
            f = -1
            size = closing - i - 1
            if 0 < size < len(places):
                f = places[size, (factor * np.int64(data[i + 1]) + np.int64(data[closing - 1])) % _LETTERS]
                if f >= 0 and not _is(data, i + 1, closing, names, bounds[f], bounds[f + 1]):
                    f = -1
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
                if holds == _TEXT:
                    if characters < table[f, _LEAST] or characters > table[f, _MOST]:
                        break
                    if table[f, _COLUMN] >= 0:
                        keys[row, table[f, _COLUMN]] = _key(data, i + 1, closing)
                    if table[f, _SPAN] >= 0:
                        spans[row, table[f, _SPAN], 0] = i + 1
                        spans[row, table[f, _SPAN], 1] = closing
                elif holds == _ACTION:
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
                if holds in (_WHOLE, _TIME):
                    if not whole or count > _MOST_DIGITS:
                        break
                    if digits < table[f, _LEAST] or digits > table[f, _MOST]:
                        break
                    if holds == _TIME:
                        times[row] = digits
                    elif table[f, _COLUMN] >= 0:
                        numbers[row, table[f, _COLUMN]] = float(digits)
                elif holds == _NUMBER:
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
                if holds != _CONTEXT:
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
                    if holds == _NUMBER and table[f, _COLUMN] >= 0:
                        numbers[row, table[f, _COLUMN]] = np.nan
                    if holds == _CONTEXT:
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
