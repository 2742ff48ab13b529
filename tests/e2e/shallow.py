"""A model of one layer: the small model without the others. It counts and cuts as the small one, and computes at once.

Ollama treats it as any model: vocabulary, template and window are the small model's. What it answers means nothing,
and does not end by itself. The file format is GGUF 3 (ggml's docs/gguf.md).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import httpx

from aider_guard.demo.layout import SMALL
from aider_guard.demo.llama_server import model_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aider_guard.demo.layout import Rig
    from aider_guard.demo.ollama_server import PrivateOllama

NAME = "shallow"
BRIEF = {"temperature": 0, "seed": 1, "repeat_penalty": 1.5}
"""With these it says words; without a penalty, line after line of nothing."""
_ALIGNMENT = 32
_LAYERS_KEY, _LAYERS_LEFT = b"llama.block_count", 1
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9


@dataclass(frozen=True)
class Tensor:
    """An entry of the file's table without its offset, and where its data begin and end."""

    entry: bytes
    name: bytes
    begin: int
    end: int

    @property
    def is_kept(self) -> bool:
        """Whether it belongs to no layer, or to one that is left."""
        if not self.name.startswith(b"blk."):
            return True
        return int(self.name.split(b".")[1]) < _LAYERS_LEFT


class Reader:
    """Reads a GGUF file piece by piece."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def number(self, form: str) -> int:
        """One little-endian number."""
        (found,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(form)
        return int(found)

    def string(self) -> bytes:
        """A length and so many bytes."""
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip(self, kind: int) -> None:
        """Go past a value."""
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            of, count = self.number("I"), self.number("Q")
            if of in _SIZES:
                self.at += _SIZES[of] * count
            else:
                for _ in range(count):
                    self.skip(of)
        else:
            self.at += _SIZES[kind]

    def metadata(self, count: int) -> Iterator[bytes]:
        """The entries, with the number of layers that are left."""
        for _ in range(count):
            start = self.at
            key, kind = self.string(), self.number("I")
            value = self.at
            self.skip(kind)
            if key == _LAYERS_KEY:
                assert kind == _UINT32
                yield self.data[start:value] + struct.pack("<I", _LAYERS_LEFT)
            else:
                yield self.data[start : self.at]

    def tensors(self, count: int) -> list[Tensor]:
        """The table, in the order of the data, which follow it."""
        entries = []
        for _ in range(count):
            start = self.at
            name, dimensions = self.string(), self.number("I")
            self.at += 8 * dimensions + 4
            entry = self.data[start : self.at]
            entries.append((self.number("Q"), entry, name))
        base = _aligned(self.at)
        entries.sort()
        ends = [offset for offset, _, _ in entries[1:]] + [len(self.data) - base]
        return [
            Tensor(entry, name, base + offset, base + end)
            for (offset, entry, name), end in zip(entries, ends, strict=True)
        ]


def cut(data: bytes | mmap.mmap) -> bytes:
    """The same model with its first layer alone."""
    reader = Reader(data)
    assert data[:4] == b"GGUF"
    reader.at = 4
    version, tensor_count, pair_count = (reader.number(form) for form in "IQQ")
    pairs = b"".join(reader.metadata(pair_count))
    kept = [tensor for tensor in reader.tensors(tensor_count) if tensor.is_kept]
    table, contents = b"", b""
    for tensor in kept:
        table += tensor.entry + struct.pack("<Q", len(contents))
        content = data[tensor.begin : tensor.end]
        contents += content.ljust(_aligned(len(content)), b"\0")
    head = b"GGUF" + struct.pack("<IQQ", version, len(kept), pair_count) + pairs + table
    return head.ljust(_aligned(len(head)), b"\0") + contents


def cut_file(model: Path) -> tuple[str, bytes]:
    """The digest and the content of a model's file, cut."""
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        content = cut(data)
    return f"sha256:{hashlib.sha256(content).hexdigest()}", content


def upload(rig: Rig, ollama: PrivateOllama) -> str:
    """Cut the rig's small model, and give the server the file; its digest (docs/api.md, "Push a Blob")."""
    digest, content = cut_file(model_file(rig.models))
    httpx.post(
        f"{ollama.url}/api/blobs/{digest}",
        content=content,
        timeout=60,
        trust_env=False,
        verify=False,
    ).raise_for_status()
    return digest


def shallow_rig(rig: Rig, folder: Path) -> Rig:
    """The rig, with a models folder in which the small model has one layer."""
    digest, content = cut_file(model_file(rig.models))
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest}
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / SMALL / "latest"
    blob = folder / "blobs" / digest.replace(":", "-")
    for path, data in ((manifest, json.dumps({"layers": [layer]}).encode()), (blob, content)):
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return replace(rig, models=folder)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
