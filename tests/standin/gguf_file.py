"""Reads the head of a model's file: its metadata and its table of tensors (GGUF 3, ggml's docs/gguf.md)."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_STRING, _ARRAY, _FLOAT32 = 8, 9, 6
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
        return str(self.metadata.get("tokenizer.chat_template", ""))

    @property
    def adds_bos(self) -> bool:
        """Whether a token is put before each text (``tokenizerAddsBOS`` of llm/llama_server.go)."""
        return self.metadata.get("tokenizer.ggml.add_bos_token") is True


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

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

    def tensor(self) -> dict[str, Any]:
        name, dimensions = self.string(), self.number("I")
        shape = [self.number("Q") for _ in range(dimensions)]
        kind, _ = self.number("I"), self.number("Q")
        return {"name": name, "type": _TENSOR_TYPES.get(kind, f"unknown {kind}"), "shape": shape}


@lru_cache(maxsize=16)
def read_head(path: Path) -> GgufHead:
    """Read a file's head once. Raises ``OSError``, or ``ValueError`` for a file of another kind."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ValueError("invalid file magic")
        reader = _Reader(data)
        _version, tensors, pairs = (reader.number(code) for code in "IQQ")
        metadata = {reader.string(): reader.value(reader.number("I")) for _ in range(pairs)}
        return GgufHead(metadata, tuple(reader.tensor() for _ in range(tensors)))


def _short(number: float) -> float:
    """The shortest number that is the same in 32 bits, as Go writes it."""
    packed = struct.pack("<f", number)
    for digits in range(6, 9):
        short = float(f"{number:.{digits}g}")
        if struct.pack("<f", short) == packed:
            return int(short) if short.is_integer() else short
    return number
