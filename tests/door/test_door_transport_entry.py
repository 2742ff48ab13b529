"""Which paths are accepted, and how a request changes on its way."""

from __future__ import annotations

import os
from dataclasses import replace

import httpx
import pytest
from door.plain_handler import PlainHandler
from door.scripted import TOKEN, Connection, Scripted, door_to, header
from fakes.ollama_server import FakeOllama
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.egress import Place
from aider_guard.door.app import find_cloud, find_route
from aider_guard.door.interfaces import Reply

OLLAMA = Upstream("", "http://127.0.0.1:11434", "ollama")
LLAMA = Upstream("o1", "http://127.0.0.1:8080/v1", "openai")
SETTINGS = DoorSettings("t0ken", (OLLAMA, LLAMA), (), 4096)


@pytest.mark.parametrize(
    ("path", "upstream", "seen", "sent"),
    [
        (b"/t0ken/api/chat", OLLAMA, "/api/chat", "/api/chat"),
        (b"/t0ken/v1/chat/completions", OLLAMA, "/v1/chat/completions", "/v1/chat/completions"),
        (b"/t0ken/o1/chat/completions", LLAMA, "/chat/completions", "/chat/completions"),
        (b"/t0ken/api/ch%61t", OLLAMA, "/api/chat", "/api/ch%61t"),
        (b"/t0ken/v1/models/hf.co%2Fa:b", OLLAMA, "/v1/models/hf.co/a:b", "/v1/models/hf.co%2Fa:b"),
        (b"/t0ken/api/chat/", OLLAMA, "/api/chat/", "/api/chat/"),
    ],
)
def test_a_path_behind_the_token_leads_to_its_upstream(
    path: bytes, upstream: Upstream, seen: str, sent: str
) -> None:
    """The handler gets the path decoded, as the server will; it is sent as it was written."""
    route = find_route(path, SETTINGS)
    assert route is not None
    assert (route.upstream, route.path, route.sent) == (upstream, seen, sent)


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/t0ken",
        b"/t0ken/",
        b"/t0ken/api",
        b"/t0ken/api/",
        b"/t0ke/api/chat",
        b"/t0kenn/api/chat",
        b"/T0KEN/api/chat",
        b"//api/chat",
        b"/api/chat",
        b"/t0ken/other/api/chat",
        b"/t0ken/api/../../x",
        b"/t0ken/api/%2e%2e/x",
        b"/t0ken/o1/..",
        b"/t0ken/o1/.",
        b"/t0ken/api//chat",
        b"/t0ken//api/chat",
        b"/t0ken/API/chat",
        b"http://127.0.0.1/t0ken/api/chat",
        b"*",
    ],
)
def test_any_other_path_leads_nowhere(path: bytes) -> None:
    """A wrong token, an unknown upstream, and a path that would leave the upstream's own part."""
    assert find_route(path, SETTINGS) is None


CLOUDS = [
    (b"/t0ken/cloud/api.openai.com:443/chat/completions", "api.openai.com", 443, "/chat/completions"),
    (b"/t0ken/cloud/api.cohere.com:443", "api.cohere.com", 443, ""),
    (b"/t0ken/cloud/llm.example:8000/a%20b", "llm.example", 8000, "/a b"),
    (b"/t0ken/cloud/[2001:db8::1]:443/v1/messages", "2001:db8::1", 443, "/v1/messages"),
    # Older versions of litellm put Google's verb behind the address (llms/vertex_ai).
    (b"/t0ken/cloud/x.example:443:generateContent", "x.example", 443, ":generateContent"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "host", "port", "rest"), CLOUDS)
def test_a_place_in_a_cloud_is_read(path: bytes, host: str, port: int, rest: str) -> None:
    """And the path there; it leads to no upstream, and where clouds are allowed nothing is answered for them."""
    assert find_cloud(path, SETTINGS) == (Place(host, port), rest)
    assert find_route(path, SETTINGS) is None
    assert find_cloud(path, replace(SETTINGS, refuse_cloud=False)) is None
    assert find_cloud(path.replace(b"t0ken", b"other"), SETTINGS) is None


