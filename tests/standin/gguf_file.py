"""Reads the head of a model's file, its metadata and table of tensors, and changes it (GGUF 3, ggml's docs/gguf.md)."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORMATS = {
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
_STRING, _ARRAY, _FLOAT32, _UINT32 = 8, 9, 6, 4
_ALIGNMENT = 32
_TEMPLATE_KEY = "tokenizer.chat_template"
_TENSOR_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    30: "BF16",
}
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    12: "Q3_K_M",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
}


@dataclass(frozen=True)
class GgufHead:
    """What a file says of its model."""

    metadata: dict[str, Any] = field(repr=False)
    tensors: tuple[dict[str, Any], ...] = field(repr=False)
    """Each with ``name``, ``type`` and ``shape``."""

    @property
    def architecture(self) -> str:
        """The family of models, for which its keys are named."""
        return str(self.metadata["general.architecture"])

    @property
    def trained_tokens(self) -> int:
        """The longest context that the model was trained for; 0 where it is not said."""
        return int(self.metadata.get(f"{self.architecture}.context_length", 0))

    @property
    def embedding_length(self) -> int:
        """The width of the model."""
        return int(self.metadata.get(f"{self.architecture}.embedding_length", 0))

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return sum(prod(tensor["shape"]) for tensor in self.tensors)

    @property
    def quantisation(self) -> str:
        """The name of the type that most weights have."""
        return _FILE_TYPES.get(self.metadata.get("general.file_type", -1), "unknown")

    @property
    def chat_template(self) -> str:
        """The Jinja template in the file; "" where it has none."""
        return str(self.metadata.get(_TEMPLATE_KEY, ""))

    @property
    def adds_bos(self) -> bool:
        """Whether a token is put before each text (``tokenizerAddsBOS`` of llm/llama_server.go)."""
        return self.metadata.get("tokenizer.ggml.add_bos_token") is True


@dataclass(frozen=True)
class _Tensor:
    entry: bytes
    """In the table, but for the offset."""
    described: dict[str, Any]
    content: bytes

    @property
    def layer(self) -> int:
        """The layer that it belongs to; -1 for none."""
        name: str = self.described["name"]
        return int(name.split(".")[1]) if name.startswith("blk.") else -1


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        if data[:4] != b"GGUF":
            raise ValueError("invalid file magic")
        self._data = data
        self._at = 4
        self.version, self.tensor_count, self.pair_count = (self.number(code) for code in "IQQ")

    def pairs(self) -> Iterator[tuple[str, Any, bytes]]:
        """Key, value, and the bytes of both."""
        for _ in range(self.pair_count):
            begin = self._at
            key = self.string()
            value = self.value(self.number("I"))
            yield key, value, self._data[begin : self._at]

    def tensors(self) -> list[_Tensor]:
        """The table, in the order of the data, which lie behind it."""
        entries = []
        for _ in range(self.tensor_count):
            begin = self._at
            described = self._tensor()
            entry = self._data[begin : self._at]
            entries.append((self.number("Q"), entry, described))
        base = _aligned(self._at)
        entries.sort(key=lambda one: one[0])
        ends = [*(offset for offset, _, _ in entries[1:]), len(self._data) - base]
        return [
            _Tensor(entry, described, self._data[base + offset : base + end])
            for (offset, entry, described), end in zip(entries, ends, strict=True)
        ]

    def table(self) -> list[dict[str, Any]]:
        """The tensors in the order of the table, without their data."""
        found = []
        for _ in range(self.tensor_count):
            found.append(self._tensor())
            self.number("Q")
        return found

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(code)
        return value

    def string(self) -> str:
        (length,) = struct.unpack_from("<Q", self._data, self._at)
        self._at += 8 + length
        return self._data[self._at - length : self._at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            of, count = self.number("I"), self.number("Q")
            if of in (_STRING, _ARRAY):
                return [self.value(of) for _ in range(count)]
            values = struct.unpack_from(f"<{count}{_FORMATS[of]}", self._data, self._at)
            self._at += count * struct.calcsize(_FORMATS[of])
            return list(values)
        number = self.number(_FORMATS[kind])
        return _short(number) if kind == _FLOAT32 else number

    def _tensor(self) -> dict[str, Any]:
        """An entry but for its offset."""
        name, dimensions = self.string(), self.number("I")
        shape = [self.number("Q") for _ in range(dimensions)]
        kind = self.number("I")
        return {"name": name, "type": _TENSOR_TYPES.get(kind, f"unknown {kind}"), "shape": shape}


@lru_cache(maxsize=16)
def read_head(path: Path) -> GgufHead:
    """Read a file's head once. Raises ``OSError``, or ``ValueError`` for a file of another kind."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        metadata = {key: value for key, value, _ in reader.pairs()}
        return GgufHead(metadata, tuple(reader.table()))


def rewritten(
    path: Path,
    *,
    template: str | None = None,
    layers: int | None = None,
    trained_tokens: int | None = None,
) -> bytes:
    """A file's content with another template in Jinja, its first layers alone, or trained for another window.

    Raises as `read_head`.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        pairs = []
        for key, _, content in reader.pairs():
            if layers is not None and key.endswith(".block_count"):
                pairs.append(_text(key) + struct.pack("<II", _UINT32, layers))
            elif trained_tokens is not None and key.endswith(".context_length"):
                pairs.append(_text(key) + struct.pack("<II", _UINT32, trained_tokens))
            elif template is None or key != _TEMPLATE_KEY:
                pairs.append(content)
        if template is not None:
            pairs.append(_text(_TEMPLATE_KEY) + struct.pack("<I", _STRING) + _text(template))
        kept = [one for one in reader.tensors() if layers is None or one.layer < layers]
    table, contents, size = [], [], 0
    for tensor in kept:
        table.append(tensor.entry + struct.pack("<Q", size))
        contents.append(tensor.content.ljust(_aligned(len(tensor.content)), b"\0"))
        size += len(contents[-1])
    counts = struct.pack("<IQQ", reader.version, len(kept), len(pairs))
    head = b"".join([b"GGUF", counts, *pairs, *table])
    return b"".join([head.ljust(_aligned(len(head)), b"\0"), *contents])


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _short(number: float) -> float:
    """The shortest number that is the same in 32 bits, as Go writes it."""
    packed = struct.pack("<f", number)
    for digits in range(6, 9):
        short = float(f"{number:.{digits}g}")
        if struct.pack("<f", short) == packed:
            return int(short) if short.is_integer() else short
    return number
