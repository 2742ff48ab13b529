"""Describes the environment as Aider will see it, and forces variables in it.

It remembers where each variable was set last, and shows addresses without secrets.
"""

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
    """Remembers where each environment variable was set last, in words."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self.by_flag: list[str] = []
        """Names that Aider's ``--api-key`` made."""

    def note(self, name: str, source: str) -> None:
        """Remember *source* as the last one that set *name*."""
        self._last[name] = source

    def of(self, name: str) -> str:
        """Where *name* was set last; "the environment" where no source was noted."""
        return self._last.get(name, "the environment")


@contextmanager
def restore_environment() -> Iterator[None]:
    """Undo all changes of the environment at the end of the ``with``."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def shown_address(text: str) -> str:
    """An address without user name, password, path and query, split as the clients split it (RFC 3986)."""
    match = _ADDRESS.match(text.strip())
    assert match is not None  # every part may be empty
    host, mark, port = match["authority"].rpartition("@")[2].rpartition(":")
    if not mark or "]" in port:  # a lone host, or an IPv6 address
        host, port = f"{host}{mark}{port}", ""
    return f"{match['scheme'] or ''}{host}{f':{port}' if port.isdigit() else ''}"


def keys_set(origins: Origins) -> list[dict[str, str]]:
    """The keys and tokens of clouds that are set, by name and source."""
    names = dict.fromkeys((*CLOUD_KEYS, *SHARED_CREDENTIALS, *origins.by_flag))
    return [{"name": name, "source": origins.of(name)} for name in names if os.environ.get(name)]


def addresses_set(origins: Origins) -> list[dict[str, str]]:
    """Where traffic would go: ``value`` as it may be shown, ``address`` complete where it is a server's."""
    names = (*OLLAMA_ADDRESSES, *CLOUD_ADDRESSES, *PROXIES)
    return [
        {
            "name": name,
            "source": origins.of(name),
            "value": os.environ[name] if name in AS_THEY_ARE else shown_address(os.environ[name]),
            "address": os.environ[name] if name in CLOUD_ADDRESSES else "",
        }
        for name in names
        if os.environ.get(name)
    ]


def force_variables(environment: Any, values: Mapping[str, str], unset: Iterable[str]) -> None:
    """Make *environment* keep *values* and lack *unset* from now on, whatever is assigned to it.

    Aider sets variables from every ``.env`` (main.py: load_dotenv_files), then from ``--set-env``, ``--api-key``,
    ``--openai-api-key``, ``--anthropic-api-key`` and ``--openai-api-base`` (main.py:590-640), does it all again when
    it guessed the wrong repository, and once more when a key is fetched (onboarding.py, models.py:959). All of them
    assign to this one object, which others keep references to (configargparse's ``env_vars=os.environ``); so the object
    itself must refuse what would lead outside. Reading, copying and deleting stay as they are.
    """
    forced, refused = dict(values), frozenset(unset)

    class ForcedEnvironment(_Environ):
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
    environment.__class__ = ForcedEnvironment
