"""What becomes of a request for text at the door."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import LOCAL, body, listing, message, settings
from door.handler_services import Desk, run, text_of

from aider_guard.core.chat.events import RequestFinished, RequestRefused, RequestStarted
from aider_guard.core.chat.types import Count, DoorRole, Upstream
from aider_guard.core.readings import ContextRow, Unavailable
from aider_guard.door.interfaces import Abort, Forward, Pass, Reply, Retry, Trouble

CHAT = [message("system", prompts.DIFF), message("user", "fix it")]
BODY = body("chat", CHAT)
BIG = body(
    "chat",
    [
        CHAT[0],
        message("user", listing(prompts.CHAT_FILES, {"big.py": "x" * 20_000, "a.py": "y" * 900})),
        message("assistant", "Ok, any changes I propose will be to those files."),
        message("user", "fix a.py"),
    ],
)
COMMIT = body(
    "chat", [message("system", prompts.COMMIT), message("user", "# Diffs:\n+a")], stream=False
)
BROKEN = Trouble("broken", "peer closed connection")


def piece(text: str = "", **more: Any) -> bytes:
    answer = {"role": "assistant", "content": text}
    said = {"model": "qwen3:8b", "created_at": "x", "message": answer, "done": False, **more}
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


LAST = piece(
    done=True,
    done_reason="stop",
    load_duration=20_000_000,
    prompt_eval_count=500,
    prompt_eval_duration=1_000_000_000,
    eval_count=7,
    eval_duration=500_000_000,
)


def sent_body(decision: object) -> Any:
    assert isinstance(decision, Forward)
    return json.loads(decision.body)


def test_a_request_that_fits_goes_on_before_it_is_counted() -> None:
    """With the pin, and its count is told at the end."""
    desk = Desk()

    async def story() -> None:
        desk.counts.gate = asyncio.Event()
        visit = desk.visit(BODY)
        sent = sent_body(await visit.begin())
        assert sent["options"]["num_ctx"] == 8192
        assert sent["truncate"] is False
        assert desk.counts.counted == 0
        assert desk.events == [RequestStarted(1, "main", "chat", "qwen3:8b")]
        desk.now += 2
        assert visit.passed(piece("It is ")) == piece("It is ")
        desk.now += 1
        assert visit.passed(LAST) == LAST
        desk.counts.gate.set()
        await visit.end("answered")

    run(story())
    size = len(prompts.DIFF) + len("fix it")
    assert desk.events[1] == RequestFinished(
        1,
        "main",
        "chat",
        "qwen3:8b",
        "answered",
        desk.events[1].verdict,  # type: ignore[union-attr]  # judged elsewhere
        window_tokens=8192,
        prompt_tokens=500,
        answer_tokens=7,
        counted_tokens=size,
        counted_exactly=True,
        load_seconds=0.02,
        prefill_seconds=1.0,
        generation_seconds=0.5,
        first_byte_seconds=2.0,
        done_reason="stop",
        parts=(ContextRow("system", "", len(prompts.DIFF)), ContextRow("history", "", 6)),
    )
    assert desk.residency.told == ["begins qwen3:8b", "ended qwen3:8b 0.0"]


def test_what_was_seen_whole_is_learned_from() -> None:
    """And nothing else is: a cut prompt's number is not the prompt's."""
    desk = Desk()

    async def story(visit_body: bytes) -> None:
        visit = desk.visit(visit_body)
        await visit.begin()
        visit.passed(piece("x") + LAST)
        await visit.end("answered")

    run(story(BODY))
    (finished,) = [event for event in desk.events if isinstance(event, RequestFinished)]
    assert finished.verdict.outcome == "whole"
    assert desk.counts.learned == [(Count(len(prompts.DIFF) + 6, exact=True), 500)]
    desk.residency.version = "0.30.0"  # its number leaves out what was cached
    run(story(BODY))
    assert len(desk.counts.learned) == 1


def test_the_end_of_a_stream_without_a_newline_is_passed_on() -> None:
    """The door asked for the usage and takes it out again, line by line."""
    desk = Desk()

    async def story() -> bytes:
        visit = desk.visit(body("openai_chat", CHAT), "/v1/chat/completions")
        await visit.begin()
        passed = visit.passed(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]')
        assert isinstance(passed, bytes)
        passed += visit.rest()
        await visit.end("answered")
        return passed

    assert run(story()).endswith(b"\n\ndata: [DONE]")
    assert desk.visit(b"no request").rest() == b""


@pytest.mark.parametrize("mlx", [True, False])
def test_an_answer_beyond_the_window_is_no_loss_where_mlx_runs_the_model(*, mlx: bool) -> None:
    """There the window grows with the answer; elsewhere the beginning of the prompt was pushed out."""
    desk = Desk()
    desk.shelf.mlx = ("qwen3:8b",) if mlx else ()

    async def story() -> None:
        visit = desk.visit(BODY)
        await visit.begin()
        more: dict[str, Any] = {
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 500,
            "eval_count": 9000,
        }
        visit.passed(piece("x") + piece(**more))
        await visit.end("answered")

    run(story())
    (finished,) = [event for event in desk.events if isinstance(event, RequestFinished)]
    assert finished.verdict.outcome == ("whole" if mlx else "cut")


def test_a_prompt_that_does_not_fit_is_not_sent() -> None:
    """The answer names what helps, and the next request finds neither it nor the message twice."""
    desk = Desk()
    reply = run(desk.visit(BIG).begin())
    said = text_of(reply)
    assert said.startswith("aider-guard: not sent: exactly ")
    assert "  \n`/drop big.py`   (frees " in said
    (refused,) = desk.events
    assert isinstance(refused, RequestRefused)
    assert (refused.reason, refused.window_tokens) == ("overflow", 8192)
    plain = said.removeprefix("aider-guard: ").replace("  \n", "\n").replace("`", "")
    assert "\n".join(refused.said) == plain
    assert refused.counted_tokens + 1024 - 8192 == refused.over_tokens  # type: ignore[operator]  # it was counted
    again = [*CHAT, message("assistant", said), CHAT[1]]
    assert sent_body(run(desk.visit(body("chat", again)).begin()))["messages"] == CHAT


@pytest.mark.parametrize(
    ("on_overflow", "counted", "forwarded"),
    [
        ("warn", None, True),
        ("refuse", Unavailable("no vocabulary"), True),
        ("refuse", Count(7168, exact=True), True),
        ("refuse", Count(7169, exact=True), False),
        ("refuse", Count(7169, exact=False, error_percent=10), False),
    ],
)
def test_only_what_is_too_large_is_refused(on_overflow: Any, counted: Any, forwarded: bool) -> None:
    """By its count, by a guess when nobody could count; never when the user only wants to be warned."""
    desk = Desk(settings(on_overflow=on_overflow))
    desk.counts.says = counted
    assert isinstance(run(desk.visit(BIG).begin()), Forward) is forwarded


@pytest.mark.parametrize(("trained", "forwarded"), [(40_960, True), (4096, False)])
def test_a_window_is_never_more_than_the_model_was_trained_for(
    trained: int, forwarded: bool
) -> None:
    """Ollama caps what the pin asks for, in silence; the number that is told is the true one."""
    desk = Desk()
    desk.facts.contexts = {"qwen3:8b": trained}
    desk.counts.says = Count(6000, exact=True)
    decision = run(desk.visit(BIG).begin())
    assert isinstance(decision, Forward) is forwarded
    if not forwarded:
        assert "too large for the window of 4,096 " in text_of(decision)
        (refused,) = desk.events
        assert isinstance(refused, RequestRefused)
        assert refused.window_tokens == 4096


def test_a_loss_in_a_smaller_window_is_told_by_that_window() -> None:
    """On an Ollama that only cuts, what was evaluated is near the trained context, far from the pin."""
    desk = Desk(settings(32_768, on_overflow="warn"))
    desk.residency.version, desk.facts.contexts = "0.9.3", {"qwen3:8b": 8192}
    desk.counts.says = Count(9000, exact=False, error_percent=20)

    async def story() -> None:
        visit = desk.visit(BIG)
        await visit.begin()
        visit.passed(piece("x", done=True, done_reason="stop", prompt_eval_count=7000))
        await visit.end("answered")

    run(story())
    (finished,) = [event for event in desk.events if isinstance(event, RequestFinished)]
    assert (finished.window_tokens, finished.verdict.outcome) == (8192, "cut")


def test_a_version_that_no_poll_has_told_yet_is_asked_for() -> None:
    """A new sidecar's first prompt is not sent without the word that nothing may be cut."""
    desk = Desk()
    desk.residency.version, desk.facts.said = Unavailable("not yet"), "0.30.11"
    assert sent_body(run(desk.visit(BODY).begin()))["truncate"] is False
    assert desk.facts.asked == [("qwen3:8b", True)]
    desk.residency.version = "0.12.5"
    assert "truncate" not in sent_body(run(desk.visit(BODY).begin()))
    assert desk.facts.asked[1:] == [("qwen3:8b", False)]


