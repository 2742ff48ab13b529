"""What a visit decides is done, in the order in which it happens."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest
from door.plain_handler import PlainAttendant, PlainVisit
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
class Visiting(PlainVisit):
    """A visit of which single decisions are given, one after the other; what it was told is remembered."""

    on_begin: Reply | None = None
    on_failed: list[Reply | Retry] = field(default_factory=list)
    on_refused: list[Reply | Retry | Pass] = field(default_factory=list)
    on_passed: Callable[[bytes], bytes | Reply] = lambda chunk: chunk
    on_broke: Reply | Abort = field(default_factory=Abort)
    told: list[object] = field(default_factory=list)

    async def begin(self) -> Forward | Reply:
        return self.on_begin or Forward(self.call.body.upper())

    async def failed(self, trouble: Trouble) -> Reply | Retry:
        self.told.append(trouble)
        return self.on_failed.pop(0)

    async def refused(self, status: int, content: bytes) -> Reply | Retry | Pass:
        self.told.append((status, content))
        return self.on_refused.pop(0)

    def passed(self, chunk: bytes) -> bytes | Reply:
        return self.on_passed(chunk)

    def broke(self, trouble: Trouble) -> Reply | Abort:
        self.told.append(trouble)
        return self.on_broke


def attendant(**decisions: object) -> PlainAttendant:
    """One whose visits decide so."""

    def visit(call: IncomingRequest, ended: Callable[[Outcome], None]) -> Visiting:
        return Visiting(call, ended, **decisions)  # type: ignore[arg-type]  # a test's own table

    return PlainAttendant(visit)


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
        door_to(PlainAttendant(), upstream.base) as door,
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
        door_to(PlainAttendant(), upstream.base) as door,
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


def test_a_visit_may_change_the_body_and_every_chunk() -> None:
    """The upstream gets what ``begin`` made of it, Aider what ``passed`` made of it."""
    got = []

    def script(connection: Connection) -> None:
        got.append(connection.request()[1])
        connection.whole(b"answer", "200 OK", "Content-Type: application/json")

    with (
        Scripted(script) as upstream,
        door_to(attendant(on_passed=lambda chunk: chunk + b"!"), upstream.base) as door,
    ):
        answer = post(door.base, b"question")
    assert got == [b"QUESTION"]
    assert answer.content == b"answer!"
    assert answer.headers["content-type"] == "application/json"


def test_a_reply_at_the_start_needs_no_upstream() -> None:
    """Status, type and content are the visit's."""
    visits = attendant(on_begin=Reply(b"no", 418, "text/plain"))
    with door_to(visits, "http://127.0.0.1:9") as door:
        answer = post(door.base)
    assert (answer.status_code, answer.content) == (418, b"no")
    assert answer.headers == {"content-type": "text/plain", "content-length": "2"}
    assert visits.outcomes == ["replied"]


def test_a_reply_in_the_middle_ends_the_answer_and_closes_the_upstream() -> None:
    """What came before it stays, what would come after is not asked for any more."""
    closed = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.head()
        connection.chunk(b"one ")
        connection.chunk(b"stop")
        closed.append(connection.wait_closed())

    visits = attendant(on_passed=lambda chunk: WORDS if chunk == b"stop" else chunk)
    with Scripted(script) as upstream, door_to(visits, upstream.base) as door:
        assert post(door.base).content == b"one aider-guard: in words"
    assert closed == [True]
    assert visits.outcomes == ["replied"]


def test_an_upstream_that_is_down_is_told_in_the_systems_words() -> None:
    """Nobody listens there."""
    told: list[object] = []
    visits = attendant(on_failed=[WORDS], told=told)
    with door_to(visits, f"http://127.0.0.1:{free_port()}") as door:
        assert post(door.base).content == WORDS.content
    assert told == [Trouble("down", "Connection refused")]
    assert visits.outcomes == ["replied"]


def free_port() -> int:
    """A port where nobody listens."""
    with Scripted(lambda _connection: None) as gone:
        return gone.port


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
    told: list[object] = []
    with (
        Scripted(lambda connection: connection.send(b"no TLS here")) as upstream,
        door_to(
            attendant(on_failed=[WORDS], told=told), base.replace("PORT", str(upstream.port))
        ) as door,
    ):
        assert post(door.base).content == WORDS.content
    (trouble,) = told
    assert isinstance(trouble, Trouble)
    assert trouble.kind == "down"
    assert trouble.words


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"no HTTP at all\r\n\r\n"])
def test_an_upstream_that_answers_nothing_has_failed(sent: bytes) -> None:
    """It went before the head of its answer was complete, or speaks another language."""
    told: list[object] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(sent)

    with (
        Scripted(script) as upstream,
        door_to(attendant(on_failed=[WORDS], told=told), upstream.base) as door,
    ):
        assert post(door.base).content == WORDS.content
    (trouble,) = told
    assert isinstance(trouble, Trouble)
    assert trouble.kind == "broken"
    assert upstream.accepted == 1


def test_a_refusal_goes_to_the_visit_whole() -> None:
    """Its status and content; what the visit makes of it is answered."""
    told: list[object] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b'{"error":"model not found"}', "404 Not Found")

    visits = attendant(on_refused=[WORDS], told=told)
    with Scripted(script) as upstream, door_to(visits, upstream.base) as door:
        answer = post(door.base)
    assert told == [(404, b'{"error":"model not found"}')]
    assert (answer.status_code, answer.content) == (200, WORDS.content)


