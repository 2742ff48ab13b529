"""The transport does what an exchange decides, in the order of a request's life."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest
from door.plain_handler import PlainExchange, PlainHandler
from door.scripted import CAP_SECONDS, Connection, Scripted, door_to

from aider_guard.door.interfaces import (
    Abort,
    Forward,
    IncomingRequest,
    Outcome,
    Pass,
    Reply,
    Retry,
    Trouble,
)

WORDS = Reply(b"aider-guard: in words", 200, "text/plain")


@dataclass
class ScriptedExchange(PlainExchange):
    """An exchange with given decisions; it records the troubles and refusals that it gets."""

    on_begin: Reply | None = None
    troubles: list[Reply | Retry] = field(default_factory=list)
    refusals: list[Reply | Retry | Pass] = field(default_factory=list)
    change: Callable[[bytes], bytes | Reply] = lambda chunk: chunk
    broken: Reply | Abort = field(default_factory=Abort)
    received: list[object] = field(default_factory=list)

    async def begin(self) -> Forward | Reply:
        return self.on_begin or Forward(self.incoming.body.upper())

    async def on_trouble(self, trouble: Trouble) -> Reply | Retry:
        self.received.append(trouble)
        return self.troubles.pop(0)

    async def on_refusal(
        self,
        status: int,
        content: bytes,
        location: str = "",  # noqa: ARG002  # as in ChatExchange
    ) -> Reply | Retry | Pass:
        self.received.append((status, content))
        return self.refusals.pop(0)

    def on_chunk(self, chunk: bytes) -> bytes | Reply:
        return self.change(chunk)

    def on_broken(self, trouble: Trouble) -> Reply | Abort:
        self.received.append(trouble)
        return self.broken


def handler_with(**decisions: object) -> PlainHandler:
    """Return a handler whose exchanges decide as given."""

    def make(incoming: IncomingRequest, ended: Callable[[Outcome], None]) -> ScriptedExchange:
        return ScriptedExchange(incoming, ended, **decisions)  # type: ignore[arg-type]  # a test's own table

    return PlainHandler(make)


def post(base: str, body: bytes = b"{}") -> httpx.Response:
    """Ask the door for text."""
    return httpx.post(
        f"{base}/api/chat", content=body, trust_env=False, verify=False, timeout=CAP_SECONDS
    )


def chunks_of(*pieces: bytes) -> Callable[[Connection], None]:
    """An upstream that answers every request with these."""

    def script(connection: Connection) -> None:
        while connection.request()[0]:
            connection.head("200 OK", "Content-Type: application/x-ndjson", "Set-Cookie: a=b")
            for piece in pieces:
                connection.chunk(piece)
            connection.end()

    return script


def test_each_chunk_is_there_before_the_next_is_made() -> None:
    """Nothing is gathered: the upstream waits until its last chunk has arrived."""
    arrived = threading.Semaphore(0)
    pieces = [f'{{"n": {number}}}\n'.encode() for number in range(50)]

    def script(connection: Connection) -> None:
        connection.request()
        connection.head()
        for piece in pieces:
            connection.chunk(piece)
            assert arrived.acquire(timeout=CAP_SECONDS)
        connection.end()

    got = []
    with (
        Scripted(script) as upstream,
        door_to(PlainHandler(), upstream.base) as door,
        httpx.Client(trust_env=False, verify=False, timeout=CAP_SECONDS) as aider,
        aider.stream("POST", f"{door.base}/api/chat", content=b"{}") as answer,
    ):
        for piece in answer.iter_raw():
            got.append(piece)
            arrived.release()
    assert got == pieces


def test_the_head_of_an_answer_is_there_before_its_body() -> None:
    """Status and headers of an upstream that still thinks are handed on at once."""
    seen = threading.Event()

    def script(connection: Connection) -> None:
        connection.request()
        connection.head("200 OK", "Content-Type: application/x-ndjson", "X-A: b", "Keep-Alive: x")
        assert seen.wait(CAP_SECONDS)
        connection.chunk(b"late")
        connection.end()

    with (
        Scripted(script) as upstream,
        door_to(PlainHandler(), upstream.base) as door,
        httpx.Client(trust_env=False, verify=False, timeout=CAP_SECONDS) as aider,
        aider.stream("POST", f"{door.base}/api/chat", content=b"{}") as answer,
    ):
        headers = dict(answer.headers)
        seen.set()
        assert answer.read() == b"late"
    assert headers == {
        "content-type": "application/x-ndjson",
        "x-a": "b",
        "transfer-encoding": "chunked",
    }


def test_an_exchange_may_change_the_body_and_every_chunk() -> None:
    """The upstream gets the body from ``begin``, Aider the chunks from ``on_chunk``."""
    got = []

    def script(connection: Connection) -> None:
        got.append(connection.request()[1])
        connection.whole(b"answer", "200 OK", "Content-Type: application/json")

    with (
        Scripted(script) as upstream,
        door_to(handler_with(change=lambda chunk: chunk + b"!"), upstream.base) as door,
    ):
        answer = post(door.base, b"question")
    assert got == [b"QUESTION"]
    assert answer.content == b"answer!"
    assert answer.headers["content-type"] == "application/json"


def test_a_reply_at_the_start_needs_no_upstream() -> None:
    """Status, type and content are the exchange's."""
    handler = handler_with(on_begin=Reply(b"no", 418, "text/plain"))
    with door_to(handler, "http://127.0.0.1:9") as door:
        answer = post(door.base)
    assert (answer.status_code, answer.content) == (418, b"no")
    assert answer.headers == {"content-type": "text/plain", "content-length": "2"}
    assert handler.outcomes == ["replied"]