@pytest.mark.parametrize("version", ["0.12.5", "0.30.11", Unavailable("not read")])
def test_what_nobody_counted_in_time_is_refused_by_a_guess(version: str | Unavailable) -> None:
    """It is told as one. What the server evaluated of earlier prompts makes it better."""
    desk = Desk()
    desk.residency.version = version
    desk.counts.says = Unavailable("counting took longer than 2 s")
    big = body("chat", [CHAT[0], message("user", "word " * 6000)])
    said = text_of(run(desk.visit(big).begin()))
    size = -(-(len(prompts.DIFF) + 30_000) * 2 // 7) + 10
    assert said.startswith(f"aider-guard: not sent: about {size + 1024 - 8192:,} tokens too large")
    desk.counts.sizes.note_size(prompts.chat(said=("word " * 1000,)), 1100)
    assert isinstance(run(desk.visit(big).begin()), Forward)


NOT_SENT = message("assistant", "aider-guard: not sent: exactly 9 tokens too large\n/clear")


def after_refusals(*sizes: int) -> list[dict[str, str]]:
    """A chat with messages of these sizes that were refused, then a short one."""
    refused = [(message("user", "x" * size), NOT_SENT) for size in sizes]
    return [CHAT[0], *(one for pair in refused for one in pair), message("user", "go on")]


@pytest.mark.parametrize(
    ("sizes", "left_out"), [((3000,), 0), ((9000,), 1), ((9000, 2000), 1), ((2000, 9000), 2)]
)
def test_a_shorter_message_fits_although_the_refused_one_stays_in_aiders_chat(
    sizes: tuple[int, ...], left_out: int
) -> None:
    """It goes with the next message where it fits; else the oldest of them are left out until the rest does."""
    desk = Desk()

    async def story() -> Any:
        visit = desk.visit(body("chat", after_refusals(*sizes)))
        decision = await visit.begin()
        visit.passed(LAST)
        await visit.end("answered")
        return sent_body(decision)

    found = run(story())
    kept = [message("user", "x" * size) for size in sizes[left_out:]]
    assert found["messages"] == [CHAT[0], *kept, message("user", "go on")]
    assert found["options"]["num_ctx"] == 8192
    (finished,) = [event for event in desk.events if isinstance(event, RequestFinished)]
    size = len(prompts.DIFF) + sum(sizes[left_out:]) + len("go on")
    assert (finished.left_out, finished.counted_tokens) == (left_out, size)


def test_what_does_not_fit_without_the_refused_ones_either_is_refused_by_itself() -> None:
    """By how much this message is too large, not all of them together."""
    desk = Desk()
    many = after_refusals(*[9000] * 20)
    many[-1] = message("user", "y" * 8000)
    said = text_of(run(desk.visit(body("chat", many)).begin()))
    over = len(prompts.DIFF) + 8000 + 1024 - 8192
    assert said.startswith(f"aider-guard: not sent: exactly {over:,} tokens too large")
    assert "a shorter message fits (this one has 8,000 tokens)" in said
    assert desk.counts.counted <= 8


def test_with_warn_nothing_is_left_out() -> None:
    """The user wants all of it sent, whatever becomes of it."""
    desk = Desk(settings(on_overflow="warn"))
    sent = sent_body(run(desk.visit(body("chat", after_refusals(9000))).begin()))
    assert len(sent["messages"]) == 3


def test_a_commit_message_that_cannot_be_asked_for_is_given_up() -> None:
    """Aider must neither commit the door's words nor wait a minute."""
    desk = Desk()
    desk.counts.says = Count(9000, exact=True)
    diffs = "# Diffs:\n" + "+a\n" * 9000
    big = body("chat", [message("system", prompts.COMMIT), message("user", diffs)], stream=False)
    reply = run(desk.visit(big).begin())
    assert isinstance(reply, Reply)
    assert json.loads(reply.content)["message"]["content"] == ""
    (refused,) = desk.events
    assert isinstance(refused, RequestRefused)
    assert (refused.purpose, refused.role) == ("commit", "weak")


def test_an_editor_told_the_doors_words_has_nothing_to_edit() -> None:
    """The user was told already: no event."""
    desk = Desk()
    for form, path in (("chat", "/api/chat"), ("generate", "/api/generate")):
        told = [
            message("system", prompts.EDITOR_DIFF),
            message("user", "aider-guard: not sent: x\n/clear"),
        ]
        reply = run(desk.visit(body(form, told), path).begin())  # type: ignore[arg-type]  # a form
        assert text_of(reply).startswith("aider-guard: nothing to edit")
    assert desk.events == []


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/api/chat", {"model": "gpt-oss:120b-cloud", "messages": CHAT}),
        ("/api/chat", {"model": "qwen3:8b", "MODEL": "x:cloud", "messages": CHAT}),
        ("/api/generate", {"model": "x:Cloud", "prompt": "y"}),
        ("/api/generate", {"model": "x:cloud"}),
        ("/v1/chat/completions", {"model": "x:cloud", "messages": CHAT}),
        ("/v1/completions", {"model": "x:cloud", "prompt": "y"}),
        ("/api/chat", {"model": "stub", "messages": CHAT}),
    ],
)
def test_a_model_that_runs_elsewhere_is_not_asked(path: str, content: dict[str, Any]) -> None:
    """By its name, however it is spelled, or by what Ollama lists of it."""
    desk = Desk()
    desk.shelf.remote = {"stub": "https://ollama.com:443"}
    reply = run(desk.visit(json.dumps(content).encode(), path).begin())
    assert "this session stays on this machine" in text_of(reply)
    open_desk = Desk(settings(refuse_cloud=False))
    open_desk.shelf.remote = desk.shelf.remote
    open_desk.counts.says = Unavailable("?")
    allowed = run(open_desk.visit(json.dumps(content).encode(), path).begin())
    assert isinstance(allowed, Forward)