def test_a_refusal_can_be_passed_on_as_it_is() -> None:
    """Status, headers and content."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b"busy", "503 Service Unavailable", "X-Why: queue")

    visits = attendant(on_refused=[Pass()])
    with Scripted(script) as upstream, door_to(visits, upstream.base) as door:
        answer = post(door.base)
    assert (answer.status_code, answer.content, answer.headers["x-why"]) == (503, b"busy", "queue")
    assert visits.outcomes == ["answered"]


def test_a_retry_shows_something_meanwhile_and_then_the_answer() -> None:
    """What is shown while the model loads begins the answer; the real one follows in it."""
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
    visits = attendant(on_refused=retries)
    with Scripted(script) as upstream, door_to(visits, upstream.base) as door:
        answer = post(door.base)
    assert answer.content == b"wait\nanswer"
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert upstream.accepted == 1
    assert visits.outcomes == ["answered"]


def test_an_upstream_that_comes_back_is_found_by_a_retry() -> None:
    """It was down at the first try."""
    port = free_port()
    up = Scripted(chunks_of(b"back"), port=port)

    class Starting(Visiting):
        async def failed(self, trouble: Trouble) -> Reply | Retry:
            assert trouble.kind == "down"
            up.__enter__()
            return Retry(0.0)

    with door_to(PlainAttendant(Starting), f"http://127.0.0.1:{port}") as door:
        assert post(door.base).content == b"back"
    up.__exit__()


@pytest.mark.parametrize("decision", [Reply(b" the end"), Abort()])
@pytest.mark.parametrize("pieces", [0, 3])
def test_an_answer_that_breaks_off_ends_as_the_visit_decides(
    decision: Reply | Abort, pieces: int
) -> None:
    """With its words, or with a cut connection, so that Aider tries again."""
    told: list[object] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.head()
        for _ in range(pieces):
            connection.chunk(b"one")

    visits = attendant(on_broke=decision, told=told)
    with Scripted(script) as upstream, door_to(visits, upstream.base) as door:
        if isinstance(decision, Reply):
            assert post(door.base).content == b"one" * pieces + b" the end"
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                post(door.base)
    assert [trouble.kind for trouble in told if isinstance(trouble, Trouble)] == ["broken"]
    assert visits.outcomes == ["replied" if isinstance(decision, Reply) else "broken"]


def test_what_a_visit_held_back_comes_at_the_end() -> None:
    """It waited for more of a line, and there was none."""

    @dataclass
    class Holding(PlainVisit):
        held: bytes = b""

        def passed(self, chunk: bytes) -> bytes:
            self.held += chunk
            return b""

        def rest(self) -> bytes:
            return self.held

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b"data: [DONE]")

    with Scripted(script) as upstream, door_to(PlainAttendant(Holding), upstream.base) as door:
        assert post(door.base).content == b"data: [DONE]"


def test_an_answer_that_is_compressed_unasked_is_seen_and_handed_on_plain() -> None:
    """Some reverse proxies compress whatever was asked for."""
    seen = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(gzip.compress(b"plain words"), "200 OK", "Content-Encoding: gzip")

    def passed(chunk: bytes) -> bytes:
        seen.append(chunk)
        return chunk

    with Scripted(script) as upstream, door_to(attendant(on_passed=passed), upstream.base) as door:
        answer = post(door.base)
    assert answer.content == b"plain words"
    assert "content-encoding" not in answer.headers
    assert b"".join(seen) == b"plain words"


def test_a_coding_that_nobody_knows_is_a_failure() -> None:
    """Its bytes mean nothing to the guard, so nothing is handed on uncounted."""
    told: list[object] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b"\x8b", "200 OK", "Content-Encoding: br")

    visits = attendant(on_failed=[WORDS], told=told)
    with Scripted(script) as upstream, door_to(visits, upstream.base) as door:
        assert post(door.base).content == WORDS.content
    assert [trouble.kind for trouble in told if isinstance(trouble, Trouble)] == ["broken"]


PROMPT = "the secret prompt"


class BuggyError(RuntimeError):
    """A bug whose words quote the prompt."""


def _fail(*_: object) -> bytes:
    raise BuggyError(PROMPT)


@pytest.mark.parametrize("where", ["visit", "begin", "passed", "end"])
def test_a_bug_of_the_attendants_ends_one_request_only(
    where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """500 in words, or a cut where the answer had begun; the place goes to stderr, the prompt does not."""

    class Buggy(PlainVisit):
        async def begin(self) -> Forward | Reply:
            return await super().begin() if where != "begin" else Forward(_fail())

        def passed(self, chunk: bytes) -> bytes | Reply:
            return chunk if where != "passed" else _fail()

        async def end(self, outcome: Outcome) -> None:
            await super().end(outcome)
            if where == "end":
                _fail()

    visits = PlainAttendant(Buggy if where != "visit" else _fail)  # type: ignore[arg-type]  # never returns
    with Scripted(chunks_of(b"fine")) as upstream, door_to(visits, upstream.base) as door:
        if where == "passed":
            with pytest.raises(httpx.RemoteProtocolError):
                post(door.base)
        elif where == "end":
            assert post(door.base).content == b"fine"
        else:
            answer = post(door.base)
            assert answer.status_code == 500
            assert answer.json()["error"].startswith("aider-guard: ")
        visits.visits = PlainVisit
        assert post(door.base).content == b"fine"
    told = capfd.readouterr().err
    assert "BuggyError" in told
    assert "_fail" in told
    assert PROMPT not in told
    ends: dict[str, list[Outcome]] = {"visit": [], "end": ["answered"]}
    assert visits.outcomes == [*ends.get(where, ["broken"]), "answered"]


def test_nothing_is_printed_about_ordinary_requests(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither by the server nor by asyncio: not for answers, wrong tokens, no HTTP, upgrades, or cuts."""
    with Scripted(chunks_of(b"fine")) as upstream, door_to(PlainAttendant(), upstream.base) as door:
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
