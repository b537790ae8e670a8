"""Reads what another machine wrote, as data. A dataclass says what is taken, by the types of its members.

Types are checked, texts are cut and have no control characters, lists end, and what is wrong is left out. In a type
`Annotated[str, 40]` is a text of at most 40 characters, `Annotated[tuple[X, ...], 40]` a list of at most 40 items (-40: the last
ones), `Annotated[int, (0, 9)]` a number from 0 on and below 9, and `Paragraph` a text that may have several lines.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

MAX_TEXT: Final = 2_000
MAX_ITEMS: Final = 1_024
LINES: Final = "lines"
WRONG: Final = object()

Paragraph = Annotated[str, LINES]
T = TypeVar("T")


def plain(value: object, limit: int = MAX_TEXT) -> str:
    """The text without control characters (a tab becomes a space), cut to `limit`."""
    text = str(value)[:limit].replace("\t", "    ")
    return "".join(char for char in text if unicodedata.category(char)[0] != "C" or char == "\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """How strangers are read, where a type says nothing else."""

    text: int = MAX_TEXT  # characters
    items: int = MAX_ITEMS  # of a list or an object
    loose: bool = False  # as PowerShell writes: a lone value is a list of one, texts may have blanks around them
    strict: bool = False  # what is wrong raises ValueError

    def read(self, cls: type[T], values: object) -> T:
        """The dataclass. Raises TypeError for what is no object, or where a member without default is missing or wrong."""
        return cls(**self.members(cls, values))

    def read_or_none(self, cls: type[T], values: object) -> T | None:
        """The same; None in place of these errors."""
        try:
            return self.read(cls, values)
        except (ValueError, TypeError, RecursionError):
            return None

    def members(self, cls: type, values: object) -> dict[str, Any]:
        """Those members of a JSON object that the dataclass has, if they are right."""
        if not isinstance(values, Mapping):
            raise TypeError(f"expected an object, got {type(values).__name__}")
        found = {name: self._value(kind, values[name]) for name, kind in _kinds(cls).items() if name in values}
        return {name: value for name, value in found.items() if value is not WRONG}

    def _value(self, kind: Any, value: object) -> Any:
        """The value as that type has it, else WRONG."""
        marks: list[Any] = []
        if typing.get_origin(kind) is Annotated:
            kind, *marks = typing.get_args(kind)
        outer, inner = typing.get_origin(kind), typing.get_args(kind)
        if outer in (typing.Union, types.UnionType):
            return None if value is None else self._value(inner[0], value)
        if outer is tuple:
            found = self._tuple(inner, value, marks)
        elif outer is Mapping:
            found = self._mapping(inner, value, marks)
        elif kind is str:
            found = self._text(value, marks)
        elif kind in (bool, int, float):
            found = _number(kind, value, marks)
        else:
            found = self.read(kind, value) if isinstance(value, Mapping) else WRONG
        if found is WRONG and self.strict:
            raise ValueError(f"expected {getattr(kind, '__name__', kind)}, got {plain(value, 40)}")
        return found

    def _text(self, value: object, marks: list[Any]) -> Any:
        if not isinstance(value, str):
            return WRONG
        text = plain(value, _most(marks, self.text))
        text = text if LINES in marks else text.replace("\n", " ")  # which would forge lines of ours
        return text.strip() if self.loose else text

    def _tuple(self, kinds: tuple[Any, ...], value: object, marks: list[Any]) -> Any:
        if not isinstance(value, list | tuple):
            if not self.loose or value is None:
                return WRONG
            value = [value]
        if kinds[-1] is not Ellipsis:
            found = [self._value(kind, each) for kind, each in zip(kinds, value, strict=False)]
            return tuple(found) if len(value) == len(kinds) and WRONG not in found else WRONG
        most = _most(marks, self.items)
        found = [self._value(kinds[0], each) for each in (value[:most] if most > 0 else value[most:])]
        return tuple(each for each in found if each is not WRONG)

    def _mapping(self, kinds: tuple[Any, ...], value: object, marks: list[Any]) -> Any:
        if not isinstance(value, Mapping):
            return WRONG
        pairs = list(value.items())[: _most(marks, self.items)]
        found = {self._value(kinds[0], name): self._value(kinds[1], each) for name, each in pairs}
        return {name: each for name, each in found.items() if name is not WRONG and each is not WRONG}


def _number(kind: Any, value: object, marks: list[Any]) -> Any:
    """A bool, int or float, finite and within its bounds."""
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else WRONG
    if not isinstance(value, int if kind is int else int | float):
        return WRONG
    least, most = next(
        (mark for mark in marks if isinstance(mark, tuple)), (-(2**63), 2**63) if kind is int else (-1e300, 1e300)
    )
    return kind(value) if least <= value < most else WRONG


def _most(marks: list[Any], usual: int) -> int:
    return next((mark for mark in marks if isinstance(mark, int)), usual)


@functools.cache
def _kinds(cls: type) -> dict[str, Any]:
    """Member -> its type."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {each.name: hints[each.name] for each in dataclasses.fields(cls)}