def test_an_answer_from_elsewhere_ends_before_its_first_word() -> None:
    """Whatever the name was."""
    desk = Desk()

    async def story() -> bytes | Reply:
        visit = desk.visit(BODY)
        await visit.begin()
        first = b'{"model":"a","remote_host":"https://ollama.com:443","created_at":"x"'
        reply = visit.passed(first + b',"message":{"content":"secret"}}\n')
        await visit.end("replied")
        return reply

    reply = run(story())
    assert "runs at https://ollama.com:443" in text_of(reply)
    assert desk.named() == ["RequestStarted", "RequestRefused"]
    assert desk.residency.told[-1] == "ended qwen3:8b ?"


NO_REQUESTS = [
    (b"no json", "/api/chat"),
    (b"[]", "/api/generate"),
    (b"\xef\xbb\xbf{}", "/v1/completions"),
    (b'{"a":' * 100_000, "/api/chat"),
    (b'{"x":' + b"9" * 5000 + b',"model":"x:cloud","messages":[]}', "/api/chat"),
    # Go's decoder leaves a text as it was at null.
    (b'{"model":"x:cloud","model":null,"messages":[{"role":"user"}]}', "/v1/chat/completions"),
]


@pytest.mark.parametrize(("content", "path"), [*NO_REQUESTS, (b"", "/v1/completions")])
def test_what_is_no_request_gets_the_servers_own_error(content: bytes, path: str) -> None:
    """Where the network is open: it is passed on as it came, and nothing is told. Elsewhere only what is empty is."""
    desk = Desk(settings(refuse_cloud=not content))

    async def story() -> None:
        visit = desk.visit(content, path)
        assert await visit.begin() == Forward(content)
        assert await visit.refused(400, b'{"error":"x"}') == Pass()
        assert visit.passed(b"x") == b"x"
        await visit.end("answered")

    run(story())
    assert desk.events == []


