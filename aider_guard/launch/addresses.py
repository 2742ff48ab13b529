"""Where Ollama is, and whether anything may be sent there at all."""

from __future__ import annotations

from collections.abc import Mapping

from aider_guard.config import Config
from aider_guard.core.readings import Unavailable
from aider_guard.launch.cloud import OLLAMA_ADDRESSES
from aider_guard.launch.preflight.facts import Facts
from aider_guard.launch.preflight.places import base_url
from aider_guard.launch.preflight.remote import address_source, from_repository, is_ollamas_cloud
from aider_guard.launch.settings import AiderSettings
from aider_guard.ollama.names import is_this_machine

_NOT_ASKED = Unavailable("not asked yet")


def ollama_address(
    config: Config, settings: AiderSettings | Unavailable, environment: Mapping[str, str]
) -> str:
    """Where Ollama is: what the user told the guard, else where Aider says it looks, else what the environment says,
    else Ollama's usual address.
    """
    return base_url(_facts(config, settings, environment))


def may_be_asked(
    config: Config, settings: AiderSettings | Unavailable, environment: Mapping[str, str]
) -> bool:
    """Whether Ollama's address is on this machine, or one that the user named outside the repository.

    Ollama's own cloud is never asked, and another machine gets nothing because a repository names it.
    """
    facts = _facts(config, settings, environment)
    base = base_url(facts)
    if is_this_machine(base):
        return True
    return not is_ollamas_cloud(base) and not from_repository(address_source(facts), settings)


def _facts(
    config: Config, settings: AiderSettings | Unavailable, environment: Mapping[str, str]
) -> Facts:
    named = {name: environment.get(name, "") for name in OLLAMA_ADDRESSES}
    return Facts(config, settings, _NOT_ASKED, environment=named)
