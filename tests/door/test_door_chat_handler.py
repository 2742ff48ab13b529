"""What the chat handler does with a request for text."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from core.chat import aider_prompts as prompts
from core.chat.aider_prompts import LOCAL, body, listing, message, settings
from door.handler_services import HandlerSetup, run, text_of

from aider_guard.core.chat.events import RequestFinished, RequestRefused, RequestStarted
from aider_guard.core.chat.types import Count, DoorRole, Upstream
from aider_guard.core.readings import ContextRow, Unavailable
from aider_guard.core.server_answers import NoAnswer
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
    """With the pin, and its count is reported at the end."""
    setup = HandlerSetup()

    async def story() -> None:
        setup.counter.gate = asyncio.Event()
        exchange = setup.exchange(BODY)
        sent = sent_body(await exchange.begin())
        assert sent["options"]["num_ctx"] == 8192
        assert sent["truncate"] is False
        assert setup.counter.counted == 0
        assert setup.events == [RequestStarted(1, "main", "chat", "qwen3:8b")]
        setup.now += 2
        assert exchange.on_chunk(piece("It is ")) == piece("It is ")
        setup.now += 1
        assert exchange.on_chunk(LAST) == LAST
        setup.counter.gate.set()
        await exchange.end("answered")

    run(story())
    size = len(prompts.DIFF) + len("fix it")
    assert setup.events[1] == RequestFinished(
        1,
        "main",
        "chat",
        "qwen3:8b",
        "answered",
        setup.events[1].verdict,  # type: ignore[union-attr]  # judged elsewhere
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
    assert setup.residency.calls == ["start qwen3:8b", "end qwen3:8b 0.0"]


def test_what_was_seen_whole_is_learned_from() -> None:
    """And nothing else is: a cut prompt's number is not the prompt's."""
    setup = HandlerSetup()

    _, finished = setup.answer(BODY, piece("x") + LAST)
    assert finished.verdict.outcome == "whole"
    assert setup.counter.learned == [(Count(len(prompts.DIFF) + 6, exact=True), 500)]
    setup.residency.version = "0.30.0"  # its number leaves out what was cached
    setup.answer(BODY, piece("x") + LAST)
    assert len(setup.counter.learned) == 1


def test_the_end_of_a_stream_without_a_newline_is_passed_on() -> None:
    """The door asked for the usage and takes it out again, line by line."""
    setup = HandlerSetup()

    async def story() -> bytes:
        exchange = setup.exchange(body("openai_chat", CHAT), "/v1/chat/completions")
        await exchange.begin()
        start = exchange.on_chunk(
            b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]'
        )
        assert isinstance(start, bytes)
        await exchange.end("answered")
        return start + exchange.remainder()

    assert run(story()).endswith(b"\n\ndata: [DONE]")
    assert setup.exchange(b"no request").remainder() == b""


@pytest.mark.parametrize("mlx", [True, False])
def test_an_answer_beyond_the_window_is_no_loss_where_mlx_runs_the_model(*, mlx: bool) -> None:
    """There the window grows with the answer; without MLX the beginning of the prompt was pushed out."""
    setup = HandlerSetup()
    setup.installed.mlx = ("qwen3:8b",) if mlx else ()

    last = piece(done=True, done_reason="stop", prompt_eval_count=500, eval_count=9000)
    _, finished = setup.answer(BODY, piece("x") + last)
    assert finished.verdict.outcome == ("whole" if mlx else "cut")


def test_a_prompt_that_does_not_fit_is_not_sent() -> None:
    """The answer names what helps, and the next request finds neither it nor the message twice."""
    setup = HandlerSetup()
    reply = run(setup.exchange(BIG).begin())
    said = text_of(reply)
    assert said.startswith("aider-guard: not sent: exactly ")
    assert "  \n`/drop big.py`   (frees " in said
    assert len(setup.events) == 1
    refused = setup.last(RequestRefused)
    assert (refused.reason, refused.window_tokens) == ("overflow", 8192)
    plain = said.removeprefix("aider-guard: ").replace("  \n", "\n").replace("`", "")
    assert "\n".join(refused.said) == plain
    assert refused.counted_tokens + 1024 - 8192 == refused.over_tokens  # type: ignore[operator]  # it was counted
    again = [*CHAT, message("assistant", said), CHAT[1]]
    assert sent_body(run(setup.exchange(body("chat", again)).begin()))["messages"] == CHAT


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
    """By its count, or by a guess when it could not be counted; never when the user only wants to be warned."""
    setup = HandlerSetup(settings(on_overflow=on_overflow))
    setup.counter.result = counted
    assert isinstance(run(setup.exchange(BIG).begin()), Forward) is forwarded


@pytest.mark.parametrize(("trained", "forwarded"), [(40_960, True), (4096, False)])
def test_a_window_is_never_more_than_the_model_was_trained_for(
    trained: int, forwarded: bool
) -> None:
    """Ollama caps what the pin asks for, in silence; the reported number is the true one."""
    setup = HandlerSetup()
    setup.model_info.contexts = {"qwen3:8b": trained}
    setup.counter.result = Count(6000, exact=True)
    decision = run(setup.exchange(BIG).begin())
    assert isinstance(decision, Forward) is forwarded
    if not forwarded:
        assert "too large for the window of 4,096 " in text_of(decision)
        assert len(setup.events) == 1
        refused = setup.last(RequestRefused)
        assert refused.window_tokens == 4096


def test_a_loss_in_a_smaller_window_is_judged_by_that_window() -> None:
    """On an Ollama that only cuts, what was evaluated is near the trained context, far from the pin."""
    setup = HandlerSetup(settings(32_768, on_overflow="warn"))
    setup.residency.version, setup.model_info.contexts = "0.9.3", {"qwen3:8b": 8192}
    setup.counter.result = Count(9000, exact=False, error_percent=20)

    last = piece("x", done=True, done_reason="stop", prompt_eval_count=7000)
    _, finished = setup.answer(BIG, last)
    assert (finished.window_tokens, finished.verdict.outcome) == (8192, "cut")


SUMMARY = body(
    "chat",
    [message("system", prompts.SUMMARY), message("user", "# USER\nfix it\n")],
    stream=False,
)


@pytest.mark.parametrize("content", [COMMIT, SUMMARY], ids=["commit", "summary"])
def test_what_the_user_never_reads_is_asked_for_without_thinking(content: bytes) -> None:
    """Of models that can think, and unless the user wants it; what is counted is what is sent."""
    setup = HandlerSetup()
    setup.model_info.thinking = {"qwen3:8b"}
    assert sent_body(run(setup.exchange(content).begin()))["think"] is False
    assert setup.counter.seen[-1].body["think"] is False
    assert "think" not in sent_body(run(setup.exchange(BODY).begin()))
    its_own = json.dumps({**json.loads(content), "think": "low"}).encode()
    assert sent_body(run(setup.exchange(its_own).begin()))["think"] == "low"
    wanted = HandlerSetup(settings(think_for_side_work=True))
    wanted.model_info.thinking = {"qwen3:8b"}
    assert "think" not in sent_body(run(wanted.exchange(content).begin()))
    assert "think" not in sent_body(run(HandlerSetup().exchange(content).begin()))


def test_a_model_of_a_cloud_that_was_only_to_be_loaded_is_refused_and_told() -> None:
    """It is an attempt as any other; a failure to load one of this machine's is no refusal."""
    setup = HandlerSetup()
    load = json.dumps({"model": "gpt-oss:120b-cloud", "messages": []}).encode()
    reply = run(setup.exchange(load).begin())
    assert isinstance(reply, Reply)
    assert reply.status == 403
    refused = setup.last(RequestRefused)
    assert (refused.model, refused.reason) == ("gpt-oss:120b-cloud", "cloud")


