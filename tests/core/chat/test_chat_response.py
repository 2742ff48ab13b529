"""Reading an answer's usage from its bytes, and filtering them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.events import NOT_TOLD, BrokeOff
from aider_guard.core.chat.response import AnswerHead, Meter, Usage, UsageFilter, with_piece
from aider_guard.core.readings import Unavailable

AT = "2026-01-02T03:04:05.123456789Z"
DONE = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 9,
    "load_duration": 1_500_000_000,
    "prompt_eval_count": 321,
    "prompt_eval_duration": 2_000_000_000,
    "eval_count": 12,
    "eval_duration": 500_000_000,
}


def ndjson(*pieces: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(piece, separators=(",", ":")).encode() + b"\n" for piece in pieces)


def sse(*pieces: dict[str, Any]) -> bytes:
    events = b"".join(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces)
    return events + b"data: [DONE]\n\n"


def said(text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": "a", "created_at": AT, "message": message, "done": False, **more}


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def read(content: bytes, size: int = 0) -> Usage:
    meter = Meter()
    for at in range(0, len(content), size or len(content) or 1):
        meter.feed(content[at : at + (size or len(content))])
    return meter.usage


CHAT = ndjson(said("Hé"), said(' "done":true {'), said("", **DONE))
OPENAI = sse(
    chunk({"role": "assistant", "content": "hi"}),
    chunk({}, "stop"),
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 321,
            "completion_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 300},
        },
    },
)
WHOLE = json.dumps(said("Hé", **DONE)).encode()


@given(st.sampled_from([CHAT, OPENAI, WHOLE]), st.data())
def test_an_answer_reads_the_same_in_any_chunking(content: bytes, data: st.DataObject) -> None:
    """Pieces of a line, several lines at once, half a character."""
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=12).map(sorted))
    meter = Meter()
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        meter.feed(content[start:end])
    assert meter.usage == read(content)


def test_ollamas_numbers_are_read_in_seconds() -> None:
    """The numbers are read from a stream and from one document alike."""
    for content in (CHAT, WHOLE, WHOLE + b"\n"):
        usage = read(content)
        assert (usage.prompt_tokens, usage.answer_tokens) == (321, 12)
        assert (usage.load_seconds, usage.prefill_seconds) == (1.5, 2.0)
        assert (usage.generation_seconds, usage.done_reason, usage.ended) == (0.5, "stop", True)


def test_what_ollama_leaves_out_is_not_told_or_zero() -> None:
    """Ollama omits zeros: a missing answer count is 0, a missing prompt count is unknown."""
    usage = read(ndjson(said("", done=True, done_reason="load")))
    assert (usage.prompt_tokens, usage.answer_tokens, usage.load_seconds) == (NOT_TOLD, 0, NOT_TOLD)


def test_openais_numbers_are_read() -> None:
    """They are in the event without a choice."""
    usage = read(OPENAI)
    assert (usage.prompt_tokens, usage.answer_tokens, usage.cached_tokens) == (321, 12, 300)
    assert (usage.done_reason, usage.ended, usage.texts) == ("stop", True, 1)


def test_llama_cpps_times_are_read() -> None:
    """The prompt is the sum of evaluated and cached tokens."""
    timings = {
        "cache_n": 300,
        "prompt_n": 21,
        "prompt_ms": 250.0,
        "predicted_n": 12,
        "predicted_ms": 1500.0,
    }
    usage = read(sse(chunk({"content": "x"}), chunk({}, "length", timings=timings)))
    assert (usage.prompt_tokens, usage.answer_tokens, usage.cached_tokens) == (321, 12, 300)
    assert (usage.prefill_seconds, usage.generation_seconds) == (0.25, 1.5)
    assert usage.done_reason == "length"


@pytest.mark.parametrize(
    ("timings", "prompt", "cached", "answer"),
    [
        ({"prompt_n": 21, "cache_n": 0}, 21, 0, NOT_TOLD),
        ({"prompt_n": 21}, NOT_TOLD, NOT_TOLD, NOT_TOLD),
        ({"cache_n": 300}, NOT_TOLD, NOT_TOLD, NOT_TOLD),
        ({"predicted_n": 0}, NOT_TOLD, NOT_TOLD, 0),
        ([], NOT_TOLD, NOT_TOLD, NOT_TOLD),
    ],
)
def test_llama_cpps_prompt_is_known_by_both_of_its_numbers(
    timings: Any, prompt: int | Unavailable, cached: int | Unavailable, answer: int | Unavailable
) -> None:
    """What was evaluated without what was cached would be too few tokens."""
    usage = read(ndjson({"timings": timings}))
    assert (usage.prompt_tokens, usage.cached_tokens) == (prompt, cached)
    assert usage.answer_tokens == answer


def test_numbers_that_a_later_piece_does_not_tell_stay_known() -> None:
    """A server may send its usage and its timings in different events."""
    timings = {"cache_n": 300, "prompt_n": 21, "predicted_n": 12}
    usage = read(ndjson({"timings": timings}, {"usage": {"prompt_tokens_details": 5}}))
    assert (usage.prompt_tokens, usage.answer_tokens, usage.cached_tokens) == (321, 12, 300)
    later = read(ndjson({"usage": {"completion_tokens": 7}}, {"timings": {}}))
    assert (later.prompt_tokens, later.answer_tokens) == (NOT_TOLD, 7)


@pytest.mark.parametrize(
    ("content", "is_broken"),
    [
        (b"", False),
        (b"<html>", False),
        (CHAT, False),
        (OPENAI, False),
        (ndjson(said("a")), True),
        (sse(chunk({"content": "a"})), True),
        (ndjson(said("a"), {"error": "out of memory"}), True),
        (ndjson(said("", **DONE), {"error": "out of memory"}), True),
    ],
)
def test_an_answer_without_its_end_or_with_an_error_is_broken(
    content: bytes, is_broken: bool
) -> None:
    """Though the connection ended in order; where nothing was answered, nothing was broken off."""
    assert read(content).is_broken is is_broken


LOOP = [said(" the")] * 31
THOUGHT = {"message": {"role": "assistant", "content": "", "thinking": "\n"}, "done": False}
FAILED = {"error": {"message": "out of memory"}}
ENDS: list[tuple[bytes, BrokeOff]] = [
    (b"", ""),
    (CHAT, ""),
    (OPENAI, ""),
    (ndjson(said("a")), "no_end"),
    (ndjson(said("a"))[:-1], "no_end"),
    (ndjson(THOUGHT), "no_end"),
    (sse(chunk({"content": "a"}), chunk({"content": ""})), "no_end"),
    (json.dumps({"choices": [{"message": {"content": "a"}}]}).encode(), "no_end"),
    (ndjson(*LOOP), "repetition"),
    (ndjson(*LOOP, said("")), "repetition"),
    (ndjson(*LOOP[1:]), "no_end"),
    (ndjson(*LOOP, said("end")), "no_end"),
    (ndjson(*LOOP, said("", **DONE)), ""),
    (ndjson(*[THOUGHT] * 31), "repetition"),
    (ndjson(*[{"response": "6", "done": False}] * 31), "repetition"),
    (sse(*[chunk({"content": "6"})] * 31), "repetition"),
    (sse(*[chunk({"reasoning_content": "6"})] * 31), "repetition"),
    (ndjson(said("a"), {"error": "out of memory"}), ""),
    (sse(chunk({"content": "a"}), FAILED), ""),
    (sse(chunk({"content": "a"})) + b'error: {"message":"out of memory"}\n\n', "error"),
]


@pytest.mark.parametrize(("content", "how"), ENDS, ids=range(len(ENDS)))
def test_how_an_answer_broke_off_that_aider_takes_as_whole(content: bytes, how: BrokeOff) -> None:
    """Of an error in the protocol Aider hears, and asks again; llama.cpp's older way it does not read."""
    assert read(content).broke_off == how