def test_a_reply_in_the_middle_ends_the_answer_and_closes_the_upstream() -> None:
    """The pieces before it stay, the rest of the answer is not read."""
    closed = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.head()
        connection.chunk(b"one ")
        connection.chunk(b"stop")
        closed.append(connection.wait_closed())

    handler = handler_with(change=lambda chunk: WORDS if chunk == b"stop" else chunk)
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        assert post(door.base).content == b"one aider-guard: in words"
    assert closed == [True]
    assert handler.outcomes == ["replied"]


def test_an_upstream_that_is_down_is_reported_in_the_systems_words() -> None:
    """Its port is closed."""
    received: list[object] = []
    handler = handler_with(troubles=[WORDS], received=received)
    with door_to(handler, f"http://127.0.0.1:{free_port()}") as door:
        assert post(door.base).content == WORDS.content
    assert received == [Trouble("down", "Connection refused")]
    assert handler.outcomes == ["replied"]


def free_port() -> int:
    """Return a closed port."""
    with Scripted(lambda _connection: None) as missing:
        return missing.port


@pytest.mark.parametrize(
    "base",
    [
        "http://no-such-host.invalid:1",
        "ftp://127.0.0.1:1",
        "http://[::1",
        "https://127.0.0.1:PORT",
    ],
)
def test_an_address_that_leads_nowhere_is_down(base: str) -> None:
    """Names that do not resolve, schemes and ports that are none, and a server without TLS."""
    received: list[object] = []
    with (
        Scripted(lambda connection: connection.send(b"no TLS here")) as upstream,
        door_to(
            handler_with(troubles=[WORDS], received=received),
            base.replace("PORT", str(upstream.port)),
        ) as door,
    ):
        assert post(door.base).content == WORDS.content
    (trouble,) = received
    assert isinstance(trouble, Trouble)
    assert trouble.kind == "down"
    assert trouble.words


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"no HTTP at all\r\n\r\n"])
def test_an_upstream_that_answers_nothing_has_failed(sent: bytes) -> None:
    """It closed the connection before the head of its answer was complete, or speaks another protocol."""
    received: list[object] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(sent)

    with (
        Scripted(script) as upstream,
        door_to(handler_with(troubles=[WORDS], received=received), upstream.base) as door,
    ):
        assert post(door.base).content == WORDS.content
    (trouble,) = received
    assert isinstance(trouble, Trouble)
    assert trouble.kind == "broken"
    assert upstream.accepted == 1


def test_a_refusal_goes_to_the_exchange_whole() -> None:
    """With status and content; the exchange's reply is the answer."""
    received: list[object] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b'{"error":"model not found"}', "404 Not Found")

    handler = handler_with(refusals=[WORDS], received=received)
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        answer = post(door.base)
    assert received == [(404, b'{"error":"model not found"}')]
    assert (answer.status_code, answer.content) == (200, WORDS.content)


