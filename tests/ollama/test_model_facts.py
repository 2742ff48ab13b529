"""Installed models, the facts of a model and the cloud switch, from servers of every era and from broken ones."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fakes.ollama_models import CHATML
from fakes.ollama_server import (
    ERAS,
    GIB,
    Answer,
    Cut,
    Drip,
    Endless,
    FakeModel,
    FakeOllama,
    Hang,
    Json,
    Raw,
)

from aider_guard.core.architecture import Architecture
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import InstalledModel, ModelFacts, ModelMissing, nearest_names
from aider_guard.ollama.client import NO_SWITCH, OllamaClient

if TYPE_CHECKING:
    from collections.abc import Iterator

QWEN = FakeModel("qwen3:8b", size_bytes=5 * GIB, num_ctx=16384)
CODER = FakeModel("qwen3-coder:30b", blob="b2" * 32)
STUB = FakeModel("gpt-oss:mine", size_bytes=384, remote_host="https://ollama.com:443")
AMPLE_SECONDS = 20.0
"""More than any answer takes that comes at all, on a busy machine too."""
STRANGE = "a form that is not Ollama's"


@contextmanager
def client_of(ollama: FakeOllama, answer_seconds: float = AMPLE_SECONDS) -> Iterator[OllamaClient]:
    """A client of a running server."""
    with ollama:
        client = OllamaClient(ollama.url, answer_seconds=answer_seconds)
        yield client
        client.close()


@pytest.fixture
def ollama() -> FakeOllama:
    """A server of 2026 with two models and a stub of a third."""
    return FakeOllama(version="0.33.0-rc2", models=(QWEN, CODER, STUB))


@pytest.mark.parametrize("version", ERAS)
def test_what_is_installed(version: str) -> None:
    """Every era lists its models; which of them run elsewhere is reported from 0.12 on."""
    with client_of(FakeOllama(version=version, models=(QWEN, STUB))) as client:
        models = client.installed()
    reports_remote = version not in ("0.9.3", "0.11.10")
    assert models == (
        InstalledModel("qwen3:8b", 5 * GIB, f"{8:064x}", "Q4_K_M", format="gguf"),
        InstalledModel(
            "gpt-oss:mine",
            384,
            f"{12:064x}",
            "Q4_K_M",
            "https://ollama.com:443" if reports_remote else "",
            "gguf",
        ),
    )


def test_nothing_is_installed() -> None:
    """Go's nil slice is an empty list."""
    with client_of(FakeOllama(models=())) as client:
        assert client.installed() == ()


ENTRY: dict[str, Any] = {"name": "a:latest", "size": 1}


@pytest.mark.parametrize(
    ("more", "remote_host"),
    [
        ({}, ""),
        ({"remote_host": "", "remote_model": None}, ""),
        ({"remote_host": "https://ollama.com:443"}, "https://ollama.com:443"),
        ({"remote_model": "gpt-oss:120b"}, "another machine"),
        ({"remote_host": 7}, "another machine"),
        ({"remote_host": "\x1b[2J"}, "\ufffd[2J"),
        ({"digest": None, "details": None}, ""),
        ({"digest": 7, "details": [], "modified_at": {}}, ""),
        ({"details": {"quantization_level": 7}}, ""),
    ],
)
def test_an_entry_with_more_or_less(
    ollama: FakeOllama, more: dict[str, Any], remote_host: str
) -> None:
    """Name and size make an entry, and whatever says that it runs elsewhere is believed."""
    ollama.answers["/api/tags"] = Json({"models": [{**ENTRY, **more}]})
    with client_of(ollama) as client:
        assert client.installed() == (InstalledModel("a:latest", 1, "", "", remote_host),)


WRONG_ANSWERS: list[tuple[Answer, str]] = [
    (Raw(b"<html>proxy</html>"), STRANGE),
    (Raw(b"\xff\xfe\x00"), STRANGE),
    (Raw(b"[" * 100_000), STRANGE),
    (Json([]), STRANGE),
    (Json({}), STRANGE),
    (Json({"models": {}, "cloud": {"disabled": "yes"}}), STRANGE),
    (Json({"error": "server busy\x1b[2J"}, 503), "server busy\ufffd[2J (503)"),
    (Raw(b"Bad Gateway", 502), "status 502"),
    (Hang(), "did not answer within 0.4 s"),
    (Drip(), "did not answer within 0.4 s"),
    (Endless(), "cannot be reached"),
    (Cut(), "cannot be reached"),
]


def ask(client: OllamaClient, path: str) -> object:
    """The question that a path answers."""
    match path:
        case "/api/tags":
            return client.installed()
        case "/api/show":
            return client.model_facts("qwen3:8b", ())
        case _:
            return client.cloud_disabled()


