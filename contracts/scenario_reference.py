"""The scenario's reference page, generated from its structs: ``python -m contracts.scenario_reference``.

A table of the file is a section: types, defaults and limits are those of the struct's fields. What a field
means is its annotation's ``description`` where it has one, else the sentences of the struct's docstring that
name it (in double backticks).
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.inspect import Field, ListType, Metadata, StructType, Type, UnionType

from contracts.scenario import NAME, Scenario

#: Patterns in words; another one is shown as it is.
_PATTERNS = {NAME: "letters, digits, `.`, `_` and `-`, at most 249 of them; not `.` or `..`"}
_BASIC = {"Any": "anything", "Bool": "true or false", "Float": "number", "Int": "whole number", "Str": "text"}

_HEAD = """\
# The scenario: every setting

Generated from the structs in `contracts/scenario.py`; do not edit this page, run
`python -m contracts.scenario_reference > docs/scenario.md`.

A scenario is one TOML file, named by `--scenario` or `SURGELINE_SCENARIO`. Everything has a default, and an
empty file is a scenario. An unknown or wrong field is refused with its name and what is allowed.
"""


def page() -> str:
    """The whole page: a section a table, and a file that says all defaults."""
    found = msgspec.inspect.type_info(Scenario)
    assert isinstance(found, StructType)
    defaults = toml(msgspec.to_builtins(Scenario())).strip()
    end = f"## All defaults as a file\n\n```toml\n{defaults}\n```\n"
    return "\n".join([_HEAD, *sections(found, ""), end])


def sections(struct: StructType, path: str, many: bool = False) -> Iterator[str]:
    """The section of a table and those of the tables in it; ``path``: its name in the file, "" at the top."""
    title = f"`{f'[[{path}]]' if many else f'[{path}]'}`" if path else "At the top"
    fields = [field for field in struct.fields if table_of(field.type) is None]
    intro, meanings = described(struct)
    often = "Any number of these tables, one after the other. " if many else ""
    text = f"## {title}\n\n{often}{intro}\n"
    if fields:
        rows = [
            f"| `{field.encode_name}` | {kind(field.type)} | {default(field)} | {limits(field.type)} | "
            f"{meanings.get(field.name, '')} |"
            for field in fields
        ]
        head = "| field | type | default | limits | meaning |\n|---|---|---|---|---|"
        text += "\n" + "\n".join([head, *rows, ""])
    yield text
    for field in struct.fields:
        if (inner := table_of(field.type)) is not None:
            where = f"{path}.{field.encode_name}" if path else field.encode_name
            yield from sections(inner[0], where, inner[1])


def described(struct: StructType) -> tuple[str, dict[str, str]]:
    """The docstring's sentences that name no field, and what each field means."""
    text = (inspect.getdoc(struct.cls) or "").partition(">>>")[0]
    sentences = re.split(r"(?<=[.?!])\s+(?=[A-Z`])", " ".join(text.split()))
    names = {field.name: rf"``{re.escape(field.encode_name)}``" for field in struct.fields}
    meanings: dict[str, list[str]] = {}
    intro = []
    for sentence in sentences:
        about = [name for name, mark in names.items() if re.search(mark, sentence)]
        for name in about:
            own = re.match(rf"{names[name]}: (.*)", sentence)
            words = own[1][0].upper() + own[1][1:] if own else sentence
            meanings.setdefault(name, []).append(_cell(words))
        if not about:
            intro.append(sentence.replace("``", "`"))
    told = {field.name: " ".join(meanings.get(field.name, [])) for field in struct.fields}
    annotated = {field.name: _description(field.type) for field in struct.fields}
    return " ".join(intro), {name: annotated[name] or text for name, text in told.items()}