@pytest.mark.parametrize(
    "rest",
    [b"", b"/", b"/api.openai.com", b"/api.openai.com/v1", b"/:443", b"/a b:443", b"/x:0", b"/x:99999", b"/[::g]:1"],
)  # fmt: skip
def test_a_cloud_without_a_place_leads_nowhere(rest: bytes) -> None:
    """A name and a port are needed."""
    assert find_cloud(b"/t0ken/cloud" + rest, SETTINGS) is None


@given(st.binary(max_size=40).map(lambda data: data.replace(b"\x00", b"")))
def test_no_path_without_the_token_leads_anywhere(path: bytes) -> None:
    """With any bytes."""
    if not path.startswith((b"t0ken/", b"/t0ken/")):
        assert find_route(path, SETTINGS) is None


def test_an_empty_token_opens_nothing() -> None:
    """Settings without a token are no open door."""
    assert find_route(b"//api/chat", replace(SETTINGS, token="")) is None


def test_a_request_without_the_token_learns_nothing() -> None:
    """403 without a body, and nothing goes to the upstream."""
    with FakeOllama() as ollama, door_to(PlainHandler(), ollama.url) as door:
        for path in ("/api/tags", "/wrong/api/tags", f"/{TOKEN}", f"/{TOKEN}/"):
            answer = httpx.get(f"http://127.0.0.1:{door.port}{path}", trust_env=False, verify=False)
            assert (answer.status_code, answer.content) == (403, b"")
            assert answer.headers == {"content-length": "0"}
        assert not ollama.received


def test_settings_count_from_the_next_request_on() -> None:
    """A new token closes the door to the old one, and a new upstream gets the next request."""
    with (
        FakeOllama(version="0.9.1") as first,
        FakeOllama(version="0.9.2") as second,
        door_to(PlainHandler(), first.url) as door,
        httpx.Client(trust_env=False, verify=False) as aider,
    ):
        assert aider.get(f"{door.base}/api/version").json() == {"version": "0.9.1"}
        changed = (Upstream("", second.url, "ollama"),)
        door.settings.append(replace(door.settings[-1], upstreams=changed))
        assert aider.get(f"{door.base}/api/version").json() == {"version": "0.9.2"}
        door.settings.append(replace(door.settings[-1], token="another"))
        assert aider.get(f"{door.base}/api/version").status_code == 403


def _echo_head(connection: Connection) -> None:
    while (urls := connection.request())[0]:
        connection.whole(b"\r\n".join(urls), "200 OK", "Content-Type: text/plain")


def test_a_request_arrives_with_the_upstreams_host_and_without_what_was_for_the_door_only() -> None:
    """Ollama takes its own host only (middleware allowedHosts); headers of one connection stay there."""
    sent = {
        "Authorization": "Bearer of-the-user",
        "Connection": "keep-alive, X-Only-Here",
        "X-Only-Here": "1",
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "Accept-Encoding": "gzip, br",
        "User-Agent": "litellm/1",
        "X-Other": "kept",
    }
    with Scripted(_echo_head) as upstream, door_to(PlainHandler(), upstream.base) as door:
        url = f"{door.base}/api/show?verbose=1"
        answer = httpx.post(url, content=b"{}", headers=sent, trust_env=False, verify=False)
    head, _, body = answer.content.rpartition(b"\r\n")
    assert head.startswith(b"POST /api/show?verbose=1 HTTP/1.1\r\n")
    assert body == b"{}"
    assert header(head, b"host") == f"127.0.0.1:{upstream.port}".encode()
    assert header(head, b"accept-encoding") == b"identity"
    assert header(head, b"authorization") == b"Bearer of-the-user"
    assert header(head, b"user-agent") == b"litellm/1"
    assert header(head, b"x-other") == b"kept"
    for name in (b"x-only-here", b"keep-alive", b"te", b"connection"):
        assert header(head, name) is None


