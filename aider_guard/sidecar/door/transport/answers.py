"""The door's own answers of this layer, and what becomes of an upstream's answer as it comes."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from aider_guard.sidecar.door.seam import Reply, Trouble

if TYPE_CHECKING:
    import httpx

FORBIDDEN: Final = Reply(b"", 403)
_PLAIN: Final = ("", "identity")
_KNOWN: Final = (*_PLAIN, "gzip", "x-gzip", "deflate")


def problem(words: str, status: int) -> Reply:
    """An answer in the protocol's form of an error (Ollama's api/types.go, StatusError)."""
    return Reply(json.dumps({"error": f"aider-guard: {words}"}).encode(), status)


BUG: Final = problem("the guard itself failed at this request", 500)


def unreachable(trouble: Trouble) -> Reply:
    """The upstream gave no answer."""
    return problem(f"the model server does not answer: {trouble.words}", 502)


def is_redirect(answer: httpx.Response) -> bool:
    """Whether an answer sends the asker elsewhere. 304 does not, and no other is of use here."""
    return 300 <= answer.status_code < 400 and answer.status_code != 304


def redirected(answer: httpx.Response) -> Reply:
    """The upstream wants the request elsewhere; where, may be anywhere, and is not told."""
    return problem(
        f"the model server redirects to another address ({answer.status_code}),"
        " which is not followed",
        502,
    )


def decoded(answer: httpx.Response) -> AsyncIterator[bytes] | Trouble:
    """The body of an answer, as it comes, with its coding undone: none was asked for, but some send one."""
    coding = answer.headers.get("content-encoding", "").strip().lower()
    if coding not in _KNOWN:
        return Trouble("broken", "the answer is in a coding that was not asked for")
    # Most of what decoding does is copying, when there is nothing to decode.
    return answer.aiter_raw() if coding in _PLAIN else answer.aiter_bytes()


def tell_bug(error: Exception) -> None:
    """Where the guard's own code failed, to stderr. Without the exception's words, which may quote a prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    print(f"door: {type(error).__name__} in\n{frames}", file=sys.stderr, flush=True)