@pytest.mark.parametrize(("answer", "reason"), WRONG_ANSWERS)
@pytest.mark.parametrize("path", ["/api/tags", "/api/show", "/api/status"])
def test_what_is_no_answer_is_unavailable(
    ollama: FakeOllama, path: str, answer: Answer, reason: str
) -> None:
    """Garbage, refusals and silence become a reason in time, for every call."""
    ollama.answers[path] = answer
    started_at = time.monotonic()
    short = isinstance(answer, Hang | Drip)
    with client_of(ollama, answer_seconds=0.4 if short else AMPLE_SECONDS) as client:
        result = ask(client, path)
    assert isinstance(result, Unavailable)
    assert reason in result.reason
    assert time.monotonic() - started_at < AMPLE_SECONDS


@pytest.mark.parametrize(
    "entry",
    [
        1,
        {},
        {"name": "a"},
        {**ENTRY, "name": ""},
        {**ENTRY, "name": "a\x1b[2J"},
        {**ENTRY, "name": 7},
        {**ENTRY, "size": "1"},
        {**ENTRY, "size": True},
        {**ENTRY, "size": -1},
        {**ENTRY, "size": 2**63},
    ],
)
def test_a_strange_entry_makes_the_list_strange(ollama: FakeOllama, entry: object) -> None:
    """A list is not read by halves: what is missing in it would be called not installed."""
    ollama.answers["/api/tags"] = Json({"models": [ENTRY, entry]})
    with client_of(ollama) as client:
        answer = client.installed()
    assert isinstance(answer, Unavailable)
    assert STRANGE in answer.reason


@pytest.mark.parametrize("version", ERAS)
def test_the_facts_of_a_model(version: str) -> None:
    """Every era tells the numbers, the file with the weights and the model file's own window."""
    with client_of(FakeOllama(version=version, models=(QWEN,))) as client:
        facts = client.model_facts("QWEN3:8B", client.installed())
    assert isinstance(facts, ModelFacts)
    assert isinstance(facts.architecture, Architecture)
    assert (facts.architecture.layers, facts.architecture.vocabulary) == (36, 151936)
    assert facts == ModelFacts(
        name="QWEN3:8B",
        resolved="qwen3:8b",
        size_bytes=5 * GIB,
        trained_tokens=40960,
        architecture=facts.architecture,
        blob="a1" * 32,
        num_ctx_parameter=16384,
        quantization="Q4_K_M",
    )


@pytest.mark.parametrize(("template", "loses"), [("{{ .Prompt }}", True), (CHATML, False)])
def test_a_template_that_leaves_system_text_out(template: str, loses: bool) -> None:
    """It is told with the model's facts."""
    with client_of(FakeOllama(models=(replace(QWEN, template=template),))) as client:
        facts = client.model_facts("qwen3:8b", ())
    assert isinstance(facts, ModelFacts)
    assert facts.loses_system == loses


def test_facts_without_a_list(ollama: FakeOllama) -> None:
    """Where the models on disk are not known, only the size is missing."""
    why = Unavailable("busy")
    with client_of(ollama) as client:
        facts = client.model_facts("qwen3:8b", why)
    assert isinstance(facts, ModelFacts)
    assert (facts.size_bytes, facts.resolved, facts.trained_tokens) == (why, "qwen3:8b", 40960)


def test_a_model_that_is_not_listed_has_no_size(ollama: FakeOllama) -> None:
    """A model can come or go between two questions."""
    with client_of(ollama) as client:
        facts = client.model_facts("qwen3:8b", ())
    assert isinstance(facts, ModelFacts)
    assert facts.size_bytes == Unavailable("Ollama does not list qwen3:8b")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("qwen3", ("qwen3:8b", "qwen3-coder:30b")),
        ("qwen3:14b", ("qwen3:8b", "qwen3-coder:30b")),
        ("qwen3-coder", ("qwen3-coder:30b", "qwen3:8b")),
        ("qwen-3 8b", ("qwen3:8b",)),
        ("gpt-oss", ()),
        ("a b", ()),
    ],
)
@pytest.mark.parametrize("version", ["0.9.3", "0.33.0-rc2"])
def test_a_model_that_is_not_there(version: str, name: str, nearest: tuple[str, ...]) -> None:
    """The installed names most like it are given, never a stub's; an impossible name is missing too."""
    with client_of(FakeOllama(version=version, models=(CODER, QWEN, STUB))) as client:
        installed = tuple(
            InstalledModel(model.name, 1, "", "", model.remote_host)
            for model in (CODER, QWEN, STUB)
        )
        assert client.model_facts(name, installed) == ModelMissing(name, nearest)
        assert client.model_facts(name, Unavailable("busy")) == ModelMissing(name)