def test_a_version_that_no_poll_has_read_yet_is_asked_for() -> None:
    """A new sidecar's first prompt is not sent without the word that nothing may be cut."""
    setup = HandlerSetup()
    setup.residency.version, setup.model_info.known_version = Unavailable("not yet"), "0.30.11"
    assert sent_body(run(setup.exchange(BODY).begin()))["truncate"] is False
    assert setup.model_info.requests == [("qwen3:8b", True)]
    setup.residency.version = "0.12.5"
    assert "truncate" not in sent_body(run(setup.exchange(BODY).begin()))
    assert setup.model_info.requests[1:] == [("qwen3:8b", False)]


@pytest.mark.parametrize("version", ["0.12.5", "0.30.11", Unavailable("not read")])
def test_a_prompt_that_was_not_counted_in_time_is_refused_by_a_guess(
    version: str | Unavailable,
) -> None:
    """The answer says that it is one. What the server evaluated of earlier prompts makes it better."""
    setup = HandlerSetup()
    setup.residency.version = version
    setup.counter.result = Unavailable("counting took longer than 2 s")
    big = body("chat", [CHAT[0], message("user", "word " * 6000)])
    said = text_of(run(setup.exchange(big).begin()))
    size = -(-(len(prompts.DIFF) + 30_000) * 2 // 7) + 10
    assert said.startswith(f"aider-guard: not sent: about {size + 1024 - 8192:,} tokens too large")
    setup.counter.sizes.note_size(prompts.chat(said=("word " * 1000,)), 1100)
    assert isinstance(run(setup.exchange(big).begin()), Forward)


NOT_SENT = message("assistant", "aider-guard: not sent: exactly 9 tokens too large\n/clear")


def after_refusals(*sizes: int) -> list[dict[str, str]]:
    """A chat with messages of these sizes that were refused, then a short one."""
    refused = [(message("user", "x" * size), NOT_SENT) for size in sizes]
    return [CHAT[0], *(one for pair in refused for one in pair), message("user", "go on")]


@pytest.mark.parametrize(
    ("estimate", "waits", "forwarded"),
    [
        (Count(6000, exact=False, error_percent=35), True, True),  # from 3,900 to 8,100: it may fit
        (Count(9000, exact=False, error_percent=35), True, True),
        (Unavailable("counting took longer than 2 s"), True, True),
        (Count(20_000, exact=False, error_percent=35), False, False),
        (Count(5000, exact=False, error_percent=10), False, True),
        (Count(7500, exact=True), False, False),
    ],
)
def test_an_uncertain_prompt_waits_for_the_model_and_is_counted_again(
    estimate: Count | Unavailable, waits: bool, forwarded: bool
) -> None:
    """A model that is loaded ahead is waited for anyway; then its server says how large the prompt is."""
    setup = HandlerSetup()
    setup.counter.result = estimate

    def load() -> None:
        setup.counter.result = Count(6000, exact=True)

    setup.residency.loading = load
    decision = run(setup.exchange(BIG).begin())
    assert isinstance(decision, Forward) == forwarded
    assert ("wait" in setup.residency.calls) == waits


@pytest.mark.parametrize(
    ("sizes", "left_out"), [((3000,), 0), ((9000,), 1), ((9000, 2000), 1), ((2000, 9000), 2)]
)
def test_a_shorter_message_fits_although_the_refused_one_stays_in_aiders_chat(
    sizes: tuple[int, ...], left_out: int
) -> None:
    """It goes with the next message where it fits; else the oldest of them are left out until the rest does."""
    setup = HandlerSetup()

    decision, finished = setup.answer(body("chat", after_refusals(*sizes)), LAST)
    sent = sent_body(decision)
    kept = [message("user", "x" * size) for size in sizes[left_out:]]
    assert sent["messages"] == [CHAT[0], *kept, message("user", "go on")]
    assert sent["options"]["num_ctx"] == 8192
    size = len(prompts.DIFF) + sum(sizes[left_out:]) + len("go on")
    assert (finished.left_out, finished.counted_tokens) == (left_out, size)


def test_what_does_not_fit_without_the_refused_ones_either_is_refused_by_itself() -> None:
    """By how much this message is too large, not all of them together."""
    setup = HandlerSetup()
    many = after_refusals(*[9000] * 20)
    many[-1] = message("user", "y" * 8000)
    said = text_of(run(setup.exchange(body("chat", many)).begin()))
    over = len(prompts.DIFF) + 8000 + 1024 - 8192
    assert said.startswith(f"aider-guard: not sent: exactly {over:,} tokens too large")
    assert "a shorter message fits (this one has 8,000 tokens)" in said
    assert setup.counter.counted <= 8


def test_with_warn_nothing_is_left_out() -> None:
    """The user wants all of it sent, even if Ollama cuts it."""
    setup = HandlerSetup(settings(on_overflow="warn"))
    sent = sent_body(run(setup.exchange(body("chat", after_refusals(9000))).begin()))
    assert len(sent["messages"]) == 3


def test_a_commit_message_that_cannot_be_asked_for_is_given_up() -> None:
    """Aider must neither commit the door's words nor wait a minute."""
    setup = HandlerSetup()
    setup.counter.result = Count(9000, exact=True)
    diffs = "# Diffs:\n" + "+a\n" * 9000
    big = body("chat", [message("system", prompts.COMMIT), message("user", diffs)], stream=False)
    reply = run(setup.exchange(big).begin())
    assert isinstance(reply, Reply)
    assert json.loads(reply.content)["message"]["content"] == ""
    assert len(setup.events) == 1
    refused = setup.last(RequestRefused)
    assert (refused.purpose, refused.role) == ("commit", "weak")


def test_an_editor_with_the_doors_words_has_nothing_to_edit() -> None:
    """The refusal was reported already: no event."""
    setup = HandlerSetup()
    for form, path in (("chat", "/api/chat"), ("generate", "/api/generate")):
        told = [
            message("system", prompts.EDITOR_DIFF),
            message("user", "aider-guard: not sent: x\n/clear"),
        ]
        reply = run(setup.exchange(body(form, told), path).begin())  # type: ignore[arg-type]  # a form
        assert text_of(reply).startswith("aider-guard: nothing to edit")
    assert setup.events == []


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/api/chat", {"model": "gpt-oss:120b-cloud", "messages": CHAT}),
        ("/api/chat", {"model": "qwen3:8b", "MODEL": "x:cloud", "messages": CHAT}),
        ("/api/generate", {"model": "x:Cloud", "prompt": "y"}),
        ("/api/generate", {"model": "x:cloud"}),
        ("/v1/chat/completions", {"model": "x:cloud", "messages": CHAT}),
        ("/v1/completions", {"model": "x:cloud", "prompt": "y"}),
        ("/api/chat", {"model": "gpt-oss: cloud", "messages": CHAT}),
        ("/api/generate", {"model": "gpt-oss:\u00a0cloud", "prompt": "y"}),
        ("/v1/chat/completions", {"model": "gpt-oss:\n20b-cloud\t", "messages": CHAT}),
        ("/api/chat", {"model": "stub", "messages": CHAT}),
    ],
)
def test_a_model_that_runs_on_another_host_is_refused(path: str, content: dict[str, Any]) -> None:
    """By its name, however it is spelled, or by what Ollama lists of it."""
    setup = HandlerSetup()
    setup.installed.remote = {"stub": "https://ollama.com:443"}
    reply = run(setup.exchange(json.dumps(content).encode(), path).begin())
    assert "this session stays on this machine" in text_of(reply)
    open_setup = HandlerSetup(settings(refuse_cloud=False))
    open_setup.installed.remote = setup.installed.remote
    open_setup.counter.result = Unavailable("?")
    allowed = run(open_setup.exchange(json.dumps(content).encode(), path).begin())
    assert isinstance(allowed, Forward)


