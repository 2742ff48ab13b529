"""Finds where Ollama is, which source named that address, and whether anything may be sent there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aider_guard.config import Config
from aider_guard.core.findings import Finding, info, stop, warn
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.cloud_variables import OLLAMA_ADDRESSES
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import (
    base_url,
    from_repository,
    is_local,
    is_private,
    ollama_headers,
    roles,
    with_ollama,
)
from aider_guard.ollama.access import ServerAccess, environment_headers
from aider_guard.ollama.names import display_base, is_cloud_base, is_this_machine

_HERE = "aider-guard --ollama http://127.0.0.1:11434"


def ollama(facts: Facts) -> Iterator[Finding]:
    """A finding for an Ollama on another machine, which gets all of the code: how bad it is depends on who named it."""
    base, source = base_url(facts), address_source(facts)
    if is_cloud_base(base):
        what = f"{display_base(base)} is Ollama's cloud: all code would go there"
        yield stop("remote-ollama", what, source, _HERE)
        return
    if is_local(facts):
        return
    # Host and port name the machine; an encrypted connection is worth showing its scheme.
    what = f"all code goes to Ollama on {display_base(base).removeprefix('http://')}"
    only = ", and nowhere else" if facts.config.network == "offline" else ""
    if from_repository(source, facts.settings):
        yield stop("remote-ollama", what, f"named by the repository: {source}", _HERE)
    elif is_unused(facts):
        return
    elif is_private(base):
        yield info("remote-ollama", f"{what}{only}", source)
    else:
        plain = ", unencrypted" if base.startswith("http:") else ""
        yield warn("remote-ollama", f"{what}{plain}{only}", source, _HERE)


def is_unused(facts: Facts) -> bool:
    """Whether models are named, and none of them runs on Ollama."""
    return bool(roles(facts)) and not any(with_ollama(facts))


def is_forbidden(facts: Facts) -> bool:
    """Whether nothing may be sent to Ollama's address, not even a question."""
    return any(finding.severity == "stop" for finding in ollama(facts))


def address_source(facts: Facts) -> str:
    """The source of Ollama's address, in words; "" when it is not known."""
    if facts.config.ollama:
        return "the guard's own setting ollama"
    name = next((name for name in OLLAMA_ADDRESSES if facts.environment.get(name)), "")
    from_environment = f"{name}, the environment" if name else ""
    addresses = facts.settings.addresses if isinstance(facts.settings, AiderSettings) else ()
    for variable in addresses:
        # In Aider's environment the guard set it itself.
        is_own = variable.source == "the environment" and from_environment
        if variable.name == "OLLAMA_API_BASE" and not is_own:
            return f"{variable.name}, {variable.source}"
    return from_environment


def ollama_address(
    config: Config, settings: AiderSettings | Unavailable, environment: Mapping[str, str]
) -> str:
    """The URL of Ollama: the guard's own setting, else what Aider uses, else what the environment says, else Ollama's
    default.
    """
    return base_url(_facts(config, settings, environment))


def may_be_asked(
    config: Config, settings: AiderSettings | Unavailable, environment: Mapping[str, str]
) -> bool:
    """Whether anything may be sent to Ollama's address: it is on this machine, or the user named it outside the
    repository. Ollama's own cloud is never asked.
    """
    facts = _facts(config, settings, environment)
    base = base_url(facts)
    return is_this_machine(base) or not (
        is_cloud_base(base) or from_repository(address_source(facts), settings)
    )


def ollama_access(
    config: Config, settings: AiderSettings | Unavailable, environment: Mapping[str, str]
) -> ServerAccess:
    """Ollama's URL, with the key and headers that Aider sends it; before Aider has said, the environment's key."""
    base = ollama_address(config, settings, environment)
    if isinstance(settings, Unavailable):
        return ServerAccess(base, environment_headers(environment))
    return ServerAccess(base, ollama_headers(settings) or environment_headers(environment))


def _facts(
    config: Config, settings: AiderSettings | Unavailable, environment: Mapping[str, str]
) -> Facts:
    addresses = {name: environment.get(name, "") for name in OLLAMA_ADDRESSES}
    return Facts(config, settings, Unavailable("not asked yet"), environment=addresses)
