"""Which servers of this machine a session's requests may go to, and by which part of the door's address. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aider_guard.core.chat.types import Upstream
from aider_guard.launch.aider_settings import AiderSettings, ollama_name
from aider_guard.launch.places import ADDRESS_VARIABLES, DEFAULT_ADDRESSES, address_for, place
from aider_guard.ollama.names import connectable_base, is_this_machine

ADDRESS_PARAMETERS = ("base_url", "api_base")
"""The extra parameters that are an address; the first goes before the second (litellm/main.py, completion)."""
OLLAMAS_OPENAI = "/v1"
_OLLAMA = "ollama"
_PREFIX_OF_EVERY_MODEL = "aider"


@dataclass(frozen=True)
class DoorAddress:
    """Where Aider finds the door. Whoever knows ``token`` may use it. Port 0 stands for one that is not open yet, in
    what is only shown.
    """

    port: int
    token: str = field(repr=False)

    def url(self, way: str = "") -> str:
        """The address for one way through the door (``Routes.ways``)."""
        return f"http://127.0.0.1:{self.port or 'PORT'}/{self.token}{way}"


@dataclass(frozen=True)
class Routes:
    """The servers, and the ways to them: what follows the token in the door's address. Ollama's own way is "" and has
    ``/v1`` below it; another server's is ``/openai`` or the like.
    """

    upstreams: tuple[Upstream, ...]
    ways: Mapping[str, str] = field(repr=False)
    """By address, as ``key_of`` spells it."""
    variables: Mapping[str, str]
    """The ways of the environment variables that hold the address of a server on this machine, by name."""

    def way(self, address: str) -> str | None:
        """The way to the server at this address; None for one that the door does not lead to."""
        return self.ways.get(key_of(address)) if address else None


def key_of(address: str) -> str:
    """One spelling of an address, for comparing."""
    return connectable_base(address).replace("//localhost:", "//127.0.0.1:", 1)


def find_routes(
    settings: AiderSettings, ollama: str, entries: Mapping[str, Mapping[str, Any]]
) -> Routes:
    """The routes of a session on the Ollama at this URL; *entries* are the user's model settings by name.

    Where a variable, a role or an entry names a server of this machine, there is a way to it. Other machines are the
    checks' business: the door leads to none but Ollama's.
    """
    found = _Found(ollama)
    variables: dict[str, str] = {}
    for provider, names in ADDRESS_VARIABLES.items():
        address = _address(provider, settings)
        if _is_local(address):
            variables |= dict.fromkeys(names, found.way(address, provider))
    for role in settings.roles:
        address = place(role, settings).address
        if _is_local(address):
            found.way(address, _provider(role.model))
    main = settings.roles[0].model if settings.roles else ""
    for name, entry in entries.items():
        provider = _provider(name)
        provider = _provider(main) if provider == _PREFIX_OF_EVERY_MODEL else provider
        for address in filter(_is_local, addresses_in(entry)):
            found.way(address, provider)
    return Routes(tuple(found.upstreams), found.ways, variables)


def addresses_in(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses among an entry's extra parameters, complete."""
    extra = entry.get("extra_params") or {}
    return tuple(extra[name] for name in ADDRESS_PARAMETERS if isinstance(extra.get(name), str))


def redirected(entry: Mapping[str, Any], urls: Mapping[str, str]) -> dict[str, Any]:
    """The entry with other addresses in its extra parameters, by ``key_of`` the old ones; others stay."""
    extra = dict(entry.get("extra_params") or {})
    if not addresses_in(entry):
        return dict(entry)
    for name in ADDRESS_PARAMETERS:
        address = extra.get(name)
        if isinstance(address, str) and key_of(address) in urls:
            extra[name] = urls[key_of(address)]
    return {**entry, "extra_params": extra}


def _is_local(address: str) -> bool:
    """Whether this is the complete address of a server on this machine."""
    return "://" in address and is_this_machine(connectable_base(address))


def _address(provider: str, settings: AiderSettings) -> str:
    """Where a provider's models run: what its variables say, else its usual place if a role is there."""
    usual = DEFAULT_ADDRESSES.get(provider, "")
    used = any(_provider(role.model) == provider for role in settings.roles)
    return address_for(provider, settings)[1] or (usual if used else "")


def _provider(model: str) -> str:
    """The prefix of a model's name, one for both of Ollama's."""
    return _OLLAMA if ollama_name(model) is not None else model.partition("/")[0]


class _Found:
    """Collects servers, each once."""

    def __init__(self, ollama: str) -> None:
        self.upstreams = [Upstream("", ollama, "ollama")]
        self.ways = {key_of(ollama): "", key_of(ollama) + OLLAMAS_OPENAI: OLLAMAS_OPENAI}

    def way(self, address: str, provider: str) -> str:
        """The way to this server, a new one where there is none yet."""
        key = key_of(address)
        if key not in self.ways:
            path = self._free(_segment(provider))
            base = connectable_base(address)
            kind = Upstream(path, base, "ollama" if provider == _OLLAMA else "openai")
            self.upstreams.append(kind)
            self.ways[key] = f"/{path}"
        return self.ways[key]

    def _free(self, name: str) -> str:
        taken = {upstream.path for upstream in self.upstreams}
        numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
        return next(path for path in (name, *numbered) if path not in taken)


def _segment(provider: str) -> str:
    """A provider's name as one segment of a path that is none of Ollama's (``api``, ``v1``)."""
    kept = "".join(letter for letter in provider.lower() if letter.isascii() and letter.isalnum())
    return "server" if kept in {"", "api", "v1"} else kept