def test_no_more_than_three_names_are_suggested() -> None:
    """A long list of tags would hide the one that is meant."""
    tags = (InstalledModel(f"qwen3:{size}b", 1, "") for size in (1, 2, 4, 8, 14))
    assert nearest_names("qwen3:80b", tuple(tags)) == ("qwen3:8b", "qwen3:1b", "qwen3:2b")


def test_the_list_tells_the_quantisation_where_the_facts_do_not(ollama: FakeOllama) -> None:
    """Both are of the same file."""
    ollama.answers["/api/show"] = Json({**SHOWN, "details": None})
    with client_of(ollama) as client:
        facts = client.model_facts("qwen3:8b", client.installed())
    assert isinstance(facts, ModelFacts)
    assert facts.quantization == "Q4_K_M"


@pytest.mark.parametrize(
    "answer",
    [
        Raw(b"404 page not found", 404),
        Json({"error": "model is required"}, 400),
        Json({"error": "unauthorized"}, 401),
        Json({"error": "ollama cloud is disabled: remote model is unavailable"}, 403),
        Json({"error": "invalid file magic"}, 500),
        Json({"error": {"message": "model 'x' not found"}}, 404),
    ],
)
def test_another_refusal_is_no_missing_model(ollama: FakeOllama, answer: Answer) -> None:
    """Only Ollama's own words say that a model is not there."""
    ollama.answers["/api/show"] = answer
    with client_of(ollama) as client:
        assert isinstance(client.model_facts("qwen3:8b", ()), Unavailable)


@pytest.mark.parametrize("version", ERAS)
def test_no_cloud_model_is_asked_about(version: str) -> None:
    """Neither a cloud's name nor a stub's is sent; a stub is what the list says it is."""
    server = FakeOllama(version=version, models=(QWEN, STUB))
    with client_of(server) as client:
        listed = (InstalledModel("gpt-oss:mine", 384, "", "", "https://ollama.com:443"),)
        refused = client.model_facts("gpt-oss:120b-Cloud", listed)
        stub = client.model_facts("gpt-oss:MINE", listed)
    assert isinstance(refused, Unavailable)
    assert "its name is not sent" in refused.reason
    assert isinstance(stub, ModelFacts)
    assert (stub.resolved, stub.remote_host) == ("gpt-oss:mine", "https://ollama.com:443")
    assert stub.trained_tokens == Unavailable(
        "gpt-oss:MINE runs on https://ollama.com:443, not here"
    )
    assert server.received == []


def test_a_stub_that_only_the_answer_tells(ollama: FakeOllama) -> None:
    """Where the list is not known, the answer itself says that the model runs elsewhere."""
    with client_of(ollama) as client:
        stub = client.model_facts("gpt-oss:mine", Unavailable("busy"))
    assert isinstance(stub, ModelFacts)
    assert stub.remote_host == "https://ollama.com:443"


def test_a_name_with_the_local_suffix_is_the_models(ollama: FakeOllama) -> None:
    """From 0.18 on ``:local`` says where a model runs, and is no part of its name."""
    ollama.answers["/api/show"] = Json(QWEN.show((0, 18)))
    with client_of(ollama) as client:
        facts = client.model_facts("qwen3:8b:local", client.installed())
    assert isinstance(facts, ModelFacts)
    assert (facts.resolved, facts.size_bytes) == ("qwen3:8b", 5 * GIB)


SHOWN = QWEN.show((0, 33))


@pytest.mark.parametrize(
    ("change", "num_ctx"),
    [
        ({"parameters": "num_ctx                        4096"}, 4096),
        ({"parameters": 'stop  "num_ctx 7"\nnum_ctx  8192\ntemperature 0'}, 8192),
        ({"parameters": "num_ctx 1.048576e+06"}, 1048576),
        ({"parameters": "num_ctx 1.0.0"}, 0),
        ({"parameters": "num_ctx 1e+99"}, 0),
        ({"parameters": "num_ctx many"}, 0),
        ({"parameters": "num_ctx -1"}, 0),
        ({"parameters": ["num_ctx 4096"]}, 0),
        ({"parameters": None}, 0),
    ],
)
def test_the_model_files_own_window(
    ollama: FakeOllama, change: dict[str, Any], num_ctx: int
) -> None:
    """The parameter as Go prints it, a million too; 0 where there is none."""
    ollama.answers["/api/show"] = Json({**SHOWN, **change})
    with client_of(ollama) as client:
        facts = client.model_facts("qwen3:8b", ())
    assert isinstance(facts, ModelFacts)
    assert facts.num_ctx_parameter == num_ctx


