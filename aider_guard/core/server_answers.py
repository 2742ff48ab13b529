"""Words what a server, or a proxy in front of it, means by a status other than 200, and what helps.

A proxy says with 502 to 504 that the server behind it is gone, busy or slow (RFC 9110 15.6), and Cloudflare with 520 to
524; with 413 that it takes no request of this size, and with 401 that it wants a key. Ollama itself has none of these
but 503, and 403 for a host name that it does not serve (server/routes.go, allowedHostsMiddleware).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from aider_guard.core.printable import printable
from aider_guard.core.readings import Unavailable

Meaning = Literal["key", "not allowed", "path", "moved", "too large", "gone", "slow"]

_BY_STATUS: Final[Mapping[int, Meaning]] = {
    401: "key",
    403: "not allowed",
    404: "path",
    405: "path",
    413: "too large",
    **dict.fromkeys((502, 503, 520, 521, 522, 523), "gone"),
    **dict.fromkeys((504, 524), "slow"),
}
_MAX_SHOWN: Final = 200


@dataclass(frozen=True)
class NoAnswer(Unavailable):
    """Why a question was not answered, as ``reason`` tells: by a refused one, or by the system's own words.

    It stays within one process: elsewhere only the reason is of use.
    """

    status: int = 0
    content: bytes = field(default=b"", repr=False)
    location: str = ""
    """Where a redirect leads, as it may be shown."""
    cause: str = ""
    """Why there was no connection; "" where a status came."""

    @property
    def plain(self) -> Unavailable:
        """The reason alone."""
        return Unavailable(self.reason)


def meaning_of(status: int) -> Meaning | None:
    """Return what a status means that a proxy may have sent; None for any other."""
    return "moved" if 300 <= status < 400 and status != 304 else _BY_STATUS.get(status)


def passes(meaning: Meaning | None) -> bool:
    """Return whether it goes away by itself."""
    return meaning in ("gone", "slow")


def shown_location(location: str) -> str:
    """Return the target of a redirect as it may be shown: without a user, a password, a query, or line breaks."""
    text = printable(location)[:_MAX_SHOWN].partition("?")[0].partition("#")[0]
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


@dataclass(frozen=True)
class Question:
    """What was asked of whom: the server's name in a sentence, its address as it may be shown, the path on it."""

    server: str
    address: str
    path: str = ""
    location: str = ""


def what_happened(meaning: Meaning, status: int, question: Question) -> str:
    """Return what a status says, in one clause."""
    server, address = question.server, question.address
    redirected = f" to {question.location}" if question.location else ""
    clauses: Mapping[Meaning, str] = {
        "key": f"{server} at {address} wants a key, or another one",
        "not allowed": f"{server} at {address} did not allow it",
        "path": f"nothing answers at {address}{question.path}",
        "moved": f"{address} redirects{redirected}, which is not followed",
        "too large": f"the proxy at {address} takes no request of this size",
        "gone": f"the proxy at {address} does not reach {server}",
        "slow": f"the proxy at {address} gave up waiting for {server}",
    }
    return f"{clauses[meaning]}: status {status}"


def help_for(why: NoAnswer, question: Question, *, start: str, is_ollama: bool = True) -> str:
    """Return what helps where a question was not answered; ``start`` is how the server is started there."""
    if (meaning := meaning_of(why.status)) is not None:
        return what_helps(meaning, replace(question, location=why.location), is_ollama=is_ollama)
    return start if is_refused(why.cause) else what_helps_connecting(why.cause, question)


def is_refused(cause: str) -> bool:
    """Whether a connection failed because nothing listens there, by the system's words for it."""
    return "connection refused" in cause.lower()


def what_helps_connecting(cause: str, question: Question) -> str:
    """Return what helps where there was no connection, and not because nothing listens there."""
    if "certificate" in cause.lower():
        return "export SSL_CERT_FILE=CA.pem   names the certificates that are trusted"
    return (
        f"curl {question.address}{question.path}   shows whether the address is right and answers"
    )


def what_helps(meaning: Meaning, question: Question, *, is_ollama: bool) -> str:
    """Return what helps against it, as a line to paste or a sentence."""
    address_variable = "OLLAMA_API_BASE" if is_ollama else "OPENAI_API_BASE"
    match meaning:
        case "key" if is_ollama:
            return "export OLLAMA_API_KEY=KEY   or a user and password in the address: http://USER:PASSWORD@HOST"
        case "key":
            return (
                "set the key of its provider (OPENAI_API_KEY), or api_key in the model's settings"
            )
        case "not allowed":
            return "is it the right server, and the right key? Ollama itself allows only some host names"
        case "path":
            page = "/api/version" if is_ollama else "/models"
            return f"curl {question.address}{page}   shows whether the path of the address is right"
        case "moved":
            target = question.location.removesuffix(question.path).rstrip("/")
            if "://" not in target:
                return f"name the address that it leads to ({address_variable})"
            return f"export {address_variable}={target}   if that is your server"
        case "too large":
            return "let it take more (nginx: client_max_body_size 64m), or make the prompt smaller: /drop FILE"
        case "gone":
            return f"see that {question.server} runs behind it, then send your message again"
        case "slow":
            return (
                "let it wait longer (nginx: proxy_read_timeout 600s), then send your message again"
            )
