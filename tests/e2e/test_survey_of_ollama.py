"""The survey of a real Ollama."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from e2e.conftest import PRIVATE, TODAY

from aider_guard.core.model_memory import Architecture
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts, ModelMissing, ServerProcess, ServerReport
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.survey import survey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aider_guard.demo.ollama_server import PrivateOllama


pytestmark = pytest.mark.servers(PRIVATE, TODAY)


@pytest.fixture
def client(ollama: PrivateOllama) -> Iterator[OllamaClient]:
    """A client of the private server."""
    client = OllamaClient(ollama.url)
    yield client
    client.close()


def test_everything_is_known_at_once(
    ollama: PrivateOllama, client: OllamaClient, terse: str
) -> None:
    """Server, process, settings and both models, whose weights are one file, in a moment."""
    survey(client, ())  # connections and files of the server are warm afterwards
    names = ("shallow", terse.upper(), "smal:q4", "gpt-oss:120b-cloud")

    def timed() -> tuple[ServerReport, float]:
        started_at = time.monotonic()
        report = survey(client, names, within_seconds=20)
        return report, time.monotonic() - started_at

    (report, first), *others = (timed() for _ in range(3))

    assert (report.base, report.is_local) == (ollama.url, True)
    assert isinstance(report.version, str)
    assert isinstance(report.process, ServerProcess)
    assert report.process.pid == ollama.pid
    assert report.process.user == psutil.Process().username()
    assert isinstance(report.process.settings, dict)
    assert report.process.settings["OLLAMA_NUM_PARALLEL"] == "1"
    shallow, other = report.models["shallow"], report.models["TERSE"]
    assert isinstance(shallow, ModelFacts)
    assert isinstance(other, ModelFacts)
    assert (shallow.resolved, other.resolved) == ("shallow:latest", "terse:latest")
    assert shallow.blob == other.blob != ""
    assert report.models["gpt-oss:120b-cloud"] == Unavailable(
        "gpt-oss:120b-cloud is a cloud model: its name is not sent"
    )
    missing = report.models["smal:q4"]
    assert isinstance(missing, ModelMissing)
    assert "small:latest" in missing.nearest
    assert (
        min(first, *(seconds for _, seconds in others)) < 0.5
    )  # 35 ms here; the machine may be busy


def test_the_numbers_of_the_small_model(client: OllamaClient) -> None:
    """SmolLM2 135M, as its makers describe it."""
    facts = client.model_facts("small", client.installed())
    assert isinstance(facts, ModelFacts)
    assert isinstance(facts.architecture, Architecture)
    numbers = facts.architecture
    assert (numbers.layers, numbers.embedding_length, numbers.vocabulary) == (30, 576, 49152)
    assert (numbers.heads, numbers.kv_heads) == ((9,) * 30, (3,) * 30)
    assert (numbers.key_length, numbers.value_length) == (64, 64)
    assert facts.trained_tokens == numbers.trained_tokens == 8192
    assert isinstance(facts.size_bytes, int)
    assert facts.size_bytes > 50_000_000


def test_a_window_in_the_model_file(ollama: PrivateOllama, client: OllamaClient) -> None:
    """``PARAMETER num_ctx`` is read as the server prints it, a million of them too."""
    for tokens in (4096, 1_048_576):
        body = {"model": "pinned", "from": "small", "parameters": {"num_ctx": tokens}}
        httpx.post(
            f"{ollama.url}/api/create",
            json={**body, "stream": False},
            timeout=60,
            trust_env=False,
            verify=False,
        ).raise_for_status()
        facts = client.model_facts("pinned", client.installed())
        assert isinstance(facts, ModelFacts)
        assert facts.num_ctx_parameter == tokens


@pytest.mark.parametrize("name", ["nope:1b", "a b", "../x", "x:y:z"])
def test_a_name_that_is_none(client: OllamaClient, name: str) -> None:
    """Unknown and impossible names are missing models in the server's own words."""
    assert isinstance(client.model_facts(name, ()), ModelMissing)


def test_the_cloud_switch_of_this_version(client: OllamaClient) -> None:
    """It answers from 0.16.2 on, and counts as too old before."""
    version = client.version()
    assert isinstance(version, str)
    answer = client.cloud_disabled()
    if tuple(int(part) for part in version.split("-")[0].split(".")) >= (0, 16, 2):
        assert isinstance(answer, bool)
    else:
        assert isinstance(answer, Unavailable)
        assert "0.16.2" in answer.reason