def test_the_penalties_of_a_model_file_are_read(ollama: FakeOllama) -> None:
    """As Go prints them; other parameters are of no matter."""
    text = 'presence_penalty   1.5\nrepeat_penalty  "1"\ntop_k 20\nstop "frequency_penalty 2"'
    ollama.answers["/api/show"] = Json({**SHOWN, "parameters": text})
    with client_of(ollama) as client:
        facts = client.model_facts("qwen3:8b", ())
    assert isinstance(facts, ModelFacts)
    assert facts.sampling == {"presence_penalty": 1.5, "repeat_penalty": 1.0}


BLOB = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("modelfile", "blob"),
    [
        (f"# FROM qwen3:8b\n\nFROM /usr/share/ollama/blobs/sha256-{BLOB}\nTEMPLATE x", BLOB),
        (f'FROM "/Users/A B/.ollama/models/blobs/sha256-{BLOB}"\n', BLOB),
        (f"FROM C:\\Users\\me\\blobs\\sha256-{BLOB}\r\nTEMPLATE x", BLOB),
        (f"FROM sha256:{BLOB}", BLOB),
        (f"FROM /b/sha256-{BLOB}\nFROM /b/sha256-{'f' * 64}\n", BLOB),
        (f"# FROM /b/sha256-{BLOB}\nFROM qwen3:8b", ""),
        (f"ADAPTER /b/sha256-{BLOB}", ""),
        ("FROM /b/sha256-0123", ""),
        (None, ""),
        ([], ""),
    ],
)
def test_the_file_with_the_weights(ollama: FakeOllama, modelfile: object, blob: str) -> None:
    """The first FROM names it by a path or by its digest; a comment names none."""
    ollama.answers["/api/show"] = Json({**SHOWN, "modelfile": modelfile})
    with client_of(ollama) as client:
        facts = client.model_facts("qwen3:8b", ())
    assert isinstance(facts, ModelFacts)
    assert facts.blob == blob


@pytest.mark.parametrize("model_info", [None, {}, {"general.architecture": "x"}, 7, []])
def test_a_model_without_numbers(ollama: FakeOllama, model_info: object) -> None:
    """It has no architecture and no trained context, and the rest of the answer is still true."""
    ollama.answers["/api/show"] = Json({**SHOWN, "model_info": model_info})
    with client_of(ollama) as client:
        facts = client.model_facts("qwen3:8b", ())
    assert isinstance(facts, ModelFacts)
    assert isinstance(facts.architecture, Unavailable)
    assert isinstance(facts.trained_tokens, Unavailable)
    assert facts.blob == "a1" * 32


@pytest.mark.parametrize("hidden", [None, []])
def test_layers_that_differ_are_asked_for_verbosely(hidden: object) -> None:
    """Lists are left out of a plain answer; only then the long one is requested."""
    key = "qwen3.attention.head_count_kv"
    verbose = {**QWEN.facts, key: [0, 8] * 18}
    model = FakeModel("qwen3:8b", facts={**QWEN.facts, key: hidden}, verbose_facts=verbose)
    with client_of(FakeOllama(models=(model,))) as client:
        facts = client.model_facts("qwen3:8b", ())
    assert isinstance(facts, ModelFacts)
    assert isinstance(facts.architecture, Architecture)
    assert facts.architecture.kv_heads == (0, 8) * 18


@pytest.mark.parametrize("disabled", [True, False])
@pytest.mark.parametrize("version", ERAS)
def test_the_cloud_switch(version: str, disabled: bool) -> None:
    """It is read from 0.16.2 on; before, there is a reason."""
    with client_of(FakeOllama(version=version, cloud_disabled=disabled)) as client:
        answer = client.cloud_disabled()
    old = version in ("0.9.3", "0.11.10", "0.12.5", "0.12.6")
    assert answer == (NO_SWITCH if old else disabled)


def test_nothing_is_sent_to_ollamas_cloud() -> None:
    """An address that is the cloud's is refused before a connection is made."""
    client = OllamaClient("https://ollama.com:443")
    answers = (
        client.version(),
        client.installed(),
        client.loaded_models(),
        client.cloud_disabled(),
        client.model_facts("qwen3:8b", ()),
        client.unload("qwen3:8b"),
    )
    client.close()
    assert set(answers) == {
        Unavailable("https://ollama.com:443 is Ollama's cloud: nothing is sent there")
    }