@pytest.mark.parametrize(("content", "path"), NO_REQUESTS)
def test_what_cannot_be_read_is_not_passed_on(content: bytes, path: str) -> None:
    """The server might read a name in it that was not seen here. The error has the form of the path's protocol."""
    reply = run(Desk().visit(content, path).begin())
    assert isinstance(reply, Reply)
    assert reply.status == 400
    said = json.loads(reply.content)["error"]
    words = said["message"] if path.startswith("/v1/") else said
    assert words == "aider-guard: the request cannot be read"


def test_where_a_model_runs_is_asked_before_it_is_sent_anything() -> None:
    """A server that says nothing is waited for as one that does not answer at all, and then that is said."""
    desk = Desk()

    async def story() -> tuple[object, object]:
        visit = desk.visit(BODY)
        desk.shelf.silent = True
        beginning = asyncio.create_task(visit.begin())
        while not desk.shelf.asked:
            await asyncio.sleep(0)
        desk.shelf.silent = False
        back = await beginning
        desk.shelf.silent, never = True, desk.visit(BODY)
        ending = asyncio.create_task(never.begin())
        while len(desk.shelf.asked) < 3:
            await asyncio.sleep(0)
        desk.now += 4
        return back, await ending

    back, never = run(story())
    assert isinstance(back, Forward)
    assert text_of(never).startswith("aider-guard: Ollama does not answer at http://127.0.0.1")
    assert desk.named() == ["RequestStarted", "RequestRefused"]