@pytest.mark.parametrize("model", ["gpt oss", "x:\x1ccloud", "a:b:c", "x\x1b[31m", "a:local:cloud"])
def test_a_name_that_ollama_does_not_accept_is_not_sent(model: str) -> None:
    """Nor asked about; another server may have models of any name."""
    setup = HandlerSetup()
    content = json.dumps({"model": model, "messages": CHAT}).encode()
    reply = run(setup.exchange(content).begin())
    assert isinstance(reply, Reply)
    assert "this session stays" in text_of(reply) or "not a name that Ollama accepts" in text_of(
        reply
    )
    assert text_of(reply).replace("\n", "").isprintable()
    if model == "gpt oss":
        setup.counter.result = Unavailable("?")
        there = setup.exchange(content, "/chat/completions", LOCAL)
        assert isinstance(run(there.begin()), Forward)


def test_an_answer_from_another_host_ends_before_its_first_word() -> None:
    """Under any name."""
    setup = HandlerSetup()

    async def story() -> bytes | Reply:
        exchange = setup.exchange(BODY)
        await exchange.begin()
        first = b'{"model":"a","remote_host":"https://ollama.com:443","created_at":"x"'
        reply = exchange.on_chunk(first + b',"message":{"content":"secret"}}\n')
        await exchange.end("replied")
        return reply

    reply = run(story())
    assert "runs at https://ollama.com:443" in text_of(reply)
    assert setup.event_names() == ["RequestStarted", "RequestRefused"]
    assert setup.residency.calls[-1] == "end qwen3:8b ?"


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
    """Where the network is open: it is passed on as it came, without an event. Offline only an empty body is."""
    setup = HandlerSetup(settings(refuse_cloud=not content))

    async def story() -> None:
        exchange = setup.exchange(content, path)
        assert await exchange.begin() == Forward(content)
        assert await exchange.on_refusal(400, b'{"error":"x"}') == Pass()
        assert exchange.on_chunk(b"x") == b"x"
        await exchange.end("answered")

    run(story())
    assert setup.events == []


