"""Upstreams of every kind: behind TLS, redirecting, restarted, and every era of Ollama."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from door.plain_handler import PlainExchange, PlainHandler
from door.scripted import CAP_SECONDS, Connection, OpenDoor, Scripted, door_to
from fakes.ollama_server import ERAS, FakeModel, FakeOllama

from aider_guard.core.readings import Unavailable
from aider_guard.door import prewarm
from aider_guard.door.interfaces import Pass, Reply, Retry
from aider_guard.door.upstream import Upstreams
from aider_guard.ollama.client import OllamaClient


def _whole(connection: Connection) -> None:
    while connection.request()[0]:
        connection.whole(b"answer")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that only itself vouches for, and its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=box"
    )
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    more = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *words.split(), *files, *more], check=True, capture_output=True)
    return folder / "cert.pem"


def _tls_server(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


@pytest.mark.parametrize("path", ["/api/chat", "/api/tags"])
def test_an_upstream_behind_tls_is_verified_and_used(certificate: Path, path: str) -> None:
    """With the authorities that the user's environment names, as other programs take them."""
    trusting = lambda: Upstreams(lambda: ssl.create_default_context(cafile=certificate))  # noqa: E731  # a value here
    with (
        Scripted(_whole, _tls_server(certificate)) as upstream,
        door_to(PlainHandler(), upstream.base, make_upstreams=trusting) as door,
    ):
        for _ in range(2):
            assert (
                httpx.post(f"{door.base}{path}", trust_env=False, verify=False).content == b"answer"
            )
        assert upstream.accepted == 1


