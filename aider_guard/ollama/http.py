"""Asks one question over HTTP in bounded time, and words why there is no answer."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

from aider_guard.core.chat.errors import error_text
from aider_guard.core.printable import printable
from aider_guard.core.server_answers import (
    NoAnswer,
    Question,
    meaning_of,
    shown_location,
    what_happened,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_OLLAMAS_OWN = 503  # "server busy": its words say more than the status


class Answer(NamedTuple):
    """A whole answer. ``location`` is where a redirect leads, as the server sent it."""

    status: int
    content: bytes
    location: str = ""


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object in a body; None for anything else."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def refusal(answer: Answer, address: str, path: str) -> NoAnswer:
    """Why an answer other than 200 is none, with the beginning of the server's own error text if there is one.

    ``address`` is the server's as it may be shown.
    """
    status, words = answer.status, printable(error_text(answer.content))[:200]
    location, meaning = shown_location(answer.location), meaning_of(status)
    reason = f"Ollama answered {path} with status {status}"
    if words:
        reason = f"Ollama refused {path}: {words} ({status})"
    if meaning is not None and not (words and status == _OLLAMAS_OWN):
        told = what_happened(meaning, status, Question("Ollama", address, path, location))
        reason = f"{told}, {words}" if words else told
    return NoAnswer(reason, status, answer.content, location)


def says_missing(status: int, content: bytes) -> bool:
    """Whether ``/api/show`` was refused because the model does not exist or its name is impossible.

    404 ``model 'x' not found``; a name of an impossible form is 500 ``invalid model path`` (0.9)
    or 400 ``invalid model name`` (later).
    """
    match json_object(content):
        case {"error": str(words)}:
            is_invalid = status in (400, 500) and words.startswith("invalid model")
            return is_invalid or (status == httpx.codes.NOT_FOUND and "not found" in words)
    return False


def verification(base: str) -> ssl.SSLContext | bool:
    """The value of httpx's ``verify`` for this address: the certificate authorities that SSL_CERT_FILE or SSL_CERT_DIR
    names, which the door and Aider itself use; False for plain http, because they take 70 ms and a megabyte to load.

    Where those cannot be read the usual ones are taken, and the request reports what is wrong.
    """
    if not base.startswith("https"):
        return False
    try:
        return httpx.create_ssl_context()
    except OSError:  # ssl.SSLError among them
        return httpx.create_ssl_context(trust_env=False)


def fetch(
    request: Callable[..., Any],
    *,
    seconds: float,
    connect_seconds: float,
    max_bytes: int,
    clock: Callable[[], float],
) -> Answer:
    """A whole answer; ``request`` is an httpx client's ``stream`` that is called with a timeout.

    The limits hold for the whole answer, also when it comes in small pieces. Raises TimeoutError or
    httpx.TimeoutException when it takes longer than ``seconds``, ValueError when it is larger than ``max_bytes``, and
    httpx's other errors.
    """
    deadline = clock() + seconds
    timeout = httpx.Timeout(seconds, connect=min(connect_seconds, seconds))
    content = bytearray()
    with request(timeout=timeout) as response:
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > max_bytes:
                raise ValueError("an endless answer")
            if clock() > deadline:
                raise TimeoutError
    return Answer(response.status_code, bytes(content), response.headers.get("location", ""))


def cause_of(error: Exception) -> str:
    """Why a connection failed, in the system's words where it has some."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