def test_pieces_are_counted() -> None:
    """Whatever they hold; lines that are no JSON objects are none."""
    usage = read(ndjson(said("a"), said(""), {"x": 1}) + b"[1]\nx\n\n{\n")
    assert (usage.pieces, usage.texts) == (3, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ndjson(said("a"), {"error": "model runner has unexpectedly stopped"}), "model runner has"),
        (
            sse(chunk({"content": "a"}), {"error": {"message": "out of memory", "code": 500}}),
            "out of",
        ),
        (b'error: {"code":500,"message":"x"}\n\n', "x"),
        (b'data: {"error": 5}\n\n', "5"),
    ],
)
def test_an_error_in_the_middle_is_heard(content: bytes, words: str) -> None:
    """Each protocol has its own form for an error."""
    assert read(content).error.startswith(words)


def test_an_answer_from_elsewhere_is_heard() -> None:
    """Ollama's answer names the other machine."""
    assert read(ndjson(said("a", remote_host="https://ollama.com:443"))).remote.startswith("https")


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_read_without_a_fault(content: bytes, size: int) -> None:
    """No bytes make the meter raise."""
    assert read(content, size).prompt_tokens == NOT_TOLD


@pytest.mark.parametrize("value", [-1, True, "7", None, [], 10**400, float("inf")])
def test_numbers_of_a_wrong_kind_count_for_nothing(value: Any) -> None:
    """Negative, boolean, textual and impossibly large counts are ignored."""
    usage = read(ndjson(said("", done=True, prompt_eval_count=value, load_duration=value)))
    assert (usage.prompt_tokens, usage.load_seconds) == (NOT_TOLD, NOT_TOLD)


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    """A line that is too long is dropped, and the next one is read again."""
    meter = Meter()
    for _ in range(4):
        meter.feed(b"x" * 1024 * 1024)
    assert len(meter._line) <= 4 * 1024 * 1024
    meter.feed(ndjson(said("the end of that line", **DONE)))
    assert not meter.usage.ended
    meter.feed(CHAT)
    assert meter.usage.ended


