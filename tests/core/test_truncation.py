from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aider_guard.core.ollama_log import evidence as gathered
from aider_guard.core.ollama_log import read_line
from aider_guard.core.readings import Unavailable
from aider_guard.core.traffic.kinds import Count, Verdict
from aider_guard.core.truncation import (
    LOG_NOT_READ,
    Evidence,
    LogEvidence,
    LoggedCut,
    LoggedPrompt,
    judge,
    knows_truncate,
)
from fakes.ollama_eras import Answered, Part, Prompt, answered

NOT_TOLD = Unavailable("not told")
VERSIONS = (
    "0.3.14",
    "0.4.0",
    "0.9.3",
    "0.12.5",
    "0.12.6",
    "0.15.4",
    "0.15.5",
    "0.24.0",
    "0.30.0",
    "0.30.1",
    "0.30.8",
    "0.30.9",
    "0.30.10",
    "0.30.11",
    "0.33.0-rc2",
    "0.34.0",
)
WITHOUT_CACHED = ("0.3.14", "0.30.0")
TRUTHFUL = tuple(version for version in VERSIONS if version not in WITHOUT_CACHED)


def log_of(told: Answered) -> LogEvidence:
    said = [read_line(line.encode()) for line in told.log]
    return gathered(one for one in said if one)


def evidence_of(
    version: str,
    prompt: Prompt,
    told: Answered,
    counted: Count | Unavailable,
    *,
    log: bool = False,
    prompt_bytes: int = 0,
) -> Evidence:
    return Evidence(
        version=version,
        window_tokens=prompt.window_tokens,
        counted=counted,
        prompt_bytes=prompt_bytes,
        prompt_tokens=told.prompt_eval_count or NOT_TOLD,
        answer_tokens=told.eval_count,
        done_reason=told.done_reason,
        truncation_forbidden=not prompt.truncate,
        log=log_of(told) if log else LOG_NOT_READ,
        never_truncates=prompt.mlx,
    )


def truth(told: Answered) -> str:
    if told.lost:
        return "cut"
    return "cut in the answer" if told.pushed_out else "whole"


def agrees(verdict: Verdict, told: Answered) -> bool:
    match truth(told):
        case "whole":
            return verdict.outcome == "whole"
        case "cut":
            return verdict.outcome == "cut" and verdict.stage != "generation"
    return verdict.outcome == "cut" and verdict.stage == "generation"


@st.composite
def prompts(draw: st.DrawFn, window: st.SearchStrategy[int] | None = None) -> Prompt:
    tokens = draw(window or st.sampled_from((64, 256, 1000, 1024, 2048, 4096)))
    size = st.one_of(st.integers(1, 40), st.integers(1, tokens), st.integers(1, tokens * 3))
    parts = draw(
        st.lists(
            st.builds(Part, st.sampled_from(("system", "user", "assistant")), size),
            min_size=1,
            max_size=8,
        )
    )
    if draw(st.booleans()):  # one that ends near the window
        missing = tokens - sum(part.tokens for part in parts) + draw(st.integers(-3, 3))
        if missing > 0:
            parts.append(Part("user", missing))
    prompt = Prompt(
        tuple(parts),
        tokens,
        tail_tokens=draw(st.integers(0, 5)),
        answer_tokens=draw(st.one_of(st.integers(1, 60), st.integers(1, tokens * 2))),
        num_predict=draw(st.sampled_from((0, 0, 16, 128))),
        raw=draw(st.booleans()),
        truncate=draw(st.sampled_from((True, True, False))),
        adds_bos=draw(st.booleans()),
        shift=draw(st.sampled_from((True, True, False))),
        native=draw(st.sampled_from((True, False, False))),
        cached_tokens=draw(st.integers(0, tokens)),
        debug=draw(st.booleans()),
    )
    return prompt


def told_of(version: str, prompt: Prompt) -> tuple[Prompt, Answered]:
    """The request as this version understands it, and its answer; a refused one is no case."""
    prompt = prompt if knows_truncate(version) else replace(prompt, truncate=True)
    told = answered(version, prompt)
    assume(isinstance(told, Answered))
    assert isinstance(told, Answered)
    return prompt, told


@given(st.sampled_from(TRUTHFUL), prompts(), st.booleans())
def test_exact_counts_are_always_decided(version: str, prompt: Prompt, log: bool) -> None:
    """With the exact size of the prompt every verdict is right, and none is open, with the log or without."""
    prompt, told = told_of(version, prompt)
    verdict = judge(evidence_of(version, prompt, told, Count(prompt.tokens, exact=True), log=log))
    assert agrees(verdict, told), (verdict, told)
    if told.lost:
        assert verdict.cut_tokens == told.lost


@given(st.sampled_from(WITHOUT_CACHED), prompts(), st.booleans())
def test_exact_counts_where_cached_tokens_are_not_counted(
    version: str, prompt: Prompt, log: bool
) -> None:
    """Whether such a prompt was cut is always decided; how much, only where the server or its log tells."""
    prompt, told = told_of(version, prompt)
    verdict = judge(evidence_of(version, prompt, told, Count(prompt.tokens, exact=True), log=log))
    if told.lost:
        assert agrees(verdict, told), (verdict, told)
        assert verdict.cut_tokens == told.lost or isinstance(verdict.cut_tokens, Unavailable)
    else:
        assert agrees(verdict, told), (verdict, told)


