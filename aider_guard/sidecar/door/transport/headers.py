"""Which headers go through, each way. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

RawHeaders = list[tuple[bytes, bytes]]

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""What concerns one connection only (RFC 9110 7.6.1, and 11.7 for the proxy's own)."""
# Host and the body's framing are those of the new request; what was expected was answered here.
_OURS: Final = frozenset({b"accept-encoding", b"content-length", b"expect", b"host"})
_REDONE: Final = frozenset({b"content-encoding", b"content-length"})


def to_upstream(headers: Iterable[tuple[bytes, bytes]], base: str) -> RawHeaders:
    """The headers of a request as the upstream gets them, but for its host and the length of its body.

    An answer is asked for as it is, not compressed. A user and password in the upstream's address win over whatever
    the request brings, as they do in httpx.
    """
    passed = [(name, value) for name, value in end_to_end(headers) if name not in _OURS]
    passed.append((b"Accept-Encoding", b"identity"))
    credentials = basic_credentials(base)
    if not credentials:
        return passed
    others = [(name, value) for name, value in passed if name != b"authorization"]
    return [*others, (b"Authorization", credentials)]


def to_aider(headers: Iterable[tuple[bytes, bytes]], *, remade: bool) -> RawHeaders:
    """The headers of an answer as Aider gets them. ``remade``: the body is decoded, and its length may change."""
    passed = end_to_end(headers)
    if not remade:
        return passed
    return [(name, value) for name, value in passed if name not in _REDONE]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """The headers that are not of one connection only; names in lower case."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {
        word.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for word in value.split(b",")
    }
    return [(name, value) for name, value in lowered if name not in HOP_BY_HOP | named]


def basic_credentials(base: str) -> bytes:
    """The ``Authorization`` for a user and password in an address (RFC 7617); b"" for an address without."""
    userinfo, at, _ = base.partition("://")[2].partition("/")[0].rpartition("@")
    if not at:
        return b""
    user, _, password = userinfo.partition(":")
    return b"Basic " + b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password))


def body_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """How long a request says that its body is; None for a body of unknown length."""
    found = {name.lower(): value for name, value in headers}
    if b"transfer-encoding" in found:
        return None
    length = found.get(b"content-length", b"0")
    return int(length) if length.isdigit() else None


def is_coded(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request says that its body is in a coding, and not as it is (RFC 9110 8.4)."""
    codings = [value for name, value in headers if name.lower() == b"content-encoding"]
    words = (word.strip().lower() for value in codings for word in value.split(b","))
    return any(word not in (b"", b"identity") for word in words)
