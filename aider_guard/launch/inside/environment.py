"""The environment as Aider will see it: who set what last, how it may be shown, and how it is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..cloud_variables import (  # noqa: TID252  # this file also runs where no package aider_guard can be imported
    AS_THEY_ARE,
    CLOUD_ADDRESSES,
    CLOUD_KEYS,
    OLLAMA_ADDRESSES,
    PROXIES,
    SHARED_CREDENTIALS,
)

if TYPE_CHECKING:
    _Environ = os._Environ[str]  # noqa: SLF001  # the only name of its type
else:
    _Environ = type(os.environ)


_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)?(?P<authority>[^/?#]*)")


class Origins:
    """Where each environment variable was set last, in words."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self.by_flag: list[str] = []
        """Names that Aider's ``--api-key`` made."""

    def note(self, name: str, source: str) -> None:
        """Remember that *source* set *name*, after whoever did before."""
        self._last[name] = source

    def of(self, name: str) -> str:
        """Where *name* comes from; what nobody set was in the environment already."""
        return self._last.get(name, "the environment")


@contextmanager
def restored() -> Iterator[None]:
    """Whatever happens to the environment inside is undone."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def shown_address(text: str) -> str:
    """An address without a user's name, a password, a path or a query, as the clients split it (RFC 3986)."""
    found = _ADDRESS.match(text.strip())
    assert found is not None  # every part may be empty
    host, mark, port = found["authority"].rpartition("@")[2].rpartition(":")
    if not mark or "]" in port:  # a lone host, or an IPv6 address
        host, port = f"{host}{mark}{port}", ""
    return f"{found['scheme'] or ''}{host}{f':{port}' if port.isdigit() else ''}"


def keys_set(origins: Origins) -> list[dict[str, str]]:
    """Keys and tokens of clouds that are set, by name and source."""
    names = dict.fromkeys((*CLOUD_KEYS, *SHARED_CREDENTIALS, *origins.by_flag))
    return [{"name": name, "source": origins.of(name)} for name in names if os.environ.get(name)]


def addresses_set(origins: Origins) -> list[dict[str, str]]:
    """Where traffic would go: ``value`` as it may be shown, ``address`` complete where a server is meant."""
    names = (*OLLAMA_ADDRESSES, *CLOUD_ADDRESSES, *PROXIES)
    return [
        {
            "name": name,
            "source": origins.of(name),
            "value": _shown(name, os.environ[name]),
            "address": os.environ[name] if name in CLOUD_ADDRESSES else "",
        }
        for name in names
        if os.environ.get(name)
    ]


def _shown(name: str, value: str) -> str:
    return value if name in AS_THEY_ARE else shown_address(value)


def hold(environment: Any, values: Mapping[str, str], unset: Iterable[str]) -> None:
    """From now on *environment* has *values* and lacks *unset*, whatever is assigned to it.

    Aider sets variables from every ``.env`` (main.py: load_dotenv_files), then from ``--set-env``, ``--api-key``,
    ``--openai-api-key``, ``--anthropic-api-key`` and ``--openai-api-base`` (main.py:590-640), does it all again when
    it guessed the wrong repository, and once more when a key is fetched (onboarding.py, models.py:959). All of them
    assign to this one object, of which others keep references (configargparse's ``env_vars=os.environ``); so it is
    the object that must not take what would lead outside. Reading, copying and deleting stay as they are.
    """
    forced, refused = dict(values), frozenset(unset)

    class Held(_Environ):
        def __setitem__(self, name: str, value: str) -> None:
            if name not in refused:
                super().__setitem__(name, forced.get(name, value))

        def setdefault(self, name: str, value: str) -> str:
            if name not in self:
                self[name] = value
            return self.get(name, value)

    for name in refused:
        environment.pop(name, None)
    environment.update(forced)
    environment.__class__ = Held