@given(st.sampled_from(VERSIONS), prompts(), st.floats(0, 60), st.floats(0, 1), st.booleans())
def test_estimates_are_honest(
    version: str, prompt: Prompt, error_percent: float, place: float, log: bool
) -> None:
    """An estimate that keeps its word never makes a cut prompt whole nor a whole one cut."""
    prompt, told = told_of(version, prompt)
    factor = 1 + error_percent / 100
    low, high = prompt.tokens / factor, prompt.tokens / max(1 - error_percent / 100, 0.01)
    counted = Count(round(low + (high - low) * place), exact=False, error_percent=error_percent)
    assume(counted.at_least <= prompt.tokens <= counted.at_most)
    verdict = judge(evidence_of(version, prompt, told, counted, log=log))
    if told.lost:
        assert verdict.outcome != "whole", (verdict, told)
    if truth(told) == "whole":
        assert verdict.outcome != "cut", (verdict, told)


@given(st.sampled_from(VERSIONS), prompts(), st.booleans())
def test_nothing_known_is_nothing_claimed(version: str, prompt: Prompt, log: bool) -> None:
    """Without any count there is still no false verdict; with a log that tells of it, a cut is found."""
    prompt, told = told_of(version, prompt)
    verdict = judge(evidence_of(version, prompt, told, NOT_TOLD, log=log))
    if told.lost:
        assert verdict.outcome != "whole", (verdict, told)
    if truth(told) == "whole":
        assert verdict.outcome != "cut", (verdict, told)
    if log and any("truncating" in line for line in told.log):
        assert verdict.outcome == "cut", (verdict, told)


@given(st.sampled_from(VERSIONS), prompts(), st.integers(1, 8))
def test_bytes_bound_tokens(version: str, prompt: Prompt, bytes_a_token: int) -> None:
    """A prompt of few bytes is whole without any count, and one of many is never called so for it."""
    prompt, told = told_of(version, prompt)
    size = prompt.tokens * bytes_a_token
    verdict = judge(evidence_of(version, prompt, told, NOT_TOLD, prompt_bytes=size))
    if told.lost:
        assert verdict.outcome != "whole"
    elif size < prompt.window_tokens and not told.pushed_out:
        assert verdict.outcome == "whole"


@given(st.sampled_from(VERSIONS), prompts(), st.booleans(), st.booleans())
def test_a_version_that_is_not_known(version: str, prompt: Prompt, log: bool, exact: bool) -> None:
    """What holds for every era is said, and nothing that is wrong in one."""
    prompt, told = told_of(version, prompt)
    counted = Count(prompt.tokens, exact=True) if exact else NOT_TOLD
    given_evidence = evidence_of(version, prompt, told, counted, log=log)
    verdict = judge(replace(given_evidence, version=NOT_TOLD))
    if told.lost:
        assert verdict.outcome != "whole", (verdict, told)
    if truth(told) == "whole":
        assert verdict.outcome != "cut", (verdict, told)


@given(st.sampled_from(VERSIONS), prompts(), prompts(), st.booleans())
def test_the_log_of_others(version: str, prompt: Prompt, other: Prompt, exact: bool) -> None:
    """Lines of a request that ran beside ours do not make ours cut."""
    prompt, told = told_of(version, prompt)
    beside = answered(version, replace(other, truncate=True))
    assume(isinstance(beside, Answered))
    assert isinstance(beside, Answered)
    assume(beside.prompt_eval_count != told.prompt_eval_count)
    counted = Count(prompt.tokens, exact=True) if exact else NOT_TOLD
    mine = evidence_of(version, prompt, told, counted)
    both = log_of(replace(told, log=(*beside.log, *told.log)))
    verdict = judge(replace(mine, log=both))
    if truth(told) == "whole" and version not in WITHOUT_CACHED:
        assert verdict.outcome != "cut", (verdict, told, beside)
    if told.lost:
        assert verdict.outcome != "whole", (verdict, told, beside)


@given(st.sampled_from(("0.19.0", "0.33.0")), prompts())
def test_a_runner_that_refuses(version: str, prompt: Prompt) -> None:
    """A prompt that an MLX model answered was whole, whatever the numbers are."""
    prompt = replace(prompt, mlx=True)
    told = answered(version, prompt)
    assert isinstance(told, Answered)
    assert judge(evidence_of(version, prompt, told, NOT_TOLD)).outcome == "whole"


BASE = Evidence("0.9.3", 1024, NOT_TOLD, 0, 1024, 20, "stop")
CUT = LogEvidence(cuts=(LoggedCut(5610, 1024),))