def test_loading_and_unloading_are_not_told() -> None:
    """They are no requests for text; a load is pinned."""
    desk = Desk()
    unload = b'{"model":"qwen3:8b","keep_alive":0}'
    assert run(desk.visit(unload, "/api/generate").begin()) == Forward(unload)
    load = sent_body(run(desk.visit(b'{"model":"qwen3:8b"}', "/api/generate").begin()))
    assert load["options"] == {"num_ctx": 8192}
    assert desk.events == []


def test_a_server_that_restarts_is_waited_for_quietly() -> None:
    """Then it is said, with the command that starts it."""
    desk = Desk()

    async def story() -> Reply | Retry:
        visit = desk.visit(BODY)
        await visit.begin()
        for _ in range(3):
            retry = await visit.failed(Trouble("down", "Connection refused"))
            assert isinstance(retry, Retry)
            assert (retry.meanwhile, 0 < retry.after_seconds < 1) == (b"", True)
            desk.now += 1
        return await visit.failed(Trouble("down", "Connection refused"))

    said = text_of(run(story()))
    assert said.startswith("aider-guard: Ollama does not answer at http://127.0.0.1:11434")
    assert "\n`ollama serve` " in said


def test_a_busy_server_is_waited_for_visibly() -> None:
    """For two minutes, said at once and then now and again."""
    desk, busy = Desk(), json.dumps({"error": "server busy, please try again."}).encode()

    async def story() -> tuple[list[Retry], Reply | Retry | Pass]:
        visit, retries = desk.visit(BODY), []
        await visit.begin()
        while isinstance(step := await visit.refused(503, busy), Retry):
            retries.append(step)
            desk.now += step.after_seconds
        return retries, step

    retries, last = run(story())
    assert 115 <= sum(retry.after_seconds for retry in retries) <= 125
    shown = [retry for retry in retries if retry.meanwhile]
    assert 8 <= len(shown) <= 12
    assert b"aider-guard: waiting: server busy" in shown[0].meanwhile
    assert shown[0] == retries[0]
    assert "stayed busy" in text_of(last)


@pytest.mark.parametrize(
    ("status", "error", "reason", "words"),
    [
        (404, "model 'qwen3:8b' not found", "missing", "ollama pull qwen3:8b"),
        (500, "cudaMalloc failed: out of memory", "memory", "does not fit into memory"),
        (500, "llama runner process has terminated: exit status 2", "crashed", "crashed"),
        (403, "ollama cloud is disabled: remote model is unavailable", "cloud", "ollama list"),
        (418, "teapot", "refused", "Ollama refused it: teapot"),
    ],
)
def test_a_servers_error_is_said_at_once(status: int, error: str, reason: str, words: str) -> None:
    """As an answer, so that Aider does not try again for a minute."""
    desk = Desk()

    async def story() -> object:
        visit = desk.visit(BODY)
        await visit.begin()
        reply = await visit.refused(status, json.dumps({"error": error}).encode())
        await visit.end("replied")
        return reply

    reply = run(story())
    assert isinstance(reply, Reply)
    assert reply.status == 200
    assert words in text_of(reply)
    refused = desk.events[-1]
    assert isinstance(refused, RequestRefused)
    assert refused.reason == reason


def test_a_server_that_finds_a_prompt_too_large_is_believed() -> None:
    """With its own numbers where it tells them."""
    desk = Desk()
    native = "request (9000 tokens) exceeds the available context size (8192 tokens), try"

    async def story(error: str) -> str:
        visit = desk.visit(BODY)
        await visit.begin()
        return text_of(await visit.refused(400, json.dumps({"error": error}).encode()))

    assert "exactly 1,832 tokens too large for the window of 8,192" in run(story(native))
    vague = run(story("the input length exceeds the context length"))
    assert "too large for the window of 8,192 tokens, says the server" in vague


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"<html>login", "strange"),
        (b'{"error":"cudaMalloc failed: out of memory"}\n', "memory"),
        (b'{"error":"model runner has unexpectedly stopped"}\n', "crashed"),
    ],
)
def test_a_wrong_answer_becomes_words_while_nothing_was_passed(first: bytes, reason: str) -> None:
    """Whatever its status was."""
    desk = Desk()

    async def story() -> bytes | Reply:
        visit = desk.visit(BODY)
        await visit.begin()
        return visit.passed(first)

    assert text_of(run(story())).startswith("aider-guard: ")
    refused = desk.events[-1]
    assert isinstance(refused, RequestRefused)
    assert refused.reason == reason


