"""Where a request goes, by its path: ``/TOKEN/api/chat``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import Final
from urllib.parse import unquote_to_bytes

from aider_guard.core.chat.types import DoorSettings, Upstream

OLLAMA_SEGMENTS: Final = ("api", "v1")
_NOT_A_SEGMENT: Final = frozenset({b"", b".", b".."})


@dataclass(frozen=True)
class Route:
    """An upstream and a path on it: ``path`` as a server understands it, ``sent`` as it is written in the request."""

    upstream: Upstream
    path: str
    sent: str


def find_route(raw_path: bytes, settings: DoorSettings) -> Route | None:
    """The upstream of a request; None for a wrong token, and for any path that is not the door's.

    A path with a segment that is empty, ``.`` or ``..`` leads nowhere, so none leaves an upstream's own prefix.
    """
    # The token comes first and is compared in constant time: an answer's time tells nothing of it.
    token, _, rest = raw_path.removeprefix(b"/").partition(b"/")
    if not compare_digest(token, settings.token.encode()) or not settings.token:
        return None
    segments = unquote_to_bytes(rest).split(b"/")
    if not _NOT_A_SEGMENT.isdisjoint(segments[:-1]) or segments[-1] in (b".", b".."):
        return None
    return _route(rest.decode("ascii"), settings)


def _route(rest: str, settings: DoorSettings) -> Route | None:
    first, _, behind = rest.partition("/")
    if not behind:
        return None
    upstreams = {upstream.path: upstream for upstream in settings.upstreams}
    upstream, sent = upstreams.get(first), f"/{behind}"
    if (upstream is None or not first) and first in OLLAMA_SEGMENTS:
        upstream, sent = upstreams.get(""), f"/{rest}"
    if upstream is None:
        return None
    return Route(upstream, unquote_to_bytes(sent).decode(errors="replace"), sent)