MOST_OF_A_LINE = 4 * 1024 * 1024


@pytest.mark.parametrize("cut", [0, 1, MOST_OF_A_LINE - 1, MOST_OF_A_LINE])
@pytest.mark.parametrize(("more", "is_read"), [(0, True), (1, False)])
def test_a_line_of_four_mebibytes_is_read(cut: int, more: int, is_read: bool) -> None:
    """And none that is longer by a byte, in one chunk or in two; what follows it is read again."""
    line = json.dumps({"response": "x"}).encode()
    line += b" " * (MOST_OF_A_LINE - len(line) + more)
    meter = Meter()
    meter.feed(line[:cut])
    meter.feed(line[cut:])
    assert meter.usage.texts == is_read
    assert meter.so_far.texts == 0
    meter.feed(b"\n")
    assert meter.so_far.texts == is_read
    meter.feed(line[: -1 - more] + b"\n")
    assert meter.so_far.texts == is_read + 1


CALL = {"function": {"name": "f", "arguments": {"remote_host": "x"}}}
NESTED = {"choices": [{"delta": {"content": "x"}}], "usage": {}, "more": {"choices": []}}
REMOTE = ndjson(
    {"model": "a", "remote_model": "b", "remote_host": "https://ollama.com:443", **said("hello")}
)


@given(st.integers(1, len(REMOTE)))
def test_not_a_word_of_an_answer_from_elsewhere_is_passed(size: int) -> None:
    """The first line names the other machine before any text."""
    head, passed = AnswerHead(), b""
    for at in range(0, len(REMOTE), size):
        piece = head.feed(REMOTE[at : at + size])
        if piece is None:
            break
        passed += piece
    else:
        pytest.fail("it was passed on")
    assert b"hello" not in passed