def test_an_error_after_some_text_makes_aider_try_again() -> None:
    """Half an answer is no answer. Where it breaks each time, the third try is answered in words."""
    desk = Desk()
    error = b'{"error":"model runner has unexpectedly stopped"}\n'

    async def story() -> str:
        for _ in range(2):
            visit = desk.visit(BODY)
            assert isinstance(await visit.begin(), Forward)
            assert visit.passed(piece("half")) == piece("half")
            assert visit.passed(error) == error
            await visit.end("answered")
        return text_of(await desk.visit(BODY).begin())

    assert "the process of qwen3:8b crashed" in run(story())
    finished = [event for event in desk.events if isinstance(event, RequestFinished)]
    assert [event.outcome for event in finished] == ["broken", "broken"]
    assert isinstance(run(desk.visit(BODY).begin()), Forward)  # it was said: now it may try again


def test_an_answer_that_breaks_off_twice_is_answered_in_words() -> None:
    """At once where nothing of it was passed, else at the next try; after a minute it is forgotten."""
    desk = Desk()

    async def attempt(*passed: bytes) -> Reply | Abort | str:
        visit = desk.visit(BODY)
        begun = await visit.begin()
        if isinstance(begun, Reply):
            return text_of(begun)
        for chunk in passed:
            visit.passed(chunk)
        step = visit.broke(BROKEN)
        await visit.end("broken" if isinstance(step, Abort) else "replied")
        return step

    assert run(attempt()) == Abort()
    assert "the answer broke off (peer closed connection)" in text_of(run(attempt()))
    assert run(attempt(piece("a"))) == Abort()
    assert run(attempt(piece("a"))) == Abort()
    assert "broke off" in str(run(attempt(piece("a"))))
    assert run(attempt(piece("a"))) == Abort()
    desk.now += 61
    assert run(attempt()) == Abort()


@pytest.mark.parametrize(
    ("base", "reason", "said"),
    [
        ("http://192.0.2.7:11434", "lost", "the connection to http://192.0.2.7:11434 was lost: "),
        ("http://127.0.0.1:11434", "crashed", "the process of qwen3:8b crashed: "),
    ],
)
def test_another_machine_that_falls_silent_is_no_crash(base: str, reason: str, said: str) -> None:
    """Nobody knows what became of it, before an answer and in the middle of one."""
    desk, upstream = Desk(), Upstream("", base, "ollama")

    async def silent() -> str:
        visit = desk.visit(BODY, upstream=upstream)
        await visit.begin()
        return text_of(await visit.failed(Trouble("silent", "Connection timed out")))

    async def breaks() -> Reply | Abort:
        visit = desk.visit(BODY, upstream=upstream)
        await visit.begin()
        return visit.broke(BROKEN)

    assert run(silent()).startswith(f"aider-guard: {said}Connection timed out")
    assert run(breaks()) == Abort()
    assert text_of(run(breaks())).startswith(f"aider-guard: {said}the answer broke off")
    refused = [event for event in desk.events if isinstance(event, RequestRefused)]
    assert [event.reason for event in refused] == [reason] * 2


def test_a_request_that_aider_gives_up_is_told_as_cancelled() -> None:
    """And one that was given up while it was counted is not told at all; nothing goes on counting."""
    desk = Desk()

    async def story() -> None:
        visit = desk.visit(BODY)
        await visit.begin()
        visit.passed(piece("a"))
        await visit.end("cancelled")
        desk.counts.gate, desk.counts.waiting = asyncio.Event(), asyncio.Event()
        given_up = desk.visit(BIG)
        beginning = asyncio.create_task(given_up.begin())
        await desk.counts.waiting.wait()
        beginning.cancel()
        await asyncio.wait([beginning])
        await given_up.end("cancelled")
        await asyncio.sleep(0)

    run(story())
    assert desk.named() == ["RequestStarted", "RequestFinished"]
    finished = desk.events[-1]
    assert isinstance(finished, RequestFinished)
    assert finished.outcome == "cancelled"
    assert desk.counts.cancelled == 1