def test_a_refusal_can_be_passed_on_as_it_is() -> None:
    """Status, headers and content."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b"busy", "503 Service Unavailable", "X-Why: queue")

    handler = handler_with(refusals=[Pass()])
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        answer = post(door.base)
    assert (answer.status_code, answer.content, answer.headers["x-why"]) == (503, b"busy", "queue")
    assert handler.outcomes == ["answered"]


def test_a_retry_shows_something_meanwhile_and_then_the_answer() -> None:
    """The line that is shown while the model loads begins the answer; the real one follows in it."""
    statuses = iter(("503 Service Unavailable", "503 Service Unavailable"))

    def script(connection: Connection) -> None:
        while connection.request()[0]:
            status = next(statuses, None)
            if status:
                connection.whole(b"loading", status)
            else:
                connection.head("200 OK", "Content-Type: text/plain")
                connection.chunk(b"answer")
                connection.end()

    retries: list[Reply | Retry | Pass] = [Retry(0.0, b"wait\n"), Retry(0.01)]
    handler = handler_with(refusals=retries)
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        answer = post(door.base)
    assert answer.content == b"wait\nanswer"
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert upstream.accepted == 1
    assert handler.outcomes == ["answered"]


def test_an_upstream_that_comes_back_is_found_by_a_retry() -> None:
    """It was down at the first try."""
    port = free_port()
    up = Scripted(chunks_of(b"back"), port=port)

    class Starting(ScriptedExchange):
        async def on_trouble(self, trouble: Trouble) -> Reply | Retry:
            assert trouble.kind == "down"
            up.__enter__()
            return Retry(0.0)

    with door_to(PlainHandler(Starting), f"http://127.0.0.1:{port}") as door:
        assert post(door.base).content == b"back"
    up.__exit__()


@pytest.mark.parametrize("decision", [Reply(b" the end"), Abort()])
@pytest.mark.parametrize("pieces", [0, 3])
def test_an_answer_that_breaks_off_ends_as_the_exchange_decides(
    decision: Reply | Abort, pieces: int
) -> None:
    """With its words, or with a cut connection, so that Aider tries again."""
    received: list[object] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.head()
        for _ in range(pieces):
            connection.chunk(b"one")

    handler = handler_with(broken=decision, received=received)
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        if isinstance(decision, Reply):
            assert post(door.base).content == b"one" * pieces + b" the end"
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                post(door.base)
    assert [trouble.kind for trouble in received if isinstance(trouble, Trouble)] == ["broken"]
    assert handler.outcomes == ["replied" if isinstance(decision, Reply) else "broken"]


def test_what_an_exchange_held_back_comes_at_the_end() -> None:
    """It waited for more of a line, and there was none."""

    @dataclass
    class Holding(PlainExchange):
        held: bytes = b""

        def on_chunk(self, chunk: bytes) -> bytes:
            self.held += chunk
            return b""

        def remainder(self) -> bytes:
            return self.held

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b"data: [DONE]")

    with Scripted(script) as upstream, door_to(PlainHandler(Holding), upstream.base) as door:
        assert post(door.base).content == b"data: [DONE]"


def test_an_answer_that_is_compressed_unasked_is_seen_and_handed_on_plain() -> None:
    """Some reverse proxies compress every answer."""
    seen = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(gzip.compress(b"plain words"), "200 OK", "Content-Encoding: gzip")

    def on_chunk(chunk: bytes) -> bytes:
        seen.append(chunk)
        return chunk

    with (
        Scripted(script) as upstream,
        door_to(handler_with(change=on_chunk), upstream.base) as door,
    ):
        answer = post(door.base)
    assert answer.content == b"plain words"
    assert "content-encoding" not in answer.headers
    assert b"".join(seen) == b"plain words"


def test_an_unknown_coding_is_a_failure() -> None:
    """Its bytes mean nothing to the guard, so nothing is handed on uncounted."""
    received: list[object] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b"\x8b", "200 OK", "Content-Encoding: br")

    handler = handler_with(troubles=[WORDS], received=received)
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        assert post(door.base).content == WORDS.content
    assert [trouble.kind for trouble in received if isinstance(trouble, Trouble)] == ["broken"]


PROMPT = "the secret prompt"


class BuggyError(RuntimeError):
    """A bug whose words quote the prompt."""


def _fail(*_: object) -> bytes:
    raise BuggyError(PROMPT)


@pytest.mark.parametrize("method", ["open", "begin", "on_chunk", "end"])
def test_a_bug_of_the_handlers_ends_one_request_only(
    method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """500 in words, or a cut where the answer had started; stderr has the place in the code, not the prompt."""

    class Buggy(PlainExchange):
        async def begin(self) -> Forward | Reply:
            return await super().begin() if method != "begin" else Forward(_fail())

        def on_chunk(self, chunk: bytes) -> bytes | Reply:
            return chunk if method != "on_chunk" else _fail()

        async def end(self, outcome: Outcome) -> None:
            await super().end(outcome)
            if method == "end":
                _fail()

    handler = PlainHandler(Buggy if method != "open" else _fail)  # type: ignore[arg-type]  # never returns
    with Scripted(chunks_of(b"fine")) as upstream, door_to(handler, upstream.base) as door:
        if method == "on_chunk":
            with pytest.raises(httpx.RemoteProtocolError):
                post(door.base)
        elif method == "end":
            assert post(door.base).content == b"fine"
        else:
            answer = post(door.base)
            assert answer.status_code == 500
            assert answer.json()["error"].startswith("aider-guard: ")
        handler.make_exchange = PlainExchange
        assert post(door.base).content == b"fine"
    received = capfd.readouterr().err
    assert "BuggyError" in received
    assert "_fail" in received
    assert PROMPT not in received
    ends: dict[str, list[Outcome]] = {"open": [], "end": ["answered"]}
    assert handler.outcomes == [*ends.get(method, ["broken"]), "answered"]


def test_nothing_is_printed_about_ordinary_requests(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither by the server nor by asyncio: not for answers, wrong tokens, no HTTP, upgrades, or cuts."""
    with Scripted(chunks_of(b"fine")) as upstream, door_to(PlainHandler(), upstream.base) as door:
        post(door.base)
        httpx.get(f"http://127.0.0.1:{door.port}/x", trust_env=False, verify=False)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        httpx.get(f"{door.base}/api/tags", headers=upgrade, trust_env=False, verify=False)
        with door.connect() as bare:
            bare.sendall(b"no HTTP at all\r\n\r\n")
            assert bare.recv(100).startswith(b"HTTP/1.1 400")
        with door.post() as cut:
            assert cut.recv(1) == b"H"
    assert capfd.readouterr() == ("", "")