@given(
    st.sampled_from(
        [
            CHAT,
            WHOLE,
            OPENAI,
            ndjson({"error": "x"}),
            ndjson(said('"remote_host":"x"')),
            ndjson(said("", tool_calls=[CALL])),
            b"<html>",
            b"",
        ]
    ),
    st.integers(1, 400),
)
def test_all_other_answers_pass_whole(content: bytes, size: int) -> None:
    """No text of an answer makes it look remote."""
    head = AnswerHead()
    pieces = [head.feed(content[at : at + size]) for at in range(0, len(content), size)]
    assert b"".join(piece or b"" for piece in pieces) == content


@pytest.mark.parametrize(("size", "held"), [(4095, True), (4096, False)])
def test_an_answer_that_does_not_come_to_its_time_is_held_for_a_while(
    size: int, held: bool
) -> None:
    """For fewer than 4096 bytes; from then on nothing is held."""
    begin = b'{"model":"' + b"a" * (size - 10)
    head = AnswerHead()
    assert head.feed(begin) == (b"" if held else begin)
    assert head.feed(b'","created_at":') == ((begin if held else b"") + b'","created_at":')
    assert head.feed(b'"remote_host":"x"') == b'"remote_host":"x"'
    assert head.rest() == b""


@pytest.mark.parametrize(
    ("content", "passed"),
    [
        (b'{"model":"a","remote_host":"","created_at":', b'{"model":"a","remote_host":"","created_at":'),
        (b'{"model":"a","remote_host":"x', None),
        (b'{"model":"a","remote_model" : "x', None),
        (b'{"remote_host":"x"', None),
        (b'"created_at":"","remote_host":"x"', b'"created_at":"","remote_host":"x"'),
        (b'{"model":"a"}\n', b'{"model":"a"}\n'),
        (b'{"mod', b""),
        (b'{"MODEL":', b'{"MODEL":'),
    ],
)  # fmt: skip
def test_what_stands_before_the_time_decides(content: bytes, passed: bytes | None) -> None:
    """A host or a model that is not empty, in an answer that begins as Ollama's do."""
    assert AnswerHead().feed(content) == passed


@given(st.integers(1, len(OPENAI)))
def test_usage_that_was_not_asked_for_is_taken_out(size: int) -> None:
    """Only the event without a choice is removed from the stream."""
    events = OPENAI.split(b"\n\n")
    wanted = b"\n\n".join(event for event in events if b'"choices": []' not in event)
    found = UsageFilter()
    pieces = [found.feed(OPENAI[at : at + size]) for at in range(0, len(OPENAI), size)]
    assert b"".join(pieces) == wanted


@given(
    st.sampled_from(
        [
            CHAT,
            WHOLE,
            b"<html>\n",
            b"data",
            sse(chunk({"content": '"choices": []'})),
            sse({**NESTED, "usage": {"prompt_tokens": 1}}),
            b"\n\n: ping\n\n",
        ]
    ),
    st.integers(1, 300),
)
def test_other_streams_pass_the_filter_whole(content: bytes, size: int) -> None:
    """Texts about usage, and documents without a final newline, pass whole."""
    found = UsageFilter()
    pieces = [found.feed(content[at : at + size]) for at in range(0, len(content), size)]
    assert b"".join(pieces) + found.rest() == content
    assert found.rest() == b""


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b'data: {"choices": [], "usage": {"x": 1}}\n\nx\n', b"x\n"),
        (b'data:{"choices":[],"usage":{"x":1}}\n\nx\n', b"x\n"),
        (b'data:{"choices":[],"usage":{"x":1}}\n\n\nx\n', b"\nx\n"),
        (b'data:{"choices":[],"usage":{"x":1}}\nx\n\n', b"x\n\n"),
        (b'data:{"choices":[],"usage":{}}\n\n', None),
        (b'data:{"choices":[],"usage":{"x":1}\n\n', None),
        (b'data:{"choices":[1],"usage":{"x":1},"more":{"choices":[]}}\n\n', None),
        (b'data:[{"choices":[],"usage":{"x":1}}]\n\n', None),
        (b'{"choices":[],"usage":{"x":1}}\n\n', None),
    ],
)
def test_an_event_of_usage_goes_with_its_empty_line(content: bytes, left: bytes | None) -> None:
    """And nothing else does: no later empty line, and no event that is no usage."""
    assert UsageFilter().feed(content) == (content if left is None else left)