def test_another_local_servers_window_is_what_it_said_at_the_start() -> None:
    """It has no pin; its usage is counted and taken out of the stream again."""
    desk = Desk()
    here = DoorRole("main", "qwen3:8b", LOCAL.path, window_tokens=4096)
    desk.settings = replace(desk.settings, roles=(*desk.settings.roles, here))
    desk.residency.windows = {"qwen3:8b": 8192}  # Ollama's model of that name
    usage = {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 2}}
    text = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    first, last = (f"data: {json.dumps(event)}\n\n".encode() for event in (text, usage))

    async def story() -> None:
        visit = desk.visit(body("openai_chat", CHAT), "/chat/completions", LOCAL)
        sent = sent_body(await visit.begin())
        assert sent["stream_options"] == {"include_usage": True}
        assert "options" not in sent
        assert visit.passed(first) == first
        assert visit.passed(last) == b""
        assert visit.passed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
        await visit.end("answered")

    run(story())
    finished = desk.events[-1]
    assert isinstance(finished, RequestFinished)
    assert (finished.window_tokens, finished.prompt_tokens, finished.answer_tokens) == (4096, 40, 2)
    assert (finished.outcome, finished.done_reason) == ("answered", "stop")


@pytest.mark.parametrize(
    ("upstream", "method", "path", "attended"),
    [
        ("ollama", "POST", "/api/chat", True),
        ("ollama", "POST", "/api/generate", True),
        ("ollama", "POST", "/v1/chat/completions", True),
        ("ollama", "POST", "/v1/completions", True),
        ("ollama", "GET", "/api/chat", False),
        ("ollama", "POST", "/api/show", False),
        ("ollama", "POST", "/chat/completions", False),
        ("openai", "POST", "/chat/completions", True),
        ("openai", "POST", "/v1/completions", True),
        ("openai", "POST", "/api/chat", False),
    ],
)
def test_requests_for_text_are_attended(
    upstream: str, method: str, path: str, attended: bool
) -> None:
    """And no others."""
    where = prompts.OLLAMA if upstream == "ollama" else LOCAL
    assert Desk().attendant.attends(where, method, path) is attended


@pytest.mark.parametrize(
    ("method", "path", "content", "permitted"),
    [
        ("GET", "/api/tags", b"", True),
        ("GET", "/api/version", b"", True),
        ("HEAD", "/api/blobs/sha256:1", b"", True),
        ("POST", "/api/show", b'{"name":"qwen3:8b"}', True),
        ("POST", "/api/show", b'{"name":"x:cloud"}', False),
        ("POST", "/api/show", b'{"name":"stub"}', True),
        ("POST", "/api/embed", b'{"model":"qwen3:8b"}', True),
        ("POST", "/api/embed", b'{"model":"stub"}', False),
        ("POST", "/api/copy", b'{"source":"stub","destination":"mine"}', False),
        # Whatever it names: Ollama asks the host in the name, and where it says, another one.
        ("POST", "/api/pull", b'{"model":"x:120b-cloud"}', False),
        ("POST", "/api/pull", b'{"model":"qwen3:8b"}', False),
        ("POST", "/api/pull", b'{"model":"a-secret.example/x/y","insecure":true}', False),
        ("POST", "/api/push", b'{"model":"qwen3:8b"}', False),
        ("POST", "/api/create", b'{"model":"new","from":"qwen3:8b"}', True),
        ("POST", "/api/create", b'{"model":"new","files":{"a.gguf":"sha256:1"}}', True),
        ("POST", "/api/create", b'{"model":"new","From":"absent.example/x/y"}', False),
        ("POST", "/api/create", b'{"model":"new","from":"stub"}', False),
        ("POST", "/api/create", b'{"model":"new","from":"x","remote_host":"a.b"}', False),
        ("POST", "/api/create", b'{"name":"new","modelfile":"FROM absent.example/x/y"}', False),
        ("POST", "/v1/responses", b'{"model":"qwen3:8b"}', True),
        ("POST", "/v1/responses", b'{"model":"x:cloud"}', False),
        ("POST", "/v1/responses", None, False),
        ("POST", "/v1/messages", b'{"model":"m","tools":[{"type":"web_search_2"}]}', False),
        ("POST", "/v1/messages", b'{"model":"m","tools":[{"name":"web_search"}]}', True),
        ("POST", "/api/blobs/sha256:1", None, True),
        ("GET", "/v1/models/x:cloud", b"", False),
        ("GET", "/v1/models/qwen3:8b", b"", True),
        ("POST", "/api/chat/", b'{"Model":"x:cloud"} trailing', False),
        ("POST", "/api/some_day", b"{}", False),
    ],
)
def test_what_would_leave_the_machine_is_not_passed_on(
    method: str, path: str, content: bytes | None, permitted: bool
) -> None:
    """By name, or by what the path does; unless the network is open. Each refusal is told."""
    desk = Desk()
    desk.shelf.remote = {"stub": "https://ollama.com:443"}
    desk.shelf.absent = ("absent.example/x/y",)

    def judged() -> Reply | None:
        return run(desk.attendant.permits(prompts.OLLAMA, method, path, content))

    found = judged()
    assert (found is None) is permitted
    assert found is None or found.status == 403
    assert desk.named() == ([] if permitted else ["RequestRefused"])
    desk.settings = settings(refuse_cloud=False)
    assert judged() is None


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("/api/pull", b'{"model":"m"}', "run `ollama pull m` in another terminal"),
        ("/api/pull", b'{"name":"a\\u001bb"}', "a?b is not fetched from inside a session"),
        ("/api/create", b'{"model":"n","from":"gone"}', "run `ollama pull gone` in another"),
        ("/v1/none", b"", "/v1/none is not known to stay on this machine"),
    ],
)
def test_a_refusal_says_what_to_do(path: str, content: bytes, words: str) -> None:
    """In the form of the path's protocol, and in the journal by its model or path."""
    desk = Desk()
    desk.shelf.absent = ("gone",)
    found = run(desk.attendant.permits(prompts.OLLAMA, "POST", path, content))
    assert found is not None
    said = json.loads(found.content)["error"]
    said = said["message"] if path.startswith("/v1/") else said
    assert said.startswith("aider-guard: ")
    assert words in said
    (refused,) = desk.events
    assert isinstance(refused, RequestRefused)
    assert (refused.number, refused.reason) == (0, "forbidden")
    assert refused.model.isprintable()