@pytest.mark.parametrize(
    ("evidence", "outcome", "stage", "cut_tokens"),
    [
        # the measured cases of 0.9.3
        (replace(BASE, counted=Count(5610, exact=True)), "cut", "tokens", 4586),
        (replace(BASE, log=CUT), "cut", "tokens", 4586),
        (replace(BASE, counted=Count(3000, exact=True), prompt_tokens=997), "cut", "messages", 2003),
        # a fingerprint alone could be a whole prompt of that size
        (replace(BASE, answer_tokens=1), "unknown", "", 0),
        (replace(BASE, answer_tokens=1, counted=Count(1000, exact=False, error_percent=5)), "unknown", "", 0),
        # but either way some of it was given up for the answer
        (BASE, "cut", "generation", Unavailable("more may have been cut before")),
        # below what the estimate allows
        (replace(BASE, counted=Count(2000, exact=False, error_percent=20)), "cut", "tokens", 976),
        # exactly the window, then half of it given up from the second token on
        (replace(BASE, counted=Count(1024, exact=True)), "cut", "generation", 510),
        (
            replace(BASE, counted=Count(1024, exact=True), answer_tokens=1, done_reason="length"),
            "whole",
            "generation",
            0,
        ),
        (replace(BASE, counted=Count(1000, exact=True), prompt_tokens=1000), "whole", "", 0),
        # 0.30.11 and later leave half; one token more with a BOS
        (
            replace(BASE, version="0.30.11", window_tokens=4096, prompt_tokens=2050, counted=Count(4096, exact=True)),
            "cut",
            "tokens",
            2046,
        ),
        (
            replace(BASE, version="0.33.0", window_tokens=8192, prompt_tokens=4099, counted=Count(9200, exact=True)),
            "cut",
            "tokens",
            5101,
        ),
        (replace(BASE, version="0.33.0", window_tokens=4096, prompt_tokens=2050), "unknown", "", 0),
        (replace(BASE, version="0.33.0", window_tokens=4096, prompt_tokens=4000, answer_tokens=95, counted=Count(4000, exact=True)), "whole", "", 0),
        (replace(BASE, version="0.33.0", window_tokens=4096, prompt_tokens=4000, answer_tokens=97, counted=Count(4000, exact=True)), "cut", "generation", 2045),
        # it was forbidden, and the server answered
        (replace(BASE, version="0.12.6", truncation_forbidden=True, answer_tokens=1), "whole", "", 0),
        # forbidden where it is ignored: what is counted exactly shows it
        (replace(BASE, version="0.33.0", window_tokens=2048, prompt_tokens=1027, counted=Count(3967, exact=True), truncation_forbidden=True), "cut", "tokens", 2940),
        # a server that was broken off tells nothing, the count does
        (replace(BASE, counted=Count(500, exact=True), prompt_tokens=NOT_TOLD, answer_tokens=NOT_TOLD), "whole", "", 0),
        (replace(BASE, prompt_tokens=NOT_TOLD, answer_tokens=NOT_TOLD), "unknown", "", 0),
        # the window that is loaded is smaller than believed
        (replace(BASE, window_tokens=8192, counted=Count(1500, exact=True)), "cut", "", 476),
        # a template that was not known yet
        (replace(BASE, counted=Count(500, exact=True), prompt_tokens=511), "whole", "", 0),
        (replace(BASE, counted=Count(1010, exact=True), prompt_tokens=1020, answer_tokens=1), "unknown", "", 0),
        # others than Ollama refuse
        (replace(BASE, is_ollama=False, counted=Count(1000, exact=False, error_percent=5), window_tokens=NOT_TOLD), "whole", "", 0),
        (replace(BASE, is_ollama=False, counted=Count(2000, exact=False, error_percent=5)), "cut", "messages", 976),
        (replace(BASE, is_ollama=False), "unknown", "", 0),
        # the log tells all, and this prompt was not cut
        (replace(BASE, prompt_tokens=900, log=LogEvidence(prompts=(LoggedPrompt(900),), tells_all=True)), "whole", "", 0),
        (replace(BASE, prompt_tokens=900, log=LogEvidence(prompts=(LoggedPrompt(800),), tells_all=True)), "unknown", "", 0),
    ],
)  # fmt: skip
def test_cases(evidence: Evidence, outcome: str, stage: str, cut_tokens: int | Unavailable) -> None:
    """Known cases, each with its verdict."""
    verdict = judge(evidence)
    assert (verdict.outcome, verdict.stage, verdict.cut_tokens) == (outcome, stage, cut_tokens)
    assert verdict.evidence


@pytest.mark.parametrize(
    ("version", "knows"),
    [
        ("0.3.14", False),
        ("0.9.3", False),
        ("0.12.5", False),
        ("0.12.6", True),
        ("0.12.10", True),
        ("v0.24.0", True),
        ("0.30.0-rc1", True),
        ("1.0.0", True),
        ("", False),
        ("dev", False),
        ("0.0.0", False),
    ],
)
def test_who_knows_truncate(version: str, knows: bool) -> None:
    """It came with 0.12.6; a version that says nothing knows nothing."""
    assert knows_truncate(version) is knows
    assert knows_truncate(NOT_TOLD) is False
