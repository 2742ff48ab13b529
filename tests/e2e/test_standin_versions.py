"""What changed between Ollama 0.30.0 and 0.35 changes between stand-ins too: cuts, refusals, counts of the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from e2e.conftest import create
from e2e.overflowing import MODEL, TEN, Overflowing
from e2e.shallow import upload
from fakes.ollama_eras import Answered, Rejected, answered, numbers
from standin.program import standin_ollama

from aider_guard.demo.model import PARAMETERS, TEMPLATE

if TYPE_CHECKING:
    from aider_guard.demo.layout import Rig
    from aider_guard.demo.ollama_server import PrivateOllama

VERSIONS = ("0.30.0", "0.30.8", "0.30.9", "0.30.11", "0.33.2", "0.33.3", "0.35.0")
CACHED_COUNT_SINCE = (0, 33, 3)
HUGE = next(case for case in TEN if case.name == "one huge message")


@pytest.fixture(scope="module", params=VERSIONS)
def server(
    request: pytest.FixtureRequest, rig: Rig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, PrivateOllama]]:
    """A stand-in of each version, with the model of one layer."""
    with standin_ollama(rig, tmp_path_factory.mktemp("version"), request.param) as server:
        files = {"model.gguf": upload(rig, server)}
        create(server, MODEL, files=files, template=TEMPLATE, parameters=PARAMETERS)
        yield request.param, server


def ask(server: PrivateOllama, case: Overflowing, **more: Any) -> httpx.Response:
    """The answer to a prompt."""
    body = {**case.body, "stream": False, **more}
    return httpx.post(server.url + case.path, json=body, timeout=60, trust_env=False, verify=False)


def forget(server: PrivateOllama) -> None:
    """Unload the model: 0.30.0 counts only what its cache does not hold from another test."""
    body = {"model": MODEL, "keep_alive": 0}
    httpx.post(f"{server.url}/api/generate", json=body, trust_env=False, verify=False)


@pytest.mark.parametrize("more", [{}, {"shift": False}, {"truncate": False}], ids=str)
def test_what_is_too_long(server: tuple[str, PrivateOllama], more: dict[str, bool]) -> None:
    """It is cut to what that version leaves, or refused with the same words."""
    version, ollama = server
    forget(ollama)
    expected = answered(version, replace(HUGE.prompt, **more))  # type: ignore[arg-type]  # by name
    answer = ask(ollama, HUGE, **more)
    match expected:
        case Answered(prompt_eval_count=told):
            assert answer.json()["prompt_eval_count"] == told
        case Rejected(status, error):
            assert answer.status_code == status
            wanted, got = error, answer.json()["error"]
            is_json = wanted.startswith("{")
            assert (json.loads(got) if is_json else got) == (
                json.loads(wanted) if is_json else wanted
            )


def test_what_came_from_the_cache(server: tuple[str, PrivateOllama]) -> None:
    """The first version leaves it out of the count; the later ones say it besides."""
    version, ollama = server
    case = next(case for case in TEN if case.name == "one that fits")
    ask(ollama, case)
    told = ask(ollama, case).json()
    cached = case.tokens - 1  # the last token is always read
    assert told["prompt_eval_count"] == (1 if version == "0.30.0" else case.tokens)
    assert told.get("prompt_eval_cached_count") == (
        cached if numbers(version) >= CACHED_COUNT_SINCE else None
    )


def test_the_version_is_said(server: tuple[str, PrivateOllama]) -> None:
    """At its route, and in the log."""
    version, ollama = server
    answer = httpx.get(f"{ollama.url}/api/version", trust_env=False, verify=False)
    assert answer.json() == {"version": version}
    assert f"(version {version})" in ollama.log_path.read_text()