@pytest.mark.parametrize(("content", "path"), NO_REQUESTS)
def test_what_cannot_be_read_is_not_passed_on(content: bytes, path: str) -> None:
    """The server might read a name in it that the door cannot. The error has the form of the path's protocol."""
    reply = run(HandlerSetup().exchange(content, path).begin())
    assert isinstance(reply, Reply)
    assert reply.status == 400
    said = json.loads(reply.content)["error"]
    words = said["message"] if path.startswith("/v1/") else said
    assert words == "aider-guard: the request cannot be read"


def test_where_a_model_runs_is_asked_before_it_is_sent_anything() -> None:
    """A server that does not tell the host is waited for as one that is down, and then the request fails."""
    setup = HandlerSetup()

    async def story() -> tuple[object, object]:
        exchange = setup.exchange(BODY)
        setup.installed.silent = True
        beginning = asyncio.create_task(exchange.begin())
        while not setup.installed.lookups:
            await asyncio.sleep(0)
        setup.installed.silent = False
        back = await beginning
        setup.installed.silent, never = True, setup.exchange(BODY)
        ending = asyncio.create_task(never.begin())
        while len(setup.installed.lookups) < 3:
            await asyncio.sleep(0)
        setup.now += 4
        return back, await ending

    back, never = run(story())
    assert isinstance(back, Forward)
    assert text_of(never).startswith("aider-guard: Ollama does not answer at http://127.0.0.1")
    assert setup.event_names() == ["RequestStarted", "RequestRefused"]


