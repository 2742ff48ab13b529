"""Reads the header of a GGUF file in the form of a ``/api/show`` answer, so that a model can be asked about before it
is installed. Only the header is read, of a file that need not be complete.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Its own package (``gguf`` 0.19) is not
used: it needs numpy, the whole file, 46 s and 841 MiB for the header of a model with 248,320 tokens.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from aider_guard.core.architecture import TENSOR_TYPES, Architecture, parse_architecture
from aider_guard.core.readings import Unavailable

_SCALARS: Final = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""The formats of the types of numbers, by their numbers in a file."""
_STRING: Final = 8
_ARRAY: Final = 9

_MOST_KEPT: Final = 10_000
"""Longer lists are those of a vocabulary, and are skipped."""
_MOST_TEXT_BYTES: Final = 1 << 24
_MOST_ENTRIES: Final = 1 << 24
_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)


@dataclass(frozen=True)
class GgufModel:
    """A model in a file: the bytes of the file with those of its other parts, and the numbers that its memory needs."""

    size_bytes: int
    architecture: Architecture


class _NoGgufError(ValueError):
    """The file is no GGUF file that can be read; the message says why."""


def read_gguf(path: Path) -> GgufModel | Unavailable:
    """Read a model's size and architecture from its file; of a model in parts, from the first one.

    Unavailable where there is no such file, where it is none of this format, or where a part is missing.
    """
    try:
        paths = list(_parts(path))
        with paths[0].open("rb", buffering=1 << 20) as file:
            facts, tensors = _Header(file).read()
        size = sum(part.stat().st_size for part in paths)
    except OSError as error:
        return Unavailable(f"{path} cannot be read: {error.strerror or error}")
    except _NoGgufError as problem:
        return Unavailable(f"{path} {problem}")
    architecture = parse_architecture(facts, tensors)
    if isinstance(architecture, Unavailable):
        reason = architecture.reason.replace("Ollama does not tell", "its header does not tell")
        return Unavailable(f"{path} is no language model whose memory can be computed: {reason}")
    return GgufModel(size, architecture)


def _parts(path: Path) -> Iterator[Path]:
    """The file and, when its name says that it is a part, all others, the first one first."""
    match = _PART.search(path.name)
    if match is None or not 0 < int(match[2]) <= 999:
        yield path
        return
    for number in range(1, int(match[2]) + 1):
        part = path.with_name(_PART.sub(f"-{number:05}-of-{match[2]}", path.name))
        if not part.exists():
            raise _NoGgufError(f"is a part of a model, and {part.name} is not beside it")
        yield part


class _Header:
    """Reads the numbers and texts of one header in their order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._order = "<"
        self._size = os.fstat(file.fileno()).st_size

    def read(self) -> tuple[dict[str, object], list[dict[str, Any]]]:
        """Return the keys with their values, lists of a vocabulary as None, and the tensors.

        Raises:
            _NoGgufError: it is no header of version 2 or later, or it ends early.
        """
        if self._file.read(4) != b"GGUF":
            raise _NoGgufError("is no GGUF file")
        version = self._number("I")
        if version > 0xFFFF:  # written on a machine with the other byte order
            self._order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise _NoGgufError(f"is a GGUF file of version {version}, and 2 and 3 can be read")
        tensors, keys = self._count(), self._count()
        facts = {self._text(): self._value(self._number("I")) for _ in range(keys)}
        return facts, [self._tensor() for _ in range(tensors)]

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise _NoGgufError("ends in the middle of its header: it is not complete")
        return data

    def _number(self, kind: str) -> Any:
        layout = struct.Struct(self._order + kind)
        return layout.unpack(self._bytes(layout.size))[0]

    def _count(self) -> int:
        count: int = self._number("Q")
        if count > _MOST_ENTRIES:
            raise _NoGgufError("is damaged: its header has a list of more entries than any model")
        return count

    def _text(self) -> str:
        length: int = self._number("Q")
        if length > _MOST_TEXT_BYTES:
            raise _NoGgufError("is damaged: its header has a text longer than any model's")
        return self._bytes(length).decode("utf-8", "replace")

    def _value(self, kind: int) -> object:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._list(self._number("I"), self._count())
        return self._number(self._format(kind))

    def _list(self, kind: int, count: int) -> list[object] | None:
        if kind == _STRING:
            self._skip_texts(count)
            return None
        if kind == _ARRAY:
            for _ in range(count):
                self._value(_ARRAY)
            return None
        layout = struct.Struct(f"{self._order}{count}{self._format(kind)}")
        if count > _MOST_KEPT:
            self._skip(layout.size)
            return None
        return list(layout.unpack(self._bytes(layout.size)))

    def _skip_texts(self, count: int) -> None:
        """Skip the texts of a vocabulary, which are half a million: each is read, which is quicker than a seek."""
        length = struct.Struct(self._order + "Q")
        for _ in range(count):
            (size,) = length.unpack(self._bytes(8))
            if size > _MOST_TEXT_BYTES:
                raise _NoGgufError("is damaged: its header has a text longer than any model's")
            self._bytes(size)

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            self._bytes(self._size + 1)
        self._file.seek(count, os.SEEK_CUR)

    def _format(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise _NoGgufError(f"is damaged: its header has a value of the unknown type {kind}")
        return _SCALARS[kind]

    def _tensor(self) -> dict[str, Any]:
        """One tensor, as ``/api/show`` has it."""
        name, dimensions = self._text(), self._number("I")
        if dimensions > 8:
            raise _NoGgufError(f"is damaged: a tensor of its header has {dimensions} dimensions")
        shape = [self._number("Q") for _ in range(dimensions)]
        kind, _offset = self._number("I"), self._number("Q")
        return {"name": name, "type": TENSOR_TYPES.get(kind, ("", 1, 0))[0], "shape": shape}
