"""The window that a local server with OpenAI's protocol tells, as recorded of each kind, and from wrong answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from fakes.answering import Answer, Cut, Drip, Endless, Hang, Json, Raw
from fakes.ollama_server import FakeOllama

from aider_guard.core.other_servers import OtherModel
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServedModel
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.other_server import describe_model
from aider_guard.ollama.survey import survey


def window_of(model: ServedModel, within_seconds: float = 20.0) -> int | Unavailable:
    """The window that a model's server tells."""
    found = describe_model(model, within_seconds)
    return found if isinstance(found, Unavailable) else found.window_tokens


def ask(
    answers: Mapping[str, Answer], name: str = "m", path: str = "/v1", seconds: float = 20.0
) -> int | Unavailable:
    """The window of a model on a server with these answers."""
    with FakeOllama(models=(), answers=dict(answers)) as server:
        return window_of(ServedModel(f"openai/{name}", name, server.url + path), seconds)


def models(*entries: Any) -> dict[str, Answer]:
    return {"/v1/models": Json({"object": "list", "data": list(entries)})}


# llama.cpp of October 2026 (xllamacpp 2026.10), of 2025, vLLM 0.10, SGLang 0.5, LM Studio 0.3.
LLAMA_META = {"vocab_type": 2, "n_vocab": 49152, "n_ctx": 4096, "n_ctx_train": 8192, "n_embd": 576}
LLAMA = {
    "id": "/models/small.gguf",
    "aliases": ["small"],
    "owned_by": "llamacpp",
    "meta": LLAMA_META,
}
OLD_LLAMA = {
    "id": "small.gguf",
    "meta": {"n_ctx_train": 8192, "n_params": 134515008},
    "owned_by": "llamacpp",
}
PROPS = {"default_generation_settings": {"id": 0, "n_ctx": 6144}, "total_slots": 2}
VLLM = {"id": "Qwen/Qwen3-8B", "owned_by": "vllm", "root": "Qwen/Qwen3-8B", "max_model_len": 40960}
OTHER_VLLM = {**VLLM, "id": "other", "max_model_len": 1024}
STUDIO = {"id": "qwen3-8b", "object": "model", "owned_by": "organization_owner"}
STUDIOS = {"id": "qwen3-8b", "max_context_length": 40960, "loaded_context_length": 12288}

RECORDED: dict[str, tuple[dict[str, Answer], str, int]] = {
    "llama.cpp, any name": (models(LLAMA), "whatever", 4096),
    "llama.cpp, several models, by alias": (models(OTHER_VLLM, LLAMA), "small", 4096),
    "llama.cpp before it listed the window": (
        {**models(OLD_LLAMA), "/props": Json(PROPS)},
        "m",
        6144,
    ),
    "vLLM": (models(OTHER_VLLM, VLLM), "Qwen/Qwen3-8B", 40960),
    "LM Studio": (
        {
            **models(STUDIO, OTHER_VLLM),
            "/api/v0/models": Json({"data": [{"id": "x", "max_context_length": 1}, STUDIOS]}),
        },
        "qwen3-8b",
        12288,
    ),
}


@pytest.mark.parametrize(("answers", "name", "window"), RECORDED.values(), ids=RECORDED.keys())
def test_each_kind_of_server_tells_its_window(
    answers: dict[str, Answer], name: str, window: int
) -> None:
    """What is loaded, for one request; not what the model was trained for."""
    assert ask(answers, name) == window


def test_an_address_without_v1_is_asked_as_it_is() -> None:
    """llama.cpp serves both."""
    assert ask({"/models": Json({"data": [LLAMA]})}, path="") == 4096


