"""Chooses the variables that keep a session local; Aider's environment gets them after every ``.env`` was read.

They only ask programs to behave: a program that ignores proxies can still reach the network. Every client that Aider
itself uses (httpx, requests, aiohttp, git, curl) honours them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aider_guard.config import Config
from aider_guard.core.egress import Place, parse_place, places
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.cloud_variables import CLOUD_BASES, CLOUD_KEYS, SERVER_BASES
from aider_guard.launch.places import host_of, place
from aider_guard.launch.routes import CLOUD_PREFIX, DoorAddress
from aider_guard.ollama.names import connectable_base, is_this_machine

INVALID_KEY = "switched-off-by-aider-guard"
NOWHERE = "http://127.0.0.1:9"
"""Stands for the refusing proxy where none is open, in what is only shown: the discard port, where nothing listens."""
_HERE = ("localhost", "127.0.0.1", "::1")
_HTTP, _HTTPS = 80, 443
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# With any value of the first, Aider asks GitHub before every request (models.py); the second goes to Ollama only,
# which may be behind a server that asks for it.
_NO_KEYS_OF_OURS = ("GITHUB_COPILOT_TOKEN", "OLLAMA_API_KEY")


@dataclass(frozen=True)
class LocalEnvironment:
    """Variables that Aider's process has whatever a ``.env`` says, and variables that it must not have."""

    set: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()


def local_environment(
    config: Config, settings: AiderSettings, ollama: str, refusing_proxy: str
) -> LocalEnvironment:
    """Choose the variables for a session on the Ollama at this URL; *refusing_proxy* accepts no connection.

    With an open network only Ollama's address is set, and this machine is made an exception from the user's proxies.
    OpenAI's key is left alone where all models with its prefix run on local servers.
    """
    address = {"OLLAMA_API_BASE": ollama} if config.ollama else {}
    if config.network == "open":
        return LocalEnvironment({**address, **_past_proxies(settings)})
    roles = (role for role in settings.roles if role.model.startswith("openai/"))
    is_local = {place(role, settings).kind for role in roles} == {"server"}
    kept = (*_NO_KEYS_OF_OURS, "OPENAI_API_KEY" if is_local else "")
    keys = {name: INVALID_KEY for name in CLOUD_KEYS if name not in kept}
    proxies = {spelling: refusing_proxy for name in _PROXIES for spelling in (name, name.lower())}
    reachable = ",".join((*_HERE, *_other_machines(config, ollama)))
    proxies |= {"NO_PROXY": reachable, "no_proxy": reachable}
    switches = {"USE_LITELLM_PROXY": "False", "HF_HUB_OFFLINE": "1"}
    values = {**address, **keys, **proxies, **switches}
    return LocalEnvironment(values, unset=("GITHUB_COPILOT_TOKEN",))


def cloud_addresses(
    config: Config, settings: AiderSettings, ollama: str, door: DoorAddress
) -> dict[str, str]:
    """Choose the variables that send the requests for clouds to the door, which answers them at once.

    What leads to this machine, to Ollama or to an allowed host is left alone, as everything is with an open network.
    """
    if config.network == "open":
        return {}
    reachable = _other_machines(config, ollama)
    variables: dict[str, str] = {}
    for names, default in _providers():
        set_by_user = {
            variable.name: connectable_base(variable.address or variable.value)
            for variable in settings.addresses
            if variable.name in names and variable.value
        }
        places = [_place_of(base) for base in set_by_user.values()] or [default]
        here = any(is_this_machine(base) for base in set_by_user.values())
        if not here and not any(place is None or place.host in reachable for place in places):
            url = door.url(f"{CLOUD_PREFIX}/{places[0]}")
            main = names[:1] if default else ()
            variables |= dict.fromkeys((*main, *set_by_user), url)
    return variables


def _providers() -> Iterator[tuple[tuple[str, ...], Place | None]]:
    """The variables of each provider, and where its requests go without any; None where they go nowhere."""
    for host, names in CLOUD_BASES.items():
        yield names, Place(host, _HTTPS)
    for name in SERVER_BASES:
        yield (name,), None


def _place_of(base: str) -> Place | None:
    """The host and port of an address; None where it names none."""
    try:
        url = urlsplit(base)
        port = url.port or (_HTTPS if url.scheme == "https" else _HTTP)
        return parse_place(str(Place(url.hostname or "", port)))
    except ValueError:
        return None


def _other_machines(config: Config, ollama: str) -> tuple[str, ...]:
    """The hosts of other machines that a session may reach: Ollama's and the allowed ones."""
    host = "" if is_this_machine(ollama) else host_of(ollama)
    allowed = (place.host for place in places(config.allow))
    return tuple(dict.fromkeys(filter(None, (host, *allowed))))


def _past_proxies(settings: AiderSettings) -> dict[str, str]:
    """The user's exceptions from proxies, and this machine: a proxy elsewhere could not reach the door."""
    values = {variable.name.upper(): variable.value for variable in settings.addresses}
    if not any(values.get(name) for name in _PROXIES):
        return {}
    exceptions = ",".join(filter(None, (values.get("NO_PROXY", ""), *_HERE)))
    return {"NO_PROXY": exceptions, "no_proxy": exceptions}
