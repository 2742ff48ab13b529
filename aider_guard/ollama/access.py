"""What a server asks for before it answers: the key and the headers that Aider sends it, for the guard's own questions.

A proxy in front of Ollama (Open WebUI, nginx, caddy) wants a bearer key, and litellm sends it one: the ``api_key`` and
the ``extra_headers`` of a model's settings, else ``OLLAMA_API_KEY`` (litellm 1.81.10, main.py: ollama_chat). A user and
password in the address are httpx's own to send. None of these is shown, logged, or put on a command line, which every
user of the machine can read; the sidecar gets them in its environment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final

Headers = tuple[tuple[str, str], ...]

KEY_VARIABLE: Final = "OLLAMA_API_KEY"
SIDECAR_VARIABLE: Final = "AIDER_GUARD_SIDECAR_SERVER"
"""Holds the sidecar's server as JSON, in its environment at its start only."""
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True)
class ServerAccess:
    """A server's complete address, and the headers that it gets with every question; both may hold secrets."""

    base: str = field(repr=False)
    headers: Headers = field(default=(), repr=False)


def bearer(key: str) -> Headers:
    """Return the header for a key (RFC 6750); none for no key."""
    return valid_headers([("Authorization", f"Bearer {key}")]) if key.strip() else ()


def environment_headers(environment: Mapping[str, str] = os.environ) -> Headers:
    """Return the header for the key in ``OLLAMA_API_KEY``, while Aider has not said what it sends."""
    return bearer(environment.get(KEY_VARIABLE, ""))


def valid_headers(pairs: Iterable[tuple[str, str]]) -> Headers:
    """Return the pairs that can be headers (RFC 9110 5.5), each name once, the first of its name.

    Others are left out: the HTTP library's error would quote them.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value in pairs:
        text = value.strip()
        if _NAME.fullmatch(name) and _VALUE.fullmatch(text):
            found.setdefault(name.lower(), (name, text))
    return tuple(found.values())


def to_environment(server: ServerAccess) -> dict[str, str]:
    """Return the variable that hands a server to a sidecar."""
    return {SIDECAR_VARIABLE: json.dumps([server.base, *map(list, server.headers)])}


def take_from_environment(environment: MutableMapping[str, str]) -> ServerAccess | None:
    """Return the server that was handed to this process, and remove it there: its own children do not get it."""
    text = environment.pop(SIDECAR_VARIABLE, "")
    try:
        base, *headers = json.loads(text)
        return ServerAccess(base, tuple((name, value) for name, value in headers))
    except ValueError:  # none was handed over
        return None
