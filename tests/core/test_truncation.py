from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.ollama_eras import Answered, Part, Prompt, answered, slot_window
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aider_guard.core.chat.types import Count, Verdict
from aider_guard.core.ollama_versions import (
    KEEPS,
    UNKNOWN_ERA,
    Era,
    era_of,
    knows_truncate,
)
from aider_guard.core.readings import Unavailable
from aider_guard.core.truncation import (
    LOG_NOT_READ,
    NOT_KNOWN,
    Evidence,
    LogEvidence,
    LoggedCut,
    LoggedPrompt,
    after_the_answer,
    judge,
)
from aider_guard.ollama.log_lines import evidence as gathered
from aider_guard.ollama.log_lines import read_line

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
    if verdict.outcome == "unknown" and told.seen <= KEEPS[1]:
        return told.pushed_out > 0  # of so few tokens all may have been kept
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
    return Prompt(
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
    """All are decided but one case: without a log, 0.30.0 may cut the last token of a prompt or keep it, by the way it
    asks the model. Only the server or its log shows how much was cut.
    """
    prompt, told = told_of(version, prompt)
    verdict = judge(evidence_of(version, prompt, told, Count(prompt.tokens, exact=True), log=log))
    window = prompt.window_tokens
    if not log and version == "0.30.0" and window <= prompt.tokens < slot_window(version, window):
        assert verdict.outcome != ("whole" if told.lost else "cut") or told.pushed_out
        return
    assert agrees(verdict, told), (verdict, told)
    assert not told.lost or verdict.cut_tokens in (told.lost, NOT_KNOWN)


A_KEPT_PROMPT = Prompt(
    parts=(Part("system", 1),),
    window_tokens=256,
    tail_tokens=4,
    answer_tokens=252,
    num_predict=0,
    adds_bos=True,
    native=True,
)
"""The answer overflows the window, and the whole prompt is among the first tokens, which are kept."""


@given(st.sampled_from(VERSIONS), prompts(), st.floats(0, 60), st.floats(0, 1), st.booleans())
@example(version="0.30.1", prompt=A_KEPT_PROMPT, error_percent=0.0, place=0.0, log=False)
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
    """Without any count there is still no false verdict; with a log that tells of it, a cut is found.

    But for a prompt that stays beyond the window: what can be dropped of it may have been nothing, as Ollama logs the
    line also when all before the last message are system messages, which stay.
    """
    prompt, told = told_of(version, prompt)
    verdict = judge(evidence_of(version, prompt, told, NOT_TOLD, log=log))
    if told.lost:
        assert verdict.outcome != "whole", (verdict, told)
    if truth(told) == "whole":
        assert verdict.outcome != "cut", (verdict, told)
    if log and told.lost and any("truncating" in line for line in told.log):
        is_beyond = told.seen > prompt.window_tokens
        assert verdict.outcome in ("cut", "unknown" if is_beyond else "cut"), (verdict, told)


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
    """The verdict on an unknown version holds for every era."""
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
    beside = answered(version, replace(other, truncate=True, debug=prompt.debug))
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
NEW = replace(BASE, version="0.33.0", window_tokens=4096)
OTHER = replace(BASE, is_ollama=False)
CUT = LogEvidence(cuts=(LoggedCut(5610, 1024),))
BROKEN_OFF = replace(BASE, prompt_tokens=NOT_TOLD, answer_tokens=NOT_TOLD, done_reason="")


def exactly(base: Evidence, counted: int, told: int, answer: int = 20) -> Evidence:
    count = Count(counted, exact=True)
    return replace(base, counted=count, prompt_tokens=told, answer_tokens=answer)


def about(base: Evidence, counted: int, told: int, answer: int = 1) -> Evidence:
    count = Count(counted, exact=False, error_percent=10)
    return replace(base, counted=count, prompt_tokens=told, answer_tokens=answer)


def dropping(told: int, *logged: int) -> Evidence:
    prompts = tuple(LoggedPrompt(tokens) for tokens in logged)
    log = LogEvidence(prompts=prompts, dropped_messages=True, tells_all=True)
    return replace(NEW, window_tokens=1000, prompt_tokens=told, answer_tokens=1, log=log)


def all_told(told: int, logged: int) -> Evidence:
    log = LogEvidence(prompts=(LoggedPrompt(logged),), tells_all=True)
    return replace(BASE, prompt_tokens=told, log=log)


@pytest.mark.parametrize(
    ("evidence", "outcome", "stage", "cut_tokens"),
    [
        pytest.param(exactly(BASE, 5610, 1024), "cut", "tokens", 4586, id="measured on 0.9.3"),
        pytest.param(replace(BASE, log=CUT), "cut", "tokens", 4586, id="the same by the log"),
        pytest.param(exactly(BASE, 3000, 997), "cut", "messages", 2003, id="messages dropped"),
        pytest.param(replace(BASE, answer_tokens=1), "unknown", "", 0, id="only a fingerprint"),
        pytest.param(about(BASE, 1000, 1024), "unknown", "", 0, id="in an estimate's error"),
        pytest.param(about(BASE, 1000, 1000), "unknown", "", 0, id="perhaps messages dropped"),
        pytest.param(about(BASE, 800, 790), "whole", "", 0, id="an estimate that fits"),
        pytest.param(about(BASE, 800, 720), "whole", "", 0, id="at an estimate's lower end"),
        pytest.param(about(BASE, 800, 719), "unknown", "", 0, id="just below it"),
        pytest.param(about(BASE, 800, 881), "whole", "", 0, id="at an estimate's upper end"),
        pytest.param(about(BASE, 800, 882), "unknown", "", 0, id="just above it"),
        pytest.param(about(BASE, 800, 600), "unknown", "", 0, id="an estimate that fails, low"),
        pytest.param(about(BASE, 800, 1000), "unknown", "", 0, id="an estimate that fails, high"),
        pytest.param(about(BASE, 2000, 1024), "cut", "tokens", 976, id="below an estimate"),
        pytest.param(
            BASE,
            "cut",
            "generation",
            Unavailable("more may have been cut before"),
            id="a full window: cut, or given up for the answer",
        ),
        pytest.param(exactly(BASE, 1024, 1024), "cut", "generation", 510, id="exactly the window"),
        pytest.param(
            replace(exactly(BASE, 1024, 1024, 1), done_reason="length"),
            "whole",
            "generation",
            0,
            id="exactly the window, and an answer of one token",
        ),
        pytest.param(exactly(BASE, 1000, 1000), "whole", "", 0, id="one that fits"),
        pytest.param(exactly(NEW, 4096, 2050), "cut", "tokens", 2046, id="half is left"),
        pytest.param(exactly(NEW, 9200, 2051), "cut", "tokens", 7149, id="half and a BOS"),
        pytest.param(exactly(NEW, 4095, 4095, 1), "whole", "", 0, id="just fits 0.30.11"),
        pytest.param(replace(NEW, prompt_tokens=2050), "unknown", "", 0, id="only half's mark"),
        pytest.param(exactly(NEW, 4000, 4000, 96), "whole", "", 0, id="the answer just fits"),
        pytest.param(exactly(NEW, 4000, 4000, 97), "cut", "generation", 2045, id="it does not"),
        pytest.param(
            replace(BASE, version="0.12.6", truncation_forbidden=True, answer_tokens=1),
            "whole",
            "",
            0,
            id="cutting was forbidden",
        ),
        pytest.param(
            replace(exactly(NEW, 5000, 2051), truncation_forbidden=True),
            "cut",
            "tokens",
            2949,
            id="forbidden in vain, as on /v1",
        ),
        pytest.param(
            replace(BROKEN_OFF, counted=Count(500, exact=True)), "whole", "", 0, id="broken off"
        ),
        pytest.param(BROKEN_OFF, "unknown", "", 0, id="broken off, nothing counted"),
        pytest.param(
            exactly(replace(BASE, window_tokens=8192), 1500, 1024), "cut", "", 476, id="less loaded"
        ),
        pytest.param(exactly(BASE, 500, 511), "whole", "", 0, id="a template not known yet"),
        pytest.param(exactly(BASE, 1010, 1020, 1), "unknown", "", 0, id="the same near the window"),
        pytest.param(
            replace(about(OTHER, 1000, 1024), window_tokens=NOT_TOLD),
            "whole",
            "",
            0,
            id="servers that refuse",
        ),
        pytest.param(about(OTHER, 2000, 1024), "cut", "", 976, id="others that cut"),
        pytest.param(
            replace(about(BASE, 800, 90), prompt_bytes=1000),
            "unknown",
            "",
            0,
            id="lost by a template",
        ),
        pytest.param(
            replace(about(BASE, 800, 90), prompt_bytes=1000, truncation_forbidden=True),
            *("unknown", "", 0),
            id="lost by a template, cutting was forbidden",
        ),
        pytest.param(
            replace(all_told(90, 90), counted=Count(800, exact=False, error_percent=10)),
            *("unknown", "", 0),
            id="lost by a template, and the log tells all",
        ),
        pytest.param(
            replace(about(BASE, 800, 704), prompt_bytes=1000), "whole", "", 0, id="a little short"
        ),
        pytest.param(
            replace(about(BASE, 800, 703), prompt_bytes=1000), "unknown", "", 0, id="short"
        ),
        pytest.param(about(BASE, 1100, 900), "cut", "", 200, id="cut, or lost by a template"),
        pytest.param(
            replace(exactly(NEW, 800, 90), truncation_forbidden=True),
            *("unknown", "", 0),
            id="forbidden, and far fewer than counted",
        ),
        pytest.param(
            replace(exactly(NEW, 800, 784), truncation_forbidden=True),
            *("whole", "", 0),
            id="forbidden, and a few fewer than counted",
        ),
        pytest.param(
            replace(BASE, counted=Count(1024, exact=True, is_partial=True), answer_tokens=1),
            *("unknown", "", 0),
            id="counted without what the template leaves out",
        ),
        pytest.param(exactly(NEW, 3000, 2050), "cut", "", 950, id="one that fits has no stage"),
        pytest.param(OTHER, "unknown", "", 0, id="others, nothing counted"),
        pytest.param(
            replace(exactly(OTHER, 5000, 0), prompt_tokens=NOT_TOLD),
            "unknown",
            "",
            0,
            id="others that tell nothing of a prompt beyond the window",
        ),
        pytest.param(
            exactly(replace(BASE, version="0.30.0", window_tokens=1000), 1010, 1010, 1),
            "whole",
            "",
            0,
            id="beyond the window asked for, not beyond the runner's",
        ),
        pytest.param(
            replace(BASE, prompt_tokens=900, log=CUT),
            "unknown",
            "",
            0,
            id="another's line, by size",
        ),
        pytest.param(
            replace(BROKEN_OFF, counted=Count(1100, exact=True), log=CUT),
            "cut",
            "",
            NOT_KNOWN,
            id="another's line, larger than ours",
        ),
        pytest.param(
            replace(
                BROKEN_OFF,
                counted=Count(500, exact=True),
                log=LogEvidence(cuts=(LoggedCut(400, 256),)),
            ),
            "whole",
            "",
            0,
            id="another's line, of a smaller window",
        ),
        pytest.param(
            replace(BROKEN_OFF, prompt_bytes=5000, log=CUT),
            "unknown",
            "",
            0,
            id="another's line, of more tokens than we sent bytes",
        ),
        pytest.param(dropping(900, 900), "cut", "messages", NOT_KNOWN, id="messages, by the log"),
        pytest.param(dropping(900, 900, 800), "unknown", "", 0, id="ours or another's messages"),
        pytest.param(dropping(1010, 1010), "unknown", "", 0, id="nothing that helped was dropped"),
        pytest.param(all_told(900, 900), "whole", "", 0, id="the log tells all"),
        pytest.param(all_told(900, 800), "unknown", "", 0, id="a log of another request"),
        pytest.param(dropping(1000, 1000), "cut", "messages", NOT_KNOWN, id="dropped till it fit"),
        pytest.param(
            replace(dropping(900), prompt_tokens=NOT_TOLD),
            "cut",
            "messages",
            NOT_KNOWN,
            id="messages, by the log alone",
        ),
        pytest.param(
            replace(BASE, prompt_tokens=900, log=LogEvidence(prompts=(LoggedPrompt(900),))),
            "unknown",
            "",
            0,
            id="a log without debug lines",
        ),
    ],
)
def test_cases(evidence: Evidence, outcome: str, stage: str, cut_tokens: int | Unavailable) -> None:
    """Each of these cases has its verdict."""
    verdict = judge(evidence)
    assert (verdict.outcome, verdict.stage, verdict.cut_tokens) == (outcome, stage, cut_tokens)
    assert verdict.evidence


PROMPT = Verdict("whole", "it fits")
FULL = replace(BASE, answer_tokens=25, window_tokens=1000, log=LOG_NOT_READ)


@pytest.mark.parametrize(
    ("era", "seen", "answer", "reason", "outcome", "stage", "gone"),
    [
        # The last token of an answer is not evaluated: 977 + 24 is one more than is held.
        (era_of("0.9.3"), 976, 25, "stop", "whole", "", 0),
        (era_of("0.9.3"), 976, 25, "length", "whole", "generation", 0),
        (era_of("0.9.3"), 975, 25, "length", "whole", "", 0),
        (era_of("0.9.3"), 977, 25, "stop", "cut", "generation", 498),
        (era_of("0.9.3"), 977, 25 + 497, "stop", "cut", "generation", 498),
        (era_of("0.9.3"), 977, 25 + 498, "stop", "cut", "generation", 973),
        (era_of("0.9.3"), 977, 25 + 5000, "stop", "cut", "generation", 973),
        (era_of("0.9.3"), 1000, 25, "stop", "cut", "generation", 498),
        (era_of("0.9.3"), 1001, 25, "stop", "whole", "", 0),
        (era_of("0.9.3"), 4, 5000, "stop", "whole", "", 0),
        (
            era_of("0.9.3"),
            5,
            5000,
            "stop",
            "unknown",
            "",
            0,
        ),  # all of it is kept if one is a BOS token
        (era_of("0.9.3"), 6, 5000, "stop", "cut", "generation", 2),
        (era_of("0.33.0"), 999, 25, "length", "whole", "generation", 0),
        (era_of("0.33.0"), 1000, 25, "stop", "cut", "generation", 509),
        (UNKNOWN_ERA, 975, 25, "stop", "whole", "", 0),
        (UNKNOWN_ERA, 976, 25, "stop", "unknown", "", 0),
        (UNKNOWN_ERA, 1000, 25, "stop", "unknown", "", 0),
        (UNKNOWN_ERA, 1001, 25, "stop", "cut", "generation", 510),
    ],
)
def test_what_an_answer_pushes_out(
    era: Era, seen: int, answer: int, reason: str, outcome: str, stage: str, gone: int
) -> None:
    """Half of what is held, but for the first four tokens, at each shift; never more than was there."""
    evidence = replace(FULL, answer_tokens=answer, done_reason=reason)
    verdict = after_the_answer(evidence, era, PROMPT, seen)
    assert (verdict.outcome, verdict.stage, verdict.cut_tokens) == (outcome, stage, gone)


@pytest.mark.parametrize(
    ("prompts", "shifts", "stage"),
    [((), 1, "generation"), ((900,), 1, "generation"), ((900, 800), 1, ""), ((), 0, "")],
)
def test_the_log_alone_tells_of_a_shift(prompts: tuple[int, ...], shifts: int, stage: str) -> None:
    """Where it can only be about this request."""
    log = LogEvidence(prompts=tuple(map(LoggedPrompt, prompts)), shifts=shifts)
    verdict = after_the_answer(replace(FULL, log=log), era_of("0.9.3"), PROMPT, NOT_TOLD)
    assert verdict.stage == stage


@pytest.mark.parametrize(
    ("version", "logged", "outcome"),
    [
        ("0.9.3", ((976, 1010),), "whole"),
        ("0.9.3", ((976, 999),), "cut"),
        ("0.33.0", ((976, 1001),), "whole"),
        ("0.33.0", ((976, 1000),), "cut"),
        ("0.9.3", ((975, 10),), "whole"),
        ("0.9.3", ((976, 0),), "whole"),
        ("0.9.3", ((976, 990), (976, 980)), "whole"),
    ],
)
def test_the_runners_own_window_is_in_the_log(
    version: str, logged: tuple[tuple[int, int], ...], outcome: str
) -> None:
    """It counts where one prompt of this size is logged with it; a runner that pads keeps a place free."""
    log = LogEvidence(prompts=tuple(LoggedPrompt(*one) for one in logged))
    verdict = after_the_answer(replace(FULL, log=log), era_of(version), PROMPT, 976)
    assert verdict.outcome == outcome


def broken_off(version: str, window: int, counted: Count) -> Evidence:
    """A request whose answer never came to its end: nothing is known but what was counted before."""
    return replace(BROKEN_OFF, version=version, window_tokens=window, counted=counted)


@pytest.mark.parametrize(
    ("version", "window", "tokens", "outcome"),
    [
        ("0.9.3", 1024, 1024, "whole"),
        ("0.9.3", 1024, 1025, "cut"),
        ("0.33.0", 1000, 999, "whole"),
        ("0.33.0", 1000, 1000, "unknown"),
        ("0.33.0", 1000, 1023, "unknown"),
        ("0.33.0", 1000, 1024, "cut"),
    ],
)
def test_an_exact_count_against_the_window(
    version: str, window: int, tokens: int, outcome: str
) -> None:
    """Without an answer: whole up to the window, cut beyond the runner's, which may be a little larger."""
    assert judge(broken_off(version, window, Count(tokens, exact=True))).outcome == outcome


def test_an_estimate_beyond_the_window_without_an_answer() -> None:
    """It is cut if even the least that it may be does not fit, and if nobody told Ollama to refuse."""
    sure = broken_off("0.12.6", 1024, Count(2000, exact=False, error_percent=10))
    perhaps = replace(sure, counted=Count(1100, exact=False, error_percent=10))
    words = "about 2,000 tokens do not fit the window of 1,024"
    assert judge(sure) == Verdict("cut", words, "", NOT_KNOWN)
    assert judge(perhaps).outcome == "unknown"
    assert judge(replace(sure, truncation_forbidden=True)).outcome == "whole"


@pytest.mark.parametrize(
    ("base", "counted", "told", "more"),
    [
        (BASE, 500, 511, 11),
        (BASE, 500, 516, 16),
        (BASE, 500, 517, None),
        (NEW, 2000, 2040, 40),
        (NEW, 2000, 2041, None),
        (BASE, 986, 987, 1),
        (BASE, 987, 988, None),
        (replace(NEW, version="0.30.0"), 2000, 2040, 40),
        (replace(NEW, version="0.30.0"), 2000, 2041, None),
    ],
)
def test_a_little_more_than_counted(
    base: Evidence, counted: int, told: int, more: int | None
) -> None:
    """Up to 16 tokens or 2 % more than counted are the template's; twice that must still fit the window."""
    verdict = judge(exactly(base, counted, told, 1))
    if more is None:
        assert verdict.outcome == "unknown"
    else:
        words = f"{told:,} tokens evaluated, {more} more than counted before"
        assert verdict == Verdict("whole", words)


def test_tokens_beyond_the_count_take_room_from_the_answer() -> None:
    """The server's own number decides whether the answer fits, not the smaller one that was counted."""
    assert judge(exactly(BASE, 500, 511, 514)).outcome == "whole"
    assert judge(exactly(BASE, 500, 511, 515)).stage == "generation"


def test_the_count_decides_about_the_answer_where_the_server_does_not_tell() -> None:
    """Ollama 0.30.0 leaves cached tokens out of its number: then the exact count shows how full the window was."""
    base = replace(BASE, version="0.30.0")
    assert judge(exactly(base, 1000, 300, 24)).outcome == "whole"
    verdict = judge(exactly(base, 1000, 300, 25))
    assert (verdict.outcome, verdict.stage, verdict.cut_tokens) == ("cut", "generation", 509)


@pytest.mark.parametrize(
    ("version", "told", "logged", "cut_tokens"),
    [
        ("0.30.0", 300, (900,), 100),
        ("0.30.0", 900, (900,), 100),
        ("0.30.0", 901, (900,), 0),
        ("0.30.0", 300, (900, 800), 0),
        ("0.30.0", 300, (), 0),
        ("0.30.1", 900, (1000,), 100),
        ("0.30.1", 900, (), 100),
    ],
)
def test_the_log_has_the_cached_tokens(
    version: str, told: int, logged: tuple[int, ...], cut_tokens: int
) -> None:
    """Where the server's number leaves them out, the log tells how much the model saw, if it is of this request."""
    log = LogEvidence(prompts=tuple(map(LoggedPrompt, logged)))
    base = replace(BASE, version=version, window_tokens=4096, log=log)
    assert judge(exactly(base, 1000, told)).cut_tokens == cut_tokens


@pytest.mark.parametrize(
    ("evidence", "size", "gone"),
    [
        (BASE, 5000, 3976),
        (about(BASE, 5800, 1024), 6000, 4976),
        (about(BASE, 5200, 1024), 5000, 4176),
    ],
)
def test_several_logged_cuts(evidence: Evidence, size: int, gone: int) -> None:
    """The one that is nearest to the count is ours, without a count the last one."""
    cuts = (LoggedCut(6000, 1024), LoggedCut(5000, 1024))
    words = f"Ollama's log: a prompt of {size:,} tokens was cut to 1,024"
    verdict = judge(replace(evidence, log=LogEvidence(cuts=cuts)))
    assert verdict == Verdict("cut", words, "tokens", gone)
    turned = judge(replace(evidence, log=LogEvidence(cuts=cuts[::-1])))
    assert turned.cut_tokens == (4976 if evidence is BASE else gone)


@pytest.mark.parametrize(
    ("evidence", "is_ours"),
    [
        (exactly(BASE, 3000, 1024), False),
        (exactly(BASE, 5610, 1000), False),
        (about(BASE, 4000, 1024), True),
        (about(replace(BASE, version="0.30.0"), 4000, 1024), False),
        (broken_off("0.9.3", 1024, Count(1100, exact=False, error_percent=10)), False),
        (replace(BASE, version="0.30.0", prompt_tokens=300), True),
        (replace(BASE, version="0.30.0", prompt_tokens=1024), True),
        (replace(BASE, version="0.30.0", prompt_tokens=1025), False),
        (replace(BASE, prompt_tokens=300), False),
        (BROKEN_OFF, True),
    ],
)
def test_whose_cut_was_logged(evidence: Evidence, *, is_ours: bool) -> None:
    """Ours, if the prompt may have been so large, and what was left of it is what the server evaluated.

    An estimate bounds the prompt only where the server's number does not show what was left.
    """
    verdict = judge(replace(evidence, log=CUT))
    words = "Ollama's log: a prompt of 5,610 tokens was cut to 1,024"
    assert (verdict.evidence == words) is is_ours


@pytest.mark.parametrize(
    ("size", "told", "outcome"),
    [(900, 900, "whole"), (900, 901, "unknown"), (900, NOT_TOLD, "whole"), (0, 900, "unknown")],
)
def test_few_bytes_are_few_tokens(size: int, told: int | Unavailable, outcome: str) -> None:
    """Unless the server evaluated more tokens than bytes were sent; no size is no evidence."""
    evidence = replace(BASE, prompt_bytes=size, prompt_tokens=told)
    assert judge(evidence).outcome == outcome


@pytest.mark.parametrize(
    ("estimated", "told", "gone"), [(3000, 900, 2100), (950, 949, 1), (950, 950, NOT_KNOWN)]
)
def test_how_much_of_dropped_messages_is_gone(
    estimated: int, told: int, gone: int | Unavailable
) -> None:
    """As many tokens as were estimated and not evaluated, if the estimate shows any."""
    counted = Count(estimated, exact=False, error_percent=10)
    verdict = judge(replace(dropping(told, told), counted=counted))
    words = "Ollama's log: messages were dropped because they did not fit the window"
    assert verdict == Verdict("cut", words, "messages", gone)


@pytest.mark.parametrize(("window", "answer", "gone"), [(6, 2, 1), (6, 3, 2)])
def test_a_shift_of_a_tiny_window_is_at_least_a_token(window: int, answer: int, gone: int) -> None:
    evidence = replace(FULL, window_tokens=window, answer_tokens=answer)
    verdict = after_the_answer(evidence, era_of("0.9.3"), PROMPT, window)
    assert verdict.cut_tokens == gone


def test_a_prompt_logged_without_a_window() -> None:
    """The window that was asked for counts then."""
    log = LogEvidence(prompts=(LoggedPrompt(977),))
    verdict = after_the_answer(replace(FULL, log=log), era_of("0.9.3"), PROMPT, 977)
    assert (verdict.outcome, verdict.stage) == ("cut", "generation")