@pytest.mark.parametrize(
    ("why", "reason", "said"),
    [
        (NoAnswer("x", 401, b"<html>"), "forbidden", "wants a key, or another one: status 401"),
        (NoAnswer("x", 404, b"<html>"), "strange", "nothing answers at {base}/api/show: status"),
        (NoAnswer("x", 301, b"", "http://b/"), "strange", "redirects to http://b/, which is not"),
    ],
)
def test_a_proxy_that_does_not_tell_where_a_model_runs_is_explained_at_once(
    why: NoAnswer, reason: str, said: str
) -> None:
    """It is neither waited for nor taken for a server that is down."""
    setup = HandlerSetup()
    setup.installed.why_silent = why
    words = text_of(run(setup.exchange(BODY).begin()))
    assert said.format(base="http://127.0.0.1:11434") in words
    assert "ollama serve" not in words
    refused = setup.last(RequestRefused)
    assert refused.reason == reason


def test_a_proxy_whose_server_is_gone_is_waited_for_visibly() -> None:
    """For two minutes, as a busy server; then it is said what does not answer."""
    setup, page = HandlerSetup(), b"<html><h1>502 Bad Gateway</h1></html>"

    async def story() -> tuple[list[Retry], Reply | Retry | Pass]:
        exchange, retries = setup.exchange(BODY), []
        await exchange.begin()
        while isinstance(step := await exchange.on_refusal(502, page), Retry):
            retries.append(step)
            setup.now += step.after_seconds
        return retries, step

    retries, last = run(story())
    assert 115 <= sum(retry.after_seconds for retry in retries) <= 125
    assert b"(status 502)" in retries[0].meanwhile
    assert "the proxy at http://127.0.0.1:11434 does not reach Ollama: status 502" in text_of(last)


def test_loading_and_unloading_are_not_told() -> None:
    """They are no requests for text; a load is pinned."""
    setup = HandlerSetup()
    unload = b'{"model":"qwen3:8b","keep_alive":0}'
    assert run(setup.exchange(unload, "/api/generate").begin()) == Forward(unload)
    load = sent_body(run(setup.exchange(b'{"model":"qwen3:8b"}', "/api/generate").begin()))
    assert load["options"] == {"num_ctx": 8192}
    assert setup.events == []


def test_a_server_that_restarts_is_waited_for_quietly() -> None:
    """Then the answer says so, with the command that starts it."""
    setup = HandlerSetup()

    async def story() -> Reply | Retry:
        exchange = setup.exchange(BODY)
        await exchange.begin()
        for _ in range(3):
            retry = await exchange.on_trouble(Trouble("down", "Connection refused"))
            assert isinstance(retry, Retry)
            assert (retry.meanwhile, 0 < retry.after_seconds < 1) == (b"", True)
            setup.now += 1
        return await exchange.on_trouble(Trouble("down", "Connection refused"))

    said = text_of(run(story()))
    assert said.startswith("aider-guard: Ollama does not answer at http://127.0.0.1:11434")
    assert "\n`ollama serve` " in said


def test_a_busy_server_is_waited_for_visibly() -> None:
    """For two minutes, shown at once and then from time to time."""
    setup, busy = HandlerSetup(), json.dumps({"error": "server busy, please try again."}).encode()

    async def story() -> tuple[list[Retry], Reply | Retry | Pass]:
        exchange, retries = setup.exchange(BODY), []
        await exchange.begin()
        while isinstance(step := await exchange.on_refusal(503, busy), Retry):
            retries.append(step)
            setup.now += step.after_seconds
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
        (
            *(500, "error loading model: unknown model architecture: 'mllama'"),
            *("unsupported", "update Ollama"),
        ),
        (403, "ollama cloud is disabled: remote model is unavailable", "cloud", "ollama list"),
        (418, "teapot", "refused", "Ollama refused it: teapot"),
    ],
)
def test_a_servers_error_is_answered_at_once(
    status: int, error: str, reason: str, words: str
) -> None:
    """As an answer, so that Aider does not try again for a minute."""
    setup = HandlerSetup()

    async def story() -> object:
        exchange = setup.exchange(BODY)
        await exchange.begin()
        reply = await exchange.on_refusal(status, json.dumps({"error": error}).encode())
        await exchange.end("replied")
        return reply

    reply = run(story())
    assert isinstance(reply, Reply)
    assert reply.status == 200
    assert words in text_of(reply)
    refused = setup.last(RequestRefused)
    assert refused.reason == reason