UNTOLD: dict[str, tuple[dict[str, Answer], str]] = {
    "Ollama's own /v1": (models({"id": "m", "owned_by": "library"}), "does not report"),
    "not loaded": (
        {**models(STUDIO), "/api/v0/models": Json({"data": [{"id": "m", "state": "not-loaded"}]})},
        "does not report",
    ),
    "another model": (models(VLLM, OTHER_VLLM), "does not list m"),
    "no model": (models(), "does not list m"),
    "no list": ({"/v1/models": Json({"data": {"id": "m"}})}, "does not list m"),
    "entries that are none": ({"/v1/models": Json({"data": [7, None, "m"]})}, "does not list m"),
    "true": (models({"id": "m", "max_model_len": True}), "does not report"),
    "a text": (models({"id": "m", "max_model_len": "4096"}), "does not report"),
    "nothing": (models({"id": "m", "max_model_len": 0, "meta": {"n_ctx": 0}}), "does not report"),
    "less than nothing": (models({"id": "m", "max_model_len": -4096}), "does not report"),
    "beyond numbers": (models({"id": "m", "max_model_len": 10**30}), "does not report"),
    "meta that is none": (models({"id": "m", "meta": [4096], "aliases": "m"}), "does not report"),
    "props that are none": ({**models({"id": "m"}), "/props": Json([1])}, "does not report"),
    "a key is wanted": ({"/v1/models": Json({"error": "Unauthorized"}, 401)}, "only with a key"),
    "another program": ({"/v1/models": Raw(b"<html>")}, "answered in an unknown form"),
    "a list": ({"/v1/models": Json([])}, "answered in an unknown form"),
    "an error": ({"/v1/models": Raw(b"", 500)}, "answered in an unknown form"),
    "a redirect": (
        {"/v1/models": Raw(b"", 307, (("Location", "https://cloud.example/v1/models"),))},
        "answered in an unknown form",
    ),
    "it breaks off": ({"/v1/models": Cut()}, "cannot be reached"),
    "it never ends": ({"/v1/models": Endless()}, "cannot be reached"),
}


@pytest.mark.parametrize(("answers", "reason"), UNTOLD.values(), ids=UNTOLD.keys())
def test_what_is_not_told_is_unavailable_with_its_reason(
    answers: dict[str, Answer], reason: str
) -> None:
    """No window is guessed, and nothing raises."""
    window = ask(answers)
    assert isinstance(window, Unavailable)
    assert reason in window.reason


@pytest.mark.parametrize("answer", [Hang(), Drip(b" " * 1000)], ids=["hangs", "drips"])
def test_it_takes_no_longer_than_it_was_given(answer: Answer) -> None:
    """Also when a second call is needed, or bytes come one by one."""
    started_at = time.monotonic()
    window = ask({**models({"id": "m"}), "/props": answer, "/api/v0/models": answer}, seconds=0.3)
    assert time.monotonic() - started_at < 20
    assert isinstance(window, Unavailable)
    first = ask({"/v1/models": answer}, seconds=0.3)
    assert isinstance(first, Unavailable)
    assert "did not answer in time" in first.reason


def test_an_address_without_a_server_is_reported() -> None:
    """With the address, without its password."""
    window = window_of(ServedModel("openai/m", "m", "http://me:secret@127.0.0.1:9/v1"))
    assert isinstance(window, Unavailable)
    assert "http://127.0.0.1:9/v1 cannot be reached" in window.reason
    assert "secret" not in window.reason


@pytest.mark.parametrize("base", ["https://cloud.example/v1", "http://192.0.2.7:8000/v1", ""])
def test_other_machines_are_not_asked(base: str) -> None:
    """Nothing is sent to them, and no name is looked up."""
    window = window_of(ServedModel("openai/m", "m", base), 0.1)
    assert isinstance(window, Unavailable)


@pytest.mark.parametrize("ollama", ["", "/away"], ids=["beside Ollama", "without Ollama"])
def test_a_survey_asks_other_servers_as_well(ollama: str) -> None:
    """Whether Ollama answers or not; by the names that Aider has for the models."""
    with FakeOllama(answers=models(LLAMA)) as server:
        served = ServedModel("openai/m", "m", f"{server.url}/v1")
        gone = ServedModel("openai/n", "n", "http://127.0.0.1:9/v1")
        client = OllamaClient(server.url + ollama)
        report = survey(client, (), others=(served, gone), within_seconds=20)
        client.close()
    assert isinstance(report.version, Unavailable) == bool(ollama)
    told = report.others["openai/m"]
    assert isinstance(told, OtherModel)
    assert (told.server, told.window_tokens) == ("llama.cpp", 4096)
    assert isinstance(report.others["openai/n"], Unavailable)