def test_the_authorities_are_those_of_the_environment(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE, which a user of a private authority has set for Aider anyway."""
    with Scripted(_whole, _tls_server(certificate)) as upstream:
        with door_to(PlainHandler(), upstream.base) as door:
            answer = httpx.post(f"{door.base}/api/chat", trust_env=False, verify=False)
            assert answer.status_code == 502
            assert b"down: " in answer.content
            assert b"certificate" in answer.content.lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with door_to(PlainHandler(), upstream.base) as door:
            answer = httpx.post(f"{door.base}/api/chat", trust_env=False, verify=False)
            assert answer.content == b"answer"


def test_requests_beside_the_door_trust_the_same_authorities(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polls and loads ahead work where the door works."""

    def version(connection: Connection) -> None:
        while connection.request()[0]:
            connection.whole(b'{"version": "0.9.3"}')

    async def ahead(base: str) -> dict[str, object] | Unavailable:
        async with prewarm.PrewarmRequests(
            base, lambda: prewarm.http_client(base)
        ).connection() as post:
            return await post("/api/version", {})

    def polled(base: str) -> str | Unavailable:
        client = OllamaClient(base)
        try:
            return client.version()
        finally:
            client.close()

    with Scripted(version, _tls_server(certificate)) as upstream:
        for unusable in ("", str(certificate.with_name("missing.pem"))):
            monkeypatch.setenv("SSL_CERT_FILE", unusable)
            for answer in (polled(upstream.base), asyncio.run(ahead(upstream.base))):
                assert isinstance(answer, Unavailable)
                assert "certificate" in answer.reason.lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert polled(upstream.base) == "0.9.3"
        assert asyncio.run(ahead(upstream.base)) == {"version": "0.9.3"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/api/chat", "/api/tags"])
def test_a_redirect_is_not_followed_and_not_handed_on(path: str, status: int) -> None:
    """Aider would follow it, with its prompt, past the door."""
    with FakeOllama() as elsewhere:

        def script(connection: Connection) -> None:
            connection.request()
            connection.whole(b"", f"{status} Elsewhere", f"Location: {elsewhere.url}{path}")

        with (
            Scripted(script) as upstream,
            door_to(PlainHandler(), upstream.base) as door,
        ):
            answer = httpx.post(f"{door.base}{path}", content=b"{}", trust_env=False, verify=False)
        assert answer.status_code == 502
        assert "redirects" in answer.json()["error"]
        assert "location" not in answer.headers
        assert not elsewhere.received


def test_an_exchange_may_answer_a_redirect_in_its_own_words() -> None:
    """It sees the status."""

    class Telling(PlainExchange):
        async def on_refusal(
            self,
            status: int,
            content: bytes,
            location: str = "",  # noqa: ARG002  # as in ChatExchange
        ) -> Reply | Retry | Pass:
            assert not content
            return Reply(f"aider-guard: {status}".encode())

    def script(connection: Connection) -> None:
        connection.request()
        connection.whole(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:9/")

    with Scripted(script) as upstream, door_to(PlainHandler(Telling), upstream.base) as door:
        answer = httpx.post(f"{door.base}/api/chat", content=b"{}", trust_env=False, verify=False)
    assert (answer.status_code, answer.content) == (200, b"aider-guard: 307")


def test_no_cookie_is_kept() -> None:
    """What a server sets goes to Aider and comes back only from there."""
    heads = []

    def script(connection: Connection) -> None:
        while (request := connection.request())[0]:
            heads.append(request[0])
            connection.whole(b"answer", "200 OK", "Set-Cookie: a=b; Path=/")

    with Scripted(script) as upstream, door_to(PlainHandler(), upstream.base) as door:
        for path in ("/api/chat", "/api/chat", "/api/tags"):
            answer = httpx.post(f"{door.base}{path}", trust_env=False, verify=False)
            assert answer.headers["set-cookie"] == "a=b; Path=/"
    assert len(heads) == 3
    assert not any(b"cookie" in head.lower() for head in heads)


@pytest.mark.parametrize("path", ["/api/chat", "/api/tags"])
def test_connections_are_kept(path: str) -> None:
    """The second request needs no new one."""
    with Scripted(_whole) as upstream, door_to(PlainHandler(), upstream.base) as door:
        for _ in range(5):
            assert _post(door, path) == b"answer"
    assert upstream.accepted == 1


def _post(door: OpenDoor, path: str) -> bytes:
    answer = httpx.post(
        f"{door.base}{path}", content=b"{}", trust_env=False, verify=False, timeout=CAP_SECONDS
    )
    return answer.content


@pytest.mark.parametrize("path", ["/api/chat", "/api/tags"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_kept_connection_that_the_server_closes_at_the_next_request_is_replaced(
    path: str, *, reset: bool
) -> None:
    """Ollama was restarted: nothing was answered, so the request is sent again, once."""
    numbers = iter(range(10))

    def script(connection: Connection) -> None:
        first = next(numbers) == 0
        connection.request()
        connection.whole(b"answer")
        if first:
            connection.request()
            if reset:
                connection.reset()
        else:
            connection.request()

    with Scripted(script) as upstream, door_to(PlainHandler(), upstream.base) as door:
        assert [_post(door, path) for _ in range(2)] == [b"answer"] * 2
    assert upstream.accepted == 2


def test_a_server_that_dies_of_a_request_is_not_asked_again() -> None:
    """A new connection that ends without an answer is a failure, not a stale connection."""

    def script(connection: Connection) -> None:
        connection.request()

    with Scripted(script) as upstream, door_to(PlainHandler(), upstream.base) as door:
        assert _post(door, "/api/chat").startswith(b"broken: ")
        assert b"does not answer" in _post(door, "/api/tags")
    assert upstream.accepted == 2


def test_a_restarted_server_is_found_again() -> None:
    """On the same port; the connections to the old one are closed."""
    with Scripted(_whole) as first, door_to(PlainHandler(), first.base) as door:
        request = [threading.Thread(target=_post, args=(door, "/api/chat")) for _ in range(4)]
        for thread in request:
            thread.start()
        for thread in request:
            thread.join(CAP_SECONDS)
        port = first.port
        first.stop()
        with Scripted(_whole, port=port):
            assert [_post(door, "/api/chat") for _ in range(4)] == [b"answer"] * 4


TIMINGS = re.compile(rb'"(created_at|created|id|expires_at|[a-z_]+_duration)":("[^"]*"|[0-9]+)')
MESSAGES = b'"messages": [{"role": "user", "content": "hello"}]'
REQUESTS = (
    ("GET", "/api/version", b""),
    ("GET", "/api/tags", b""),
    ("GET", "/api/ps", b""),
    ("GET", "/api/status", b""),
    ("GET", "/v1/models", b""),
    ("GET", "/api/nothing", b""),
    ("POST", "/api/show", b'{"model": "small"}'),
    ("POST", "/api/show", b'{"model": "small", "verbose": true}'),
    ("POST", "/api/show", b'{"model": "none"}'),
    ("POST", "/api/show", b'{"model": ""}'),
    *(
        ("POST", path, b'{"model": "%b", "stream": %b, %b}' % (model, stream, body))
        for path, body in (
            ("/api/chat", MESSAGES),
            ("/api/generate", b'"prompt": "hello"'),
            ("/v1/chat/completions", MESSAGES),
        )
        for stream in (b"true", b"false")
        for model in (b"small", b"none")
    ),
    ("POST", "/api/generate", b'{"model": "small", "keep_alive": 0}'),
)


@pytest.mark.parametrize("version", ERAS)
def test_every_era_of_ollama_answers_the_same_through_the_door(version: str) -> None:
    """Status, type and every byte but for timings; errors, too. Two servers of one kind get the same requests."""
    models = (FakeModel("qwen3:8b"), FakeModel("small:latest"))
    with (
        FakeOllama(version=version, models=models, loaded=["small"]) as direct_ollama,
        FakeOllama(version=version, models=models, loaded=["small"]) as behind_the_door,
        door_to(PlainHandler(), behind_the_door.url) as door,
        httpx.Client(trust_env=False, verify=False) as aider,
    ):
        for method, path, body in REQUESTS:
            direct, through = (
                aider.request(method, f"{base}{path}", content=body)
                for base in (direct_ollama.url, door.base)
            )
            request = (method, path, body)
            assert direct.status_code == through.status_code, request
            assert TIMINGS.sub(b"", direct.content) == TIMINGS.sub(b"", through.content), request
            assert direct.headers.get("content-type") == through.headers.get("content-type"), (
                request
            )
        assert direct_ollama.received == behind_the_door.received
