"""Where Ollama is, and who named that place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from aider_guard.config import Config
from aider_guard.core.findings import Finding, info, stop, warn
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.cloud_variables import OLLAMA_ADDRESSES
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import base_url, is_local
from aider_guard.ollama.names import display_base, is_this_machine

_FOUND_BY_NAME = (".env", ".aider.conf.yml")
_CLOUD_HOSTS = ("ollama.com", "ollama.ai")
_PRIVATE = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, RFC 4193
        *("169.254.0.0/16", "fe80::/10", "127.0.0.0/8", "::1/128"),  # this link, this machine
        "100.64.0.0/10",  # RFC 6598; networks laid over others use it
    )
)
_HERE = "aider-guard --ollama http://127.0.0.1:11434"


def ollama(facts: Facts) -> Iterator[Finding]:
    """An Ollama on another machine gets all of the code: who named it decides how bad that is."""
    base, source = base_url(facts), address_source(facts)
    if is_ollamas_cloud(base):
        what = f"{display_base(base)} is Ollama's cloud: all code would go there"
        yield stop("remote-ollama", what, source, _HERE)
        return
    if is_local(facts):
        return
    what = f"all code goes to Ollama on {_machine(base)}"
    only = ", and nowhere else" if facts.config.network == "offline" else ""
    if from_repository(source, facts.settings):
        yield stop("remote-ollama", what, f"named by the repository: {source}", _HERE)
    elif _is_private(base):
        yield info("remote-ollama", f"{what}{only}", source)
    else:
        plain = ", unencrypted" if base.startswith("http:") else ""
        yield warn("remote-ollama", f"{what}{plain}{only}", source, _HERE)


def _machine(base: str) -> str:
    """Host and port, as people name a machine; an encrypted connection is worth its scheme."""
    shown = display_base(base)
    return shown.removeprefix("http://")


def is_forbidden(facts: Facts) -> bool:
    """Whether Ollama's address is one to which nothing may be sent, not even a question."""
    return any(finding.severity == "stop" for finding in ollama(facts))


def address_source(facts: Facts) -> str:
    """Who named Ollama's address, in words; "" when that is not known."""
    if facts.config.ollama:
        return "the guard's own setting ollama"
    named = next((name for name in OLLAMA_ADDRESSES if facts.environment.get(name)), "")
    ours = f"{named}, the environment" if named else ""
    if isinstance(facts.settings, AiderSettings):
        for one in facts.settings.addresses:
            if one.name == "OLLAMA_API_BASE":  # in Aider's environment the guard set it itself
                said = f"{one.name}, {one.source}"
                return ours or said if one.source == "the environment" else said
    return ours


def from_repository(source: str, settings: AiderSettings | Unavailable) -> bool:
    """Whether a file of the repository said so, or of the folder that Aider runs in: a stranger may have written it.

    What stands in the home folder, or in a file that was named to Aider, is the user's own word.
    """
    if isinstance(settings, Unavailable):
        return False
    home = os.path.expanduser("~")
    files = [file for file in (*settings.env_files, *settings.config_files) if file in source]
    if any(os.path.dirname(file) == home for file in files):
        return False
    if settings.git_root and settings.git_root.rstrip("/") + "/" in source:
        return True
    return any(os.path.basename(file) in _FOUND_BY_NAME for file in files)


def host_of(base: str) -> str:
    """The host in a URL; "" when it has none."""
    try:
        return (urlsplit(base).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def is_ollamas_cloud(base: str) -> bool:
    """Whether a URL names the cloud of Ollama's makers."""
    host = host_of(base)
    return any(host == cloud or host.endswith(f".{cloud}") for cloud in _CLOUD_HOSTS)


def _is_private(base: str) -> bool:
    """An address of a network at home or at work: no host of the internet has it."""
    host = host_of(base)
    try:
        address = ip_address(host)
    except ValueError:
        return bool(host) and ("." not in host or host.endswith((".local", ".internal", ".lan")))
    return any(address in network for network in _PRIVATE)


# Where Ollama is, and whether anything may be sent there at all.

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