def test_a_user_and_password_in_the_upstreams_address_are_sent_as_such() -> None:
    """As httpx does with such an address: Basic, with percent codes undone, in place of another."""
    with Scripted(_echo_head) as upstream:
        base = upstream.base.replace("://", "://me:s%40fe@")
        with door_to(PlainHandler(), base) as door:
            headers = {"Authorization": "Bearer x"}
            answer = httpx.get(
                f"{door.base}/api/tags", headers=headers, trust_env=False, verify=False
            )
    assert header(answer.content, b"authorization") == b"Basic bWU6c0BmZQ=="
    assert header(answer.content, b"host") == f"127.0.0.1:{upstream.port}".encode()


def test_an_upstream_with_a_prefix_keeps_it() -> None:
    """The door's address may stand for any address behind a reverse proxy."""
    with Scripted(_echo_head) as upstream:
        bases = (f"{upstream.base}/ollama/", f"{upstream.base}/v1")
        with door_to(PlainHandler(), *bases, paths=("", "o1")) as door:
            urls = (f"{door.base}/api/tags", f"{door.base}/o1/models")
            lines = [
                httpx.get(url, trust_env=False, verify=False).content.split(b" ")[1] for url in urls
            ]
    assert lines == [b"/ollama/api/tags", b"/v1/models"]


def test_the_environments_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY would catch even 127.0.0.1."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    with FakeOllama() as ollama, door_to(PlainHandler(), ollama.url) as door:
        assert (
            httpx.get(f"{door.base}/api/version", trust_env=False, verify=False).status_code == 200
        )


def test_the_handler_may_refuse_requests_that_are_not_for_text() -> None:
    """It is shown small bodies, and a refused request does not reach the upstream."""
    seen: list[tuple[str, bytes | None]] = []

    def refuse(path: str, body: bytes | None) -> Reply | None:
        seen.append((path, body))
        return Reply(b'{"error": "no"}', 403) if path == "/api/show" else None

    with FakeOllama() as ollama, door_to(PlainHandler(refuse=refuse), ollama.url) as door:
        answer = httpx.post(
            f"{door.base}/api/show", json={"model": "x:cloud"}, trust_env=False, verify=False
        )
        assert (answer.status_code, answer.json()) == (403, {"error": "no"})
        assert answer.headers["content-type"] == "application/json"
        httpx.get(f"{door.base}/api/tags", trust_env=False, verify=False)
        assert ollama.paths() == {"/api/tags"}
    assert seen == [("/api/show", b'{"model":"x:cloud"}'), ("/api/tags", b"")]


@pytest.mark.parametrize("coding", ["gzip", "zstd", "identity, br"])
@pytest.mark.parametrize("path", ["api/chat", "api/show", "v1/responses"])
def test_a_body_in_a_coding_is_not_taken(coding: str, path: str) -> None:
    """The door could not read it, and some servers can."""
    handler = PlainHandler()
    with FakeOllama() as ollama, door_to(handler, ollama.url) as door:
        for named, status in ((coding, 415), ("Identity", 200)):
            headers = {"Content-Encoding": named}
            content = b'{"model":"qwen3:8b","messages":[]}'
            answer = httpx.post(
                f"{door.base}/{path}",
                content=content,
                headers=headers,
                trust_env=False,
                verify=False,
            )
            assert (answer.status_code == 415) is (status == 415)
        assert len(ollama.received) == 1


def test_a_handler_gets_the_whole_request() -> None:
    """With number, path, body and time."""
    handler = PlainHandler()
    with Scripted(_echo_head) as upstream, door_to(handler, upstream.base) as door:
        for number in (1, 2):
            url = f"{door.base}/api/chat?n={number}"
            httpx.post(url, content=b"body", trust_env=False, verify=False)
    first, second = handler.received
    assert (first.number, second.number) == (1, 2)
    assert (first.path, first.body) == ("/api/chat", b"body")
    assert first.received_at < second.received_at
    assert handler.outcomes == ["answered", "answered"]
