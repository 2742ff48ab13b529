"""Builds dataclasses from decoded JSON, strictly, and cuts streams of bytes into lines.

Fields are checked against the types of the dataclasses: no coercion, no unknown field, no missing one without a
default. A union of dataclasses needs no tag, as no two of ours have the same fields.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Final, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

MAX_LINE_BYTES: Final = 8 * 1024 * 1024


class WireError(ValueError):
    """A line that cannot be decoded; the message is a short reason without the line's content."""


def build(kind: Any, raw: object) -> Any:
    """Build a value of the type ``kind`` from decoded JSON. Raises ``WireError`` where it does not fit."""
    match get_origin(kind):
        case None if is_dataclass(kind):
            return _build_dataclass(kind, raw)
        case None if kind is float:
            return _build_float(raw)
        case origin if origin is Literal and any(
            type(raw) is type(literal) and raw == literal for literal in get_args(kind)
        ):
            return raw
        case None if type(raw) is kind:  # not isinstance: True is no number here
            return raw
        case origin if origin is tuple and isinstance(raw, list):
            return tuple(build(get_args(kind)[0], item) for item in raw)
        case origin if origin is dict and isinstance(raw, dict):
            return {key: build(get_args(kind)[1], item) for key, item in raw.items()}
        case origin if origin in (UnionType, Union):
            for member in get_args(kind):
                with suppress(WireError):
                    return build(member, raw)
            raise WireError(f"{type(raw).__name__} fits no type of a union")
    raise WireError(f"{type(raw).__name__} where {kind} belongs")


def _build_dataclass(kind: Any, raw: object) -> object:
    if not isinstance(raw, dict):
        raise WireError(f"{type(raw).__name__} where {kind.__name__} belongs")
    types, required = _shape(kind)
    if not required <= raw.keys() <= types.keys():
        raise WireError(f"wrong fields for {kind.__name__}")
    return kind(**{name: build(types[name], item) for name, item in raw.items()})


@cache
def _shape(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return a dataclass's fields with their types, and the names of those without a default."""
    required = (
        entry.name
        for entry in fields(kind)
        if entry.default is MISSING and entry.default_factory is MISSING
    )
    return get_type_hints(kind), frozenset(required)


def _build_float(raw: object) -> float:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise WireError(f"{type(raw).__name__} where a number belongs")
    with suppress(OverflowError):
        number = float(raw)
        if math.isfinite(number):
            return number
    raise WireError("a number beyond all bounds")


class LineSplitter:
    """Cuts a stream of bytes into lines, without their newlines, however the bytes were chunked."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._partial = bytearray()

    def feed(self, chunk: bytes) -> tuple[bytes, ...]:
        """Return the lines that ``chunk`` ends, in order; the rest is kept for the next chunk.

        Raises:
            WireError: a line is longer than the bound. The kept bytes are dropped.
        """
        *ended, rest = chunk.split(b"\n")
        if not ended:
            self._keep(rest)
            return ()
        self._keep(ended[0])
        lines = (bytes(self._partial), *ended[1:])
        self._partial.clear()
        self._keep(rest)
        if max(map(len, lines)) > self._max_line_bytes:
            self._refuse()
        return lines

    def _keep(self, piece: bytes) -> None:
        self._partial += piece
        if len(self._partial) > self._max_line_bytes:
            self._refuse()

    def _refuse(self) -> NoReturn:
        self._partial.clear()
        raise WireError(f"a line of more than {self._max_line_bytes} bytes")
