"""Ten prompts that overflow by every route, on a real Ollama: what is expected happens, and every verdict is right."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from e2e.conftest import PRIVATE, TODAY
from e2e.emptying import empty
from e2e.overflowing import MODEL, TEN, Overflowing
from fakes.ollama_eras import Answered, answered

from aider_guard.core.chat.types import Count, DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.core.truncation import Evidence, LogEvidence, judge
from aider_guard.door.log_watch import OllamaLogWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aider_guard.demo.ollama_server import PrivateOllama

pytestmark = pytest.mark.servers(PRIVATE, TODAY)
LARGE_WINDOW_TOKENS = 512
EACH = pytest.mark.parametrize("case", TEN, ids=[case.name for case in TEN])


@pytest.fixture(scope="module")
def version(ollama: PrivateOllama) -> str:
    """What this server calls itself."""
    return str(
        httpx.get(f"{ollama.url}/api/version", trust_env=False, verify=False).json()["version"]
    )


@pytest.fixture(scope="module")
def witness(ollama: PrivateOllama) -> Iterator[OllamaLogWatch]:
    """A witness that has found the server's log by itself."""
    witness = OllamaLogWatch(start=lambda look: look())
    upstream = Upstream("", ollama.url, "ollama")
    witness.serve(DoorSettings("t", (upstream,), (DoorRole("main", MODEL),), 256))
    assert witness.mark() > 0
    yield witness
    witness.close()


@pytest.fixture(autouse=True)
def unused(ollama: PrivateOllama, shallow: str, version: str) -> None:
    """On 0.9.3 a cache that no case before has used: when an answer had been shifted out of the window, the next prompt
    can end its process ("panic: failed to decode batch: could not find a kv cache slot").
    """
    assert shallow == MODEL
    if version == PRIVATE:
        empty(ollama)


def ask(ollama: PrivateOllama, case: Overflowing, **changed: Any) -> dict[str, Any]:
    """The last line of the answer."""
    body = {**case.body, "options": {**case.body["options"], **changed}, "stream": False}
    answer = httpx.post(
        f"{ollama.url}{case.path}", json=body, timeout=500, trust_env=False, verify=False
    )
    assert answer.is_success, answer.text
    told = answer.json()
    assert isinstance(told, dict)
    return told


@EACH
def test_sizes_are_as_built(ollama: PrivateOllama, case: Overflowing) -> None:
    """In a window that holds all of it a prompt has as many tokens as it was built to have."""
    told = ask(ollama, case, num_ctx=LARGE_WINDOW_TOKENS, num_predict=1)
    assert told["prompt_eval_count"] == case.tokens


@EACH
def test_verdicts(
    ollama: PrivateOllama, version: str, witness: OllamaLogWatch, case: Overflowing
) -> None:
    """The server does what is expected; the verdict is right by count, by count and log, and by the log alone."""
    place = witness.mark()
    told = ask(ollama, case)
    log = asyncio.run(witness.since(place))
    assert isinstance(log, LogEvidence)

    expected = answered(version, case.prompt)
    assert isinstance(expected, Answered)
    assert told["prompt_eval_count"] == expected.prompt_eval_count
    assert told["eval_count"] == case.body["options"]["num_predict"]
    assert [cut.prompt_tokens - cut.left_tokens for cut in log.cuts] == _cuts(case, expected)

    evidence = Evidence(
        version=version,
        window_tokens=case.prompt.window_tokens,
        counted=Count(case.tokens, exact=True),
        prompt_bytes=0,
        prompt_tokens=told["prompt_eval_count"],
        answer_tokens=told["eval_count"],
        done_reason=told["done_reason"],
    )
    outcome, stage = case.verdict(version)
    lost = expected.pushed_out if stage == "generation" else expected.lost
    for known in (evidence, replace(evidence, log=log)):
        verdict = judge(known)
        assert (verdict.outcome, verdict.stage) == (outcome, stage)
        assert verdict.cut_tokens == lost
    nothing_counted = judge(replace(evidence, log=log, counted=Unavailable("not counted")))
    assert nothing_counted.outcome in (outcome, "unknown")
    assert nothing_counted.outcome == "cut" or not log.cuts


def _cuts(case: Overflowing, expected: Answered) -> list[int]:
    """What the warning tells: not the messages that were dropped before."""
    if not expected.cut_by_tokens:
        return []
    dropped = sum(part.tokens for part in case.prompt.parts[: expected.dropped_messages])
    return [expected.lost - dropped]


def test_ten_that_are_ten() -> None:
    """Every route is among them, and they are ten."""
    assert len({case.name for case in TEN}) == 10
    assert {case.stage for case in TEN} == {"", "messages", "tokens", "generation"}
    assert {case.outcome for case in TEN} == {"whole", "cut"}
