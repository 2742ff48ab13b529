"""Large bodies: streamed where they are only passed on, bounded where they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx
import psutil
import pytest
from door.plain_handler import PlainHandler
from door.scripted import CAP_SECONDS, TOKEN, Connection, Scripted, door_to, header

from aider_guard.door.app import MAX_HANDLED_BYTES, MAX_SHOWN_BYTES
from aider_guard.door.interfaces import Reply

MIB = 1024 * 1024
LARGE_MIB = 256
ALLOWED_BYTES = 48 * MIB
"""What a process may grow by while several times that goes through it."""
PIECE = bytes(range(256)) * 4096


def _resident_bytes() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_upload_goes_through_without_being_kept(framing: str) -> None:
    """A blob push of gigabytes needs no memory, with or without a Content-Length."""
    heads: list[bytes] = []
    largest = [0]

    def script(connection: Connection) -> None:
        head, digest = connection.upload()
        heads.append(head)
        largest[0] = _resident_bytes()
        connection.whole(digest.encode(), "201 Created")

    def body() -> Iterator[bytes]:
        yield from (PIECE for _ in range(LARGE_MIB))

    headers = {"Content-Length": str(LARGE_MIB * MIB)} if framing == "length" else {}
    before = _resident_bytes()
    with Scripted(script) as upstream, door_to(PlainHandler(), upstream.base) as door:
        url = f"{door.base}/api/blobs/sha256:1"
        answer = httpx.post(
            url, content=body(), headers=headers, trust_env=False, verify=False, timeout=60
        )
    expected = hashlib.sha256()
    for piece in body():
        expected.update(piece)
    assert (answer.status_code, answer.text) == (201, expected.hexdigest())
    assert largest[0] - before < ALLOWED_BYTES
    assert (header(heads[0], b"content-length") is not None) == (framing == "length")
    assert (header(heads[0], b"transfer-encoding") is None) == (framing == "length")


@pytest.mark.parametrize("path", ["/api/pull", "/api/chat"])
def test_a_large_answer_goes_through_without_being_kept(path: str) -> None:
    """Handled or only passed on: the upstream waits while Aider does not read."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.head()
        for _ in range(LARGE_MIB):
            connection.chunk(PIECE)
        connection.end()

    before = _resident_bytes()
    length = 0
    with (
        Scripted(script) as upstream,
        door_to(PlainHandler(), upstream.base) as door,
        httpx.Client(trust_env=False, verify=False, timeout=CAP_SECONDS) as aider,
        aider.stream("POST", f"{door.base}{path}", content=b"{}") as answer,
    ):
        for piece in answer.iter_raw():
            length += len(piece)
        grown = _resident_bytes() - before
    assert length == LARGE_MIB * MIB
    assert grown < ALLOWED_BYTES


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_request_for_text_has_a_largest_size(framing: str) -> None:
    """413 with a sentence in the form of Ollama's errors; the next request is served."""
    handler = PlainHandler()

    def body() -> Iterator[bytes]:
        yield from (PIECE for _ in range(MAX_HANDLED_BYTES // MIB))
        yield b"x"

    headers = {"Content-Length": str(MAX_HANDLED_BYTES + 1)} if framing == "length" else {}
    with (
        door_to(handler, "http://127.0.0.1:9") as door,
        httpx.Client(trust_env=False, verify=False, timeout=CAP_SECONDS) as aider,
    ):
        url = f"{door.base}/api/chat"
        answer = aider.post(url, content=body(), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"].startswith("aider-guard: ")
        assert not handler.received
        assert aider.post(url, content=b"{}").status_code == 502
    assert handler.outcomes == ["replied"]


def test_a_request_for_text_of_the_largest_size_is_taken() -> None:
    """All of it arrives."""
    digests = []

    def script(connection: Connection) -> None:
        digests.append(connection.upload()[1])
        connection.whole(b"{}")

    handler = PlainHandler()
    with Scripted(script) as upstream, door_to(handler, upstream.base) as door:
        body = PIECE * (MAX_HANDLED_BYTES // MIB)
        url = f"{door.base}/api/chat"
        assert (
            httpx.post(url, content=body, trust_env=False, verify=False, timeout=60).status_code
            == 200
        )
    assert digests == [hashlib.sha256(body).hexdigest()]
    assert handler.received[0].body == body


@pytest.mark.parametrize("size", [0, 1, MAX_SHOWN_BYTES, MAX_SHOWN_BYTES + 1])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_bodies_up_to_a_size_are_shown_before_they_are_passed_on(size: int, framing: str) -> None:
    """With or without a Content-Length; larger ones are not shown, and arrive all the same."""
    seen: list[bytes | None] = []
    body = (PIECE * 2)[:size]

    def refuse(_path: str, shown: bytes | None) -> Reply | None:
        seen.append(shown)
        return None

    def script(connection: Connection) -> None:
        connection.whole(connection.upload()[1].encode())

    with (
        Scripted(script) as upstream,
        door_to(PlainHandler(refuse=refuse), upstream.base) as door,
    ):
        content = body if framing == "length" else iter([body] if body else [])
        answer = httpx.post(f"{door.base}/api/show", content=content, trust_env=False, verify=False)
    assert seen == [body if size <= MAX_SHOWN_BYTES else None]
    assert answer.text == hashlib.sha256(body).hexdigest()


def test_a_client_that_waits_before_its_body_is_answered() -> None:
    """``Expect: 100-continue`` is answered by the door, and not sent on."""
    heads = []

    def script(connection: Connection) -> None:
        heads.append(connection.request()[0])
        connection.whole(b"done")

    with (
        Scripted(script) as upstream,
        door_to(PlainHandler(), upstream.base) as door,
        door.connect() as aider,
    ):
        lines = (f"POST /{TOKEN}/api/show HTTP/1.1", "Host: x", "Content-Length: 2")
        aider.sendall("\r\n".join((*lines, "Expect: 100-continue", "", "")).encode())
        assert aider.recv(1000).startswith(b"HTTP/1.1 100 ")
        aider.sendall(b"{}")
        assert aider.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert header(heads[0], b"expect") is None


def test_a_head_request_gets_no_body() -> None:
    """HEAD: the Content-Length is the upstream's."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")

    with Scripted(script) as upstream, door_to(PlainHandler(), upstream.base) as door:
        answer = httpx.head(f"{door.base}/api/blobs/sha256:1", trust_env=False, verify=False)
    assert (answer.content, answer.headers["content-length"]) == (b"", "1234")