def test_what_cannot_be_judged_is_not_passed_on() -> None:
    """A body that nobody can read, and a name of which the server does not say where it runs."""
    desk = Desk()

    def status(path: str, content: bytes) -> int:
        found = run(desk.attendant.permits(prompts.OLLAMA, "POST", path, content))
        return 200 if found is None else found.status

    for content, _ in NO_REQUESTS:
        assert status("/api/show", content) == 400
    desk.shelf.silent = True
    assert status("/api/embed", b'{"model":"m"}') == 502
    assert status("/api/create", b'{"model":"n","from":"m"}') == 502
    assert status("/api/show", b'{"model":"m"}') == 200


@pytest.mark.parametrize("again", ["base", "BASE:latest", "library/base", "base:local"])
def test_a_model_is_not_deleted_under_the_one_that_is_made_from_it(again: str) -> None:
    """Nor the other way round: what is gone by then, Ollama would fetch."""
    delete, create = json.dumps({"model": again}), json.dumps({"model": "new", "from": again})
    told = (("/api/create", b'{"model":"new","from":"base"}'), ("/api/delete", b'{"model":"base"}'))
    for first, second in ((told[0], delete), (told[1], create)):
        desk = Desk()
        assert run(desk.attendant.permits(prompts.OLLAMA, "POST", *first)) is None
        path = "/api/delete" if second is delete else "/api/create"
        found = run(desk.attendant.permits(prompts.OLLAMA, "POST", path, second.encode()))
        assert found is not None
        assert found.status == 403


@pytest.mark.parametrize(
    ("path", "content", "permitted"),
    [
        ("/embeddings", b'{"model":"m"}', True),
        ("/embeddings", None, True),
        ("/embeddings", b'{"model":"x:cloud"}', False),
        ("/tokenize", b"not json", True),
        ("/api/pull", b'{"model":"m"}', False),
        ("/api/create", b'{"model":"n","from":"m"}', False),
    ],
)
def test_another_local_server_may_be_an_ollama(
    path: str, content: bytes | None, permitted: bool
) -> None:
    """What only an Ollama would carry out is not passed on there either."""
    desk = Desk()
    found = run(desk.attendant.permits(LOCAL, "POST", path, content))
    assert (found is None) is permitted


def test_a_cloud_s_model_is_asked_on_no_server() -> None:
    """An Ollama may be named as a server that speaks OpenAI's protocol."""
    content = json.dumps({"model": "x:cloud", "messages": CHAT}).encode()
    reply = run(Desk().visit(content, "/chat/completions", LOCAL).begin())
    assert "this session stays on this machine" in text_of(reply)
