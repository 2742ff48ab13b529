"""Whatever JSON Ollama's address answers with, decoding it ends with a value that the wire can carry."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.events import ServerSurveyed
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import (
    InstalledModel,
    ModelFacts,
    ServerReport,
    find_installed,
    nearest_names,
)
from aider_guard.core.wire import decode, encode
from aider_guard.ollama import client
from aider_guard.ollama.http import Answer, refusal, says_missing

WORDS = st.text("aé:/-.\x1b\ud800\n0", max_size=6) | st.sampled_from(
    ["qwen3", "qwen3:8b", "not found", f"FROM /b/sha256-{'0' * 64}", "num_ctx 1e+99"]
)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | WORDS
)
KEYS = st.sampled_from(
    [
        *("models", "name", "size", "size_vram", "digest", "context_length", "details"),
        *("quantization_level", "remote_host", "remote_model", "modelfile", "parameters"),
        *("model_info", "tensors", "general.architecture", "qwen3.context_length", "error"),
        *("qwen3.block_count", "qwen3.embedding_length", "qwen3.attention.head_count"),
        *("shape", "qwen3.attention.head_count_kv"),
    ]
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=25,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=8)


def report(facts: ModelFacts, installed: tuple[InstalledModel, ...]) -> ServerReport:
    """A report with what was decoded."""
    no = Unavailable("not asked")
    return ServerReport("http://x", True, "1", installed, no, no, no, {"m": facts})


@given(OBJECTS, OBJECTS)
def test_any_answer_is_facts_or_none(tags: dict[str, object], show: dict[str, object]) -> None:
    """Lists and facts decode, or are none, and what is decoded survives the wire."""
    client.entries(tags, client.loaded_model)
    installed = client.entries(tags, client.installed_model) or ()
    client.hides_layers(show)
    facts = client.model_facts("qwen3", show, installed)
    if facts is not None:
        event = ServerSurveyed(report(facts, installed))
        assert decode(encode(event)) == event


@given(
    st.integers(100, 599),
    st.binary(max_size=40) | OBJECTS.map(lambda fields: json.dumps(fields).encode()),
)
def test_any_refusal_is_a_sentence(status: int, content: bytes) -> None:
    """It is printable, and short."""
    words = refusal(Answer(status, content), "http://x", "/api/show").reason
    assert words.isprintable()
    assert len(words) < 300
    assert isinstance(says_missing(status, content), bool)


@given(WORDS, st.lists(WORDS, max_size=4))
def test_any_name_has_nearest_names(name: str, others: list[str]) -> None:
    """Names of any form can be looked up; what is suggested is installed, and never a stub."""
    installed = tuple(
        InstalledModel(other, 1, "", "", "elsewhere" if index % 2 else "")
        for index, other in enumerate(others)
    )
    suggested = nearest_names(name, installed)
    assert set(suggested) <= set(others[::2])
    assert len(suggested) <= 3
    match = find_installed(name, installed)
    assert match is None or match in installed