@pytest.mark.parametrize(("more", "is_held"), [(0, True), (1, False)])
def test_a_line_of_one_mebibyte_is_held(more: int, is_held: bool) -> None:
    """And none that is longer by a byte: no server writes such usage."""
    start = b"data: ".ljust(1024 * 1024 + more, b" ")
    assert UsageFilter().feed(start) == (b"" if is_held else start)


@given(st.integers(1, 300))
def test_a_last_line_that_has_no_end_is_not_lost(size: int) -> None:
    """It passes unless it is the usage, and so do held first bytes."""
    start, last = sse(chunk({"content": "x"})), b"data: [DONE]"
    content, found = start + last, UsageFilter()
    pieces = [found.feed(content[at : at + size]) for at in range(0, len(content), size)]
    assert b"".join(pieces) + found.rest() == content
    usage = UsageFilter()
    end = b'data: {"choices": [], "usage": {"prompt_tokens": 1}}'
    assert usage.feed(start + end) + usage.rest() == start
    head = AnswerHead()
    assert (head.feed(b'{"model":"a"}'), head.rest(), head.rest()) == (b"", b'{"model":"a"}', b"")


@pytest.mark.parametrize(("value", "is_told"), [(0, True), (2**53 - 1, True), (2**53, False)])
def test_a_count_has_a_limit(value: int, is_told: bool) -> None:
    """What a float could not hold exactly is no count of tokens."""
    usage = read(ndjson(said("", done=True, prompt_eval_count=value)))
    assert usage.prompt_tokens == (value if is_told else NOT_TOLD)


@pytest.mark.parametrize(
    ("value", "seconds"), [(0, 0.0), (10**18 - 1024, 1e9), (10**18, NOT_TOLD), (True, NOT_TOLD)]
)
def test_a_time_has_a_limit(value: Any, seconds: Any) -> None:
    """Thirty years in nanoseconds are no time that a load takes."""
    usage = read(ndjson(said("", done=True, load_duration=value)))
    assert usage.load_seconds == (seconds if seconds is NOT_TOLD else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("piece", "texts"),
    [
        ({"message": {"content": "x"}}, 1),
        ({"message": {"content": ""}}, 0),
        ({"message": {"content": "", "tool_calls": [{}]}}, 1),
        ({"response": "x"}, 1),
        ({"response": ""}, 0),
        ({"choices": [{"delta": {"content": "x"}}]}, 1),
        ({"choices": [{"delta": {"tool_calls": [{}]}}]}, 1),
        ({"choices": [{"delta": {"content": ""}}]}, 0),
        ({"choices": [{"message": {"content": "x"}}]}, 1),
        ({"choices": [{"text": "x"}]}, 1),
        ({"choices": [{"text": ""}]}, 0),
        ({"choices": []}, 0),
        ({"other": 1}, 0),
    ],
)
def test_pieces_that_say_something_are_counted(piece: dict[str, Any], texts: int) -> None:
    """A text or a call of a tool, in each protocol; an empty one says nothing."""
    assert read(ndjson(piece)).texts == texts


@pytest.mark.parametrize(("told", "expected"), [({"prompt_eval_cached_count": 0}, 0), ({}, None)])
def test_ollamas_count_of_cached_tokens(told: dict[str, int], expected: int | None) -> None:
    """A number from 0.33.3 on, also where it is 0; before, nothing was said of it."""
    last = {"message": {"content": ""}, "done": True, "prompt_eval_count": 5, **told}
    cached = with_piece(Usage(), last).cached_tokens
    assert cached == expected if told else isinstance(cached, Unavailable)