def test_a_deleted_model_is_not_suggested_from_an_older_list() -> None:
    """The list is read again before names are taken from it."""
    setup = HandlerSetup()
    setup.installed.names, setup.installed.deleted = ("qwen3:14b", "qwen3:4b"), ("qwen3:14b",)

    async def story() -> str:
        exchange = setup.exchange(BODY)
        await exchange.begin()
        return text_of(await exchange.on_refusal(404, b'{"error":"model \'qwen3:8b\' not found"}'))

    said = run(story())
    assert "installed: qwen3:4b" in said
    assert "qwen3:14b" not in said


def test_a_server_that_finds_a_prompt_too_large_is_believed() -> None:
    """With its own numbers, if it has any in its answer."""
    setup = HandlerSetup()
    native = "request (9000 tokens) exceeds the available context size (8192 tokens), try"

    async def story(error: str) -> str:
        exchange = setup.exchange(BODY)
        await exchange.begin()
        return text_of(await exchange.on_refusal(400, json.dumps({"error": error}).encode()))

    assert "exactly 1,832 tokens too large for the window of 8,192" in run(story(native))
    assert setup.last(RequestRefused).counted_by == "refusal"
    setup.settings = settings(8100)  # for which the process has some tokens more
    assert "exactly 1,912 tokens too large for the window of 8,100" in run(story(native))
    setup.settings = settings()
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
    """Also with status 200."""
    setup = HandlerSetup()

    async def story() -> bytes | Reply:
        exchange = setup.exchange(BODY)
        await exchange.begin()
        return exchange.on_chunk(first)

    assert text_of(run(story())).startswith("aider-guard: ")
    refused = setup.last(RequestRefused)
    assert refused.reason == reason


def test_an_error_after_some_text_makes_aider_try_again() -> None:
    """Half an answer is no answer. Where it breaks each time, the third try is answered in words."""
    setup = HandlerSetup()
    error = b'{"error":"model runner has unexpectedly stopped"}\n'

    async def story() -> str:
        for _ in range(2):
            exchange = setup.exchange(BODY)
            assert isinstance(await exchange.begin(), Forward)
            assert exchange.on_chunk(piece("half")) == piece("half")
            assert exchange.on_chunk(error) == error
            assert exchange.remainder() == b""
            await exchange.end("answered")
        return text_of(await setup.exchange(BODY).begin())

    assert "the process of qwen3:8b crashed" in run(story())
    finished = [event for event in setup.events if isinstance(event, RequestFinished)]
    assert [event.outcome for event in finished] == ["broken", "broken"]
    assert isinstance(
        run(setup.exchange(BODY).begin()), Forward
    )  # it was answered: now Aider may try again


def test_an_answer_without_its_end_is_not_aiders_to_repeat() -> None:
    """Aider takes it as whole, so it is reported, and the same message again is a message of the user's."""
    setup = HandlerSetup()

    async def story() -> None:
        for _ in range(3):
            exchange = setup.exchange(BODY)
            assert isinstance(await exchange.begin(), Forward)
            assert exchange.on_chunk(piece("half")) == piece("half")
            assert exchange.remainder() == b""
            await exchange.end("answered")
        exchange = setup.exchange(BODY)
        await exchange.begin()
        exchange.on_chunk(piece("half"))
        assert exchange.on_broken(BROKEN) == Abort()
        await exchange.end("broken")

    run(story())
    finished = [event for event in setup.events if isinstance(event, RequestFinished)]
    assert [event.broke_off for event in finished] == ["no_end"] * 3 + [""]
    assert {event.outcome for event in finished} == {"broken"}


def test_an_answer_that_breaks_off_twice_is_answered_in_words() -> None:
    """At once where nothing of it was passed, else at the next try; after a minute it is forgotten."""
    setup = HandlerSetup()

    async def attempt(*on_chunk: bytes) -> Reply | Abort | str:
        exchange = setup.exchange(BODY)
        started = await exchange.begin()
        if isinstance(started, Reply):
            return text_of(started)
        for chunk in on_chunk:
            exchange.on_chunk(chunk)
        step = exchange.on_broken(BROKEN)
        await exchange.end("broken" if isinstance(step, Abort) else "replied")
        return step

    assert run(attempt()) == Abort()
    assert "the answer broke off (peer closed connection)" in text_of(run(attempt()))
    assert run(attempt(piece("a"))) == Abort()
    assert run(attempt(piece("a"))) == Abort()
    assert "broke off" in str(run(attempt(piece("a"))))
    assert run(attempt(piece("a"))) == Abort()
    setup.now += 61
    assert run(attempt()) == Abort()


