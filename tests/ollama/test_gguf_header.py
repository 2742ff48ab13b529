"""Reading a GGUF file's header: its numbers, or one sentence that says why they cannot be read."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama.gguf_files import SMOL, TENSORS, header, write_gguf

from aider_guard.core.readings import Unavailable
from aider_guard.ollama.gguf_header import GgufModel, read_gguf


def model(path: Path) -> GgufModel:
    found = read_gguf(path)
    assert isinstance(found, GgufModel), found
    return found


def reason(path: Path) -> str:
    found = read_gguf(path)
    assert isinstance(found, Unavailable)
    return found.reason


@pytest.mark.parametrize(("order", "version"), [("<", 3), ("<", 2), (">", 3)])
def test_the_numbers_of_a_header(tmp_path: Path, order: str, version: int) -> None:
    """Those that /api/show would have, in either byte order."""
    data = header(order=order, version=version)
    found = model(write_gguf(tmp_path / "smol.gguf", data, size_bytes=100_000))

    assert found.size_bytes == 100_000
    facts = found.architecture
    assert (facts.name, facts.layers, facts.kv_heads) == ("llama", 30, (3,) * 30)
    assert (facts.vocabulary, facts.trained_tokens) == (49_152, 8192)
    assert facts.main_memory_bytes == 576 * 49_152 * 34 // 32


def test_lists_of_layers_are_read(tmp_path: Path) -> None:
    """Heads and patterns, of which a plain answer of Ollama's has only null."""
    facts = {
        **SMOL,
        "llama.attention.head_count_kv": [0, 0, 3] * 10,
        "llama.attention.sliding_window_pattern": [True, False],
    }
    found = model(write_gguf(tmp_path / "m.gguf", header(facts))).architecture
    assert found.kv_heads == (0, 0, 3) * 10
    assert found.sliding_layers == (True, False) * 15


def test_a_vocabulary_is_skipped(tmp_path: Path) -> None:
    """It is most of a header, and nothing here needs it."""
    many = {**SMOL, "tokenizer.ggml.token_type": [1] * 10_001, "tokenizer.ggml.x": ["t"] * 20_000}
    assert model(write_gguf(tmp_path / "m.gguf", header(many))).architecture.layers == 30


def test_a_model_in_parts_is_as_large_as_all_of_them(tmp_path: Path) -> None:
    """The header is that of the first; a part that is missing is named."""
    name = "m-{:05}-of-00003.gguf"
    write_gguf(tmp_path / name.format(1), size_bytes=50_000)
    write_gguf(tmp_path / name.format(3), b"GGUF", size_bytes=3000)
    assert "m-00002-of-00003.gguf is not beside it" in reason(tmp_path / name.format(1))
    write_gguf(tmp_path / name.format(2), b"GGUF", size_bytes=200)
    for part in (1, 2, 3):
        assert model(tmp_path / name.format(part)).size_bytes == 53_200
    odd = write_gguf(tmp_path / "m-00001-of-00000.gguf", size_bytes=70_000)
    assert model(odd).size_bytes == 70_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no GGUF file"),
        (b"PK\x03\x04", "is no GGUF file"),
        (b"GGUF", "not complete"),
        (header(version=1), "of version 1, and 2 and 3 can be read"),
        (header(version=4), "of version 4"),
        (header()[:-1], "not complete"),
        (header()[:8] + struct.pack("<QQ", 1 << 40, 1), "damaged"),
        (header()[:8] + struct.pack("<QQQ", 0, 1, 1 << 40), "damaged"),
        (header({"x": [1] * 20_000})[:90], "not complete"),
        (header({**SMOL, "general.architecture": 3}), "no language model"),
        (header({"general.architecture": "clip"}), "its header does not tell the layers"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    """With the file's name."""
    found = reason(write_gguf(tmp_path / "bad.gguf", data))
    assert words in found
    assert str(tmp_path / "bad.gguf") in found


def test_a_value_of_an_unknown_type_is_damage(tmp_path: Path) -> None:
    whole = header({"x": 1}, ())
    damaged = whole[:-8] + struct.pack("<II", 99, 1)
    assert "unknown type 99" in reason(write_gguf(tmp_path / "bad.gguf", damaged))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "No such file or directory" in reason(tmp_path / "none.gguf")
    assert "cannot be read" in reason(tmp_path)


@given(st.integers(0, len(header())), st.binary(max_size=40))
def test_no_bytes_raise(tmp_path_factory: pytest.TempPathFactory, at: int, more: bytes) -> None:
    """A header that ends early, or goes on with anything, is a model or a reason."""
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    found = read_gguf(write_gguf(path, header(SMOL, TENSORS)[:at] + more))
    assert isinstance(found, GgufModel | Unavailable)
