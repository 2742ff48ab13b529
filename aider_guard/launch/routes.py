"""Finds the servers that a session may use, and gives each a part of the door's address. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any, Literal

from aider_guard.core.chat.types import Upstream
from aider_guard.launch.aider_settings import AiderSettings, ollama_name
from aider_guard.launch.places import (
    ADDRESS_VARIABLES,
    DEFAULT_ADDRESSES,
    address_for,
    addresses_in,
    headers_in,
    key_of,
    may_be_reached,
    ollama_headers,
    place,
)
from aider_guard.ollama.access import Headers, valid_headers
from aider_guard.ollama.names import connectable_base, is_this_machine

OLLAMAS_OPENAI = "/v1"
CLOUD_PREFIX = "/cloud"
"""The part of the door that answers for clouds; what follows is the place that a request would go to."""
_OLLAMA = "ollama"
_PREFIX_OF_EVERY_MODEL = "aider"


@dataclass(frozen=True)
class DoorAddress:
    """The door's port and token: every program that knows the token may use the door. Port 0 stands for a door that
    is not open yet, where an address is only shown.
    """

    port: int
    token: str = field(repr=False)

    def url(self, prefix: str = "") -> str:
        """The address for one of the door's servers (``Routes.prefixes``)."""
        return f"http://127.0.0.1:{self.port or 'PORT'}/{self.token}{prefix}"


@dataclass(frozen=True)
class Routes:
    """The servers, and the prefix of each: what follows the token in the door's address. Ollama's own prefix is "" and
    has ``/v1`` below it; another server's is ``/openai`` or the like.
    """

    upstreams: tuple[Upstream, ...]
    prefixes: Mapping[str, str] = field(repr=False)
    """By the server's address, as ``key_of`` spells it."""
    variables: Mapping[str, str]
    """The prefixes for environment variables that hold the address of a server on this machine, by name."""

    def prefix(self, address: str) -> str | None:
        """The prefix of the server at this address; None for a server that is not reached through the door."""
        return self.prefixes.get(key_of(address)) if address else None


def find_routes(
    settings: AiderSettings, ollama: str, entries: Mapping[str, Mapping[str, Any]]
) -> Routes:
    """Find the routes of a session on the Ollama at this URL; *entries* are the user's model settings by name.

    Every server of this machine that a variable, a role or an entry names gets a prefix, and so does one of another
    machine that a session may use (``places.may_be_reached``), where a variable or a role names it.
    """
    routes = _RouteBuilder(ollama, ollama_headers(settings))
    variables: dict[str, str] = {}
    for provider, names in ADDRESS_VARIABLES.items():
        location = address_for(provider, settings)
        address = location.address if may_be_reached(location, settings) else ""
        is_used = any(_provider(role.model) == provider for role in settings.roles)
        if not location.address and is_used:
            address = DEFAULT_ADDRESSES.get(provider, "")
        if "://" in address:
            variables |= dict.fromkeys(names, routes.prefix(address, provider))
    for role in settings.roles:
        address = place(role, settings).address
        if "://" in address:
            routes.prefix(address, _provider(role.model), valid_headers(role.headers))
    main = settings.roles[0].model if settings.roles else ""
    for name, entry in entries.items():
        provider = _provider(name)
        provider = _provider(main) if provider == _PREFIX_OF_EVERY_MODEL else provider
        for address in filter(_is_local, addresses_in(entry)):
            routes.prefix(address, provider, headers_in(entry))
    return Routes(tuple(routes.upstreams), routes.prefixes, variables)


def _is_local(address: str) -> bool:
    """Whether this is the complete address of a server on this machine."""
    return "://" in address and is_this_machine(connectable_base(address))


def _provider(model: str) -> str:
    """The prefix of a model's name, one for both of Ollama's."""
    return _OLLAMA if ollama_name(model) is not None else model.partition("/")[0]


class _RouteBuilder:
    """Collects servers, each once, and gives each a prefix."""

    def __init__(self, ollama: str, headers: Headers) -> None:
        self.upstreams = [Upstream("", ollama, "ollama", headers)]
        self.prefixes = {key_of(ollama): "", key_of(ollama) + OLLAMAS_OPENAI: OLLAMAS_OPENAI}

    def prefix(self, address: str, provider: str, headers: Headers = ()) -> str:
        """The prefix of this server, a new one where it has none yet."""
        key = key_of(address)
        if key not in self.prefixes:
            # One segment of a path that is neither used nor Ollama's own (``api``, ``v1``) or the clouds'.
            name = "".join(char for char in provider.lower() if char.isascii() and char.isalnum())
            name = "server" if name in {"", "api", "v1", "cloud"} else name
            used = {upstream.path for upstream in self.upstreams}
            names = chain([name], (f"{name}-{number}" for number in count(2)))
            path = next(path for path in names if path not in used)
            kind: Literal["ollama", "openai"] = "ollama" if provider == _OLLAMA else "openai"
            self.upstreams.append(Upstream(path, connectable_base(address), kind, headers))
            self.prefixes[key] = f"/{path}"
        elif headers:  # a role's, for a server that a variable has named before
            self.upstreams = [
                replace(one, headers=one.headers or headers)
                if one.path and f"/{one.path}" == self.prefixes[key]
                else one
                for one in self.upstreams
            ]
        return self.prefixes[key]