@pytest.mark.parametrize(
    ("base", "reason", "said"),
    [
        ("http://192.0.2.7:11434", "lost", "the connection to http://192.0.2.7:11434 was lost: "),
        ("http://127.0.0.1:11434", "crashed", "the process of qwen3:8b crashed: "),
    ],
)
def test_another_machine_that_falls_silent_is_no_crash(base: str, reason: str, said: str) -> None:
    """It may be the network, before an answer and in the middle of one."""
    setup, upstream = HandlerSetup(), Upstream("", base, "ollama")

    async def silent() -> str:
        exchange = setup.exchange(BODY, upstream=upstream)
        await exchange.begin()
        return text_of(await exchange.on_trouble(Trouble("silent", "Connection timed out")))

    async def breaks() -> Reply | Abort:
        exchange = setup.exchange(BODY, upstream=upstream)
        await exchange.begin()
        return exchange.on_broken(BROKEN)

    assert run(silent()).startswith(f"aider-guard: {said}Connection timed out")
    assert run(breaks()) == Abort()
    assert text_of(run(breaks())).startswith(f"aider-guard: {said}the answer broke off")
    refused = [event for event in setup.events if isinstance(event, RequestRefused)]
    assert [event.reason for event in refused] == [reason] * 2


def test_a_request_that_aider_gives_up_is_reported_as_cancelled() -> None:
    """And one that was given up while it was counted has no event; nothing goes on counting."""
    setup = HandlerSetup()

    async def story() -> None:
        exchange = setup.exchange(BODY)
        await exchange.begin()
        exchange.on_chunk(piece("a"))
        await exchange.end("cancelled")
        setup.counter.gate, setup.counter.waiting = asyncio.Event(), asyncio.Event()
        given_up = setup.exchange(BIG)
        beginning = asyncio.create_task(given_up.begin())
        await setup.counter.waiting.wait()
        beginning.cancel()
        await asyncio.wait([beginning])
        await given_up.end("cancelled")
        await asyncio.sleep(0)

    run(story())
    assert setup.event_names() == ["RequestStarted", "RequestFinished"]
    finished = setup.last(RequestFinished)
    assert finished.outcome == "cancelled"
    assert setup.counter.cancelled == 1