def kind(of: Type) -> str:
    """A type in words."""
    of = _plain(of)
    if isinstance(of, UnionType):
        return " or ".join(kind(one) for one in of.types if not isinstance(one, msgspec.inspect.NoneType))
    if isinstance(of, msgspec.inspect.LiteralType):
        return "one of " + ", ".join(f"`{value}`" for value in of.values)
    if isinstance(of, ListType | msgspec.inspect.VarTupleType | msgspec.inspect.SetType):
        return f"list of {_many(kind(of.item_type))}"
    if isinstance(of, msgspec.inspect.TupleType):
        return "list of " + ", ".join(kind(one) for one in of.item_types)
    if isinstance(of, msgspec.inspect.DictType):
        return f"table of {_many(kind(of.value_type))}"
    if isinstance(of, StructType):
        return "table"
    name = type(of).__name__.removesuffix("Type")
    if name not in _BASIC:
        raise NotImplementedError(f"no words for {of}")
    return _BASIC[name]


def limits(of: Type) -> str:
    """What a value may be, in words; empty where its type says all."""
    of = _plain(of)
    if isinstance(of, UnionType):
        return "; ".join(text for one in of.types if (text := limits(one)))
    low, high = _bounds(of, ("ge", "gt"), "more than "), _bounds(of, ("le", "lt"), "less than ")
    parts = []
    if low and high and not (low + high).startswith(("more", "less")):
        parts.append(f"{low} to {high}")
    else:
        parts += [low if low.startswith("more") else f"at least {low}"] if low else []
        parts += [high if high.startswith("less") else f"at most {high}"] if high else []
    pattern = getattr(of, "pattern", None)
    if pattern is not None:
        parts.append(_PATTERNS.get(pattern, f"as `{_cell(pattern)}`"))
    shortest, longest = getattr(of, "min_length", None), getattr(of, "max_length", None)
    unit = "characters" if isinstance(of, msgspec.inspect.StrType) else "entries"
    if shortest is not None and longest is not None:
        parts.append(f"{shortest:,} to {longest:,} {unit}")
    elif shortest is not None or longest is not None:
        parts.append(f"at most {longest:,} {unit}" if shortest is None else f"at least {shortest:,} {unit}")
    if isinstance(of, ListType | msgspec.inspect.VarTupleType) and (each := limits(of.item_type)):
        parts.append(f"each {each}")
    return "; ".join(parts)


def default(field: Field) -> str:
    """The default as it would stand in the file."""
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is msgspec.NODEFAULT:
        return "required"
    return "none" if value is None else f"`{_cell(_value(msgspec.to_builtins(value)))}`"


def toml(table: Mapping[str, Any], path: str = "") -> str:
    """Builtins as a TOML file: values, then tables, then lists of tables."""
    plain = {k: v for k, v in table.items() if v is not None and not _is_table(v) and not _are_tables(v)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in table.items():
        where = f"{path}.{_key(key)}" if path else _key(key)
        if _is_table(value):
            text += f"\n[{where}]\n{toml(value, where)}"
        elif _are_tables(value):
            text += "".join(f"\n[[{where}]]\n{toml(one, where)}" for one in value)
    return text


def table_of(of: Type) -> tuple[StructType, bool] | None:
    """The struct that a field holds, and whether it holds a list of them; None for a value."""
    of = _plain(of)
    if isinstance(of, UnionType):
        held = [one for one in of.types if not isinstance(one, msgspec.inspect.NoneType)]
        return table_of(held[0]) if len(held) == 1 else None
    if isinstance(of, StructType):
        return of, False
    if isinstance(of, ListType | msgspec.inspect.VarTupleType):
        inner = _plain(of.item_type)
        return (inner, True) if isinstance(inner, StructType) else None
    return None


def _many(words: str) -> str:
    return f"{words}s" if words in ("number", "whole number", "text", "table") else words


def _plain(of: Type) -> Type:
    return _plain(of.type) if isinstance(of, Metadata) else of


def _description(of: Type) -> str:
    if not isinstance(of, Metadata):
        return ""
    told = (of.extra_json_schema or {}).get("description", "")
    return _cell(told) or _description(of.type)


def _bounds(of: Type, names: tuple[str, str], strictly: str) -> str:
    including, excluding = (getattr(of, name, None) for name in names)
    if including is not None:
        return _number(including)
    return f"{strictly}{_number(excluding)}" if excluding is not None else ""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.15g}"


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _are_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: object) -> str:
    """A TOML value: JSON's text for texts, numbers, truth and lists of them."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