def test_another_local_servers_window_is_the_one_read_at_the_start() -> None:
    """It has no pin; its usage is counted and taken out of the stream again."""
    setup = HandlerSetup()
    here = DoorRole("main", "qwen3:8b", LOCAL.path, window_tokens=4096)
    setup.settings = replace(setup.settings, roles=(*setup.settings.roles, here))
    setup.residency.windows = {"qwen3:8b": 8192}  # Ollama's model of that name
    usage = {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 2}}
    text = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    first, last = (f"data: {json.dumps(event)}\n\n".encode() for event in (text, usage))

    async def story() -> None:
        exchange = setup.exchange(body("openai_chat", CHAT), "/chat/completions", LOCAL)
        sent = sent_body(await exchange.begin())
        assert sent["stream_options"] == {"include_usage": True}
        assert "options" not in sent
        assert exchange.on_chunk(first) == first
        assert exchange.on_chunk(last) == b""
        assert exchange.on_chunk(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
        await exchange.end("answered")

    run(story())
    finished = setup.last(RequestFinished)
    assert (finished.window_tokens, finished.prompt_tokens, finished.answer_tokens) == (4096, 40, 2)
    assert (finished.outcome, finished.done_reason) == ("answered", "stop")


@pytest.mark.parametrize(
    ("upstream", "method", "path", "handled"),
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
def test_requests_for_text_are_handled(
    upstream: str, method: str, path: str, handled: bool
) -> None:
    """And no others."""
    upstream_of = prompts.OLLAMA if upstream == "ollama" else LOCAL
    assert HandlerSetup().handler.handles(upstream_of, method, path) is handled


@pytest.mark.parametrize(
    ("method", "path", "content", "permitted"),
    [
        ("GET", "/api/tags", b"", True),
        ("GET", "/api/version", b"", True),
        ("HEAD", "/api/blobs/sha256:1", b"", True),
        ("POST", "/api/show", b'{"name":"qwen3:8b"}', True),
        ("POST", "/api/show", b'{"name":"x:cloud"}', False),
        ("POST", "/api/show", b'{"name":"stub"}', True),
        *(
            (*case, False)
            for case in (
                ("POST", "/api/show", b'{"name":"x: cloud"}'),
                ("POST", "/api/show", b'{"model":"x:\\tcloud"}'),
                ("POST", "/api/show", b'{"model":"x y"}'),
                ("POST", "/api/embed", b'{"model":"x:\\u00a0cloud"}'),
                ("POST", "/api/embed", b'{"model":"x:\\u001ccloud"}'),
                ("POST", "/api/copy", b'{"source":"qwen3:8b","destination":"x:\\ncloud"}'),
                ("POST", "/api/copy", b'{"source":"qwen3:8b","destination":"a: b"}'),
                ("POST", "/api/create", b'{"model":"new","from":"x: 20b-Cloud"}'),
                ("POST", "/api/create", b'{"model":"new","from":"a/b/c/d"}'),
                ("POST", "/api/delete", b'{"model":"x: cloud"}'),
                ("GET", "/v1/models/x:\u2003cloud", b""),
                ("GET", "/v1/models/x y", b""),
            )
        ),
        ("POST", "/api/embed", b'{"model":"qwen3:8b","name":"my text"}', True),
        ("POST", "/api/embed", b'{"model":"qwen3:8b"}', True),
        ("POST", "/api/embed", b'{"model":"stub"}', False),
        ("POST", "/api/copy", b'{"source":"stub","destination":"mine"}', False),
        # Under any name: Ollama asks the host in the name, and the one that it refers to.
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
    """By name, or by what the path does; unless the network is open. Each refusal is reported."""
    setup = HandlerSetup()
    setup.installed.remote = {"stub": "https://ollama.com:443"}
    setup.installed.absent = ("absent.example/x/y",)

    def judged() -> Reply | None:
        return run(setup.handler.refusal(prompts.OLLAMA, method, path, content))

    found = judged()
    assert (found is None) is permitted
    assert found is None or found.status == 403
    assert setup.event_names() == ([] if permitted else ["RequestRefused"])
    setup.settings = settings(refuse_cloud=False)
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
    setup = HandlerSetup()
    setup.installed.absent = ("gone",)
    found = run(setup.handler.refusal(prompts.OLLAMA, "POST", path, content))
    assert found is not None
    said = json.loads(found.content)["error"]
    said = said["message"] if path.startswith("/v1/") else said
    assert said.startswith("aider-guard: ")
    assert words in said
    assert len(setup.events) == 1
    refused = setup.last(RequestRefused)
    assert (refused.number, refused.reason) == (0, "forbidden")
    assert refused.model.isprintable()


def test_what_cannot_be_judged_is_not_passed_on() -> None:
    """A body that cannot be read, and a model whose host the server does not tell."""
    setup = HandlerSetup()

    def status(path: str, content: bytes) -> int:
        found = run(setup.handler.refusal(prompts.OLLAMA, "POST", path, content))
        return 200 if found is None else found.status

    for content, _ in NO_REQUESTS:
        assert status("/api/show", content) == 400
    setup.installed.silent = True
    assert status("/api/embed", b'{"model":"m"}') == 502
    assert status("/api/create", b'{"model":"n","from":"m"}') == 502
    assert status("/api/show", b'{"model":"m"}') == 200


@pytest.mark.parametrize("again", ["base", "BASE:latest", "library/base", "base:local"])
def test_a_model_is_not_deleted_under_the_one_that_is_made_from_it(again: str) -> None:
    """Nor the other way round: Ollama would fetch a base that was deleted by then."""
    delete, create = json.dumps({"model": again}), json.dumps({"model": "new", "from": again})
    told = (("/api/create", b'{"model":"new","from":"base"}'), ("/api/delete", b'{"model":"base"}'))
    for first, second in ((told[0], delete), (told[1], create)):
        setup = HandlerSetup()
        assert run(setup.handler.refusal(prompts.OLLAMA, "POST", *first)) is None
        path = "/api/delete" if second is delete else "/api/create"
        found = run(setup.handler.refusal(prompts.OLLAMA, "POST", path, second.encode()))
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
    """Requests that only an Ollama understands are not passed on to it either."""
    setup = HandlerSetup()
    found = run(setup.handler.refusal(LOCAL, "POST", path, content))
    assert (found is None) is permitted


def test_a_cloud_model_is_refused_on_every_server() -> None:
    """An Ollama may be named as a server that speaks OpenAI's protocol."""
    content = json.dumps({"model": "x:cloud", "messages": CHAT}).encode()
    reply = run(HandlerSetup().exchange(content, "/chat/completions", LOCAL).begin())
    assert "this session stays on this machine" in text_of(reply)
