"""Tells where a role's model would run, by its name and the addresses that Aider sees."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any, Literal
from urllib.parse import urlsplit

from aider_guard.core.model_names import is_cloud_name, is_valid_name, same_model
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import InstalledModel, ModelMissing, ServerReport
from aider_guard.launch.aider_settings import AiderSettings, Role, ollama_name
from aider_guard.launch.cloud_variables import OLLAMA_ADDRESSES
from aider_guard.launch.facts import Facts
from aider_guard.ollama.access import Headers, valid_headers
from aider_guard.ollama.names import DEFAULT_BASE, connectable_base, is_this_machine

# By the prefix of a provider's models, in the order in which litellm 1.81.10 reads them (main.py, completion).
ADDRESS_VARIABLES = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "text-completion-openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "hosted_vllm": ("HOSTED_VLLM_API_BASE",),
    "lm_studio": ("LM_STUDIO_API_BASE",),
    "llamafile": ("LLAMAFILE_API_BASE",),
    "litellm_proxy": ("LITELLM_PROXY_API_BASE",),
}
"""The environment variables with the address of a server that speaks OpenAI's protocol."""
DEFAULT_ADDRESSES = {"llamafile": "http://127.0.0.1:8080/v1"}
"""Where litellm looks for a server whose address is not set (llms/llamafile)."""
_FOUND_BY_NAME = (".env", ".aider.conf.yml", ".aider.model.settings.yml")
_LAN_NAMES = (".local", ".internal", ".lan", ".home.arpa")
"""Ends of names that the internet does not have (RFC 6762, RFC 8375, ICANN's .internal, and usage)."""
_PRIVATE = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, RFC 4193
        *("169.254.0.0/16", "fe80::/10", "127.0.0.0/8", "::1/128"),  # this link, this machine
        "100.64.0.0/10",  # RFC 6598; networks laid over others use it
    )
)
_OPENAI_NAMES = ("gpt-", "chatgpt-", "o1", "o3", "o4")
_EXAMPLE = "qwen3:8b"

Kind = Literal["ollama", "server", "cloud"]


@dataclass(frozen=True)
class RunLocation:
    """Where a model runs: Ollama; another server, of this machine or one that the user named in a private network; or
    a cloud, which is everything else. ``base`` is the address as it may be shown, ``address`` the complete one, which
    may hold a secret; ``source`` says who named it.
    """

    kind: Kind
    base: str = ""
    address: str = field(default="", repr=False)
    source: str = ""


def from_repository(source: str, settings: AiderSettings | Unavailable) -> bool:
    """Whether a source is a file of the repository or of Aider's folder: a stranger may have written it.

    A file in the home folder, or one that the user named to Aider, is the user's own.
    """
    if isinstance(settings, Unavailable):
        return False
    home = os.path.expanduser("~")
    named = (*settings.env_files, *settings.config_files, *settings.model_settings_files)
    files = [file for file in named if file in source]
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


def is_private(base: str) -> bool:
    """Whether an address belongs to a private network: no host of the internet has it."""
    host = host_of(base)
    try:
        address = ip_address(host)
    except ValueError:
        return bool(host) and ("." not in host or host.endswith(_LAN_NAMES))
    return any(address in network for network in _PRIVATE)


def roles(facts: Facts) -> tuple[Role, ...]:
    """The roles that have a model; none while Aider's settings are not known."""
    if isinstance(facts.settings, Unavailable):
        return ()
    return tuple(role for role in facts.settings.roles if role.model)


def by_model(roles: Iterable[Role]) -> dict[str, list[Role]]:
    """Group roles by their models, in their order."""
    used: dict[str, list[Role]] = {}
    for role in roles:
        used.setdefault(role.model, []).append(role)
    return used


def place(role: Role, settings: AiderSettings) -> RunLocation:
    """Where this role's requests go, before the guard changes anything."""
    prefix, slash, _ = role.model.partition("/")
    if ollama_name(role.model) is not None and not role.api_base:
        return RunLocation("ollama")
    is_openai = not slash and role.model.startswith(_OPENAI_NAMES)
    provider = "openai" if is_openai else prefix if slash else ""
    location = RunLocation(
        "cloud", role.api_base, role.address or role.api_base, role.settings_source
    )
    if not location.base:
        location = address_for(provider, settings)
    if may_be_reached(location, settings):
        return replace(location, kind="server")
    if not location.base and provider in DEFAULT_ADDRESSES:
        return RunLocation("server", "", DEFAULT_ADDRESSES[provider])
    return RunLocation("cloud", location.base, source=location.source)


def may_be_reached(location: RunLocation, settings: AiderSettings) -> bool:
    """Whether a session may use a server at this address: it is on this machine, or in a private network and named by
    the user. A public address may be a cloud's, and a file of the repository may be a stranger's.
    """
    base = connectable_base(location.base) if location.base else ""
    if not base or is_this_machine(base):
        return bool(base)
    return is_private(base) and not from_repository(location.source, settings)


def ollama_headers(settings: AiderSettings) -> Headers:
    """The key and headers that Aider sends to the session's Ollama; the main model's win."""
    used = (role for role in settings.roles if place(role, settings).kind == "ollama")
    return valid_headers(header for role in used for header in role.headers)


def address_for(provider: str, settings: AiderSettings) -> RunLocation:
    """The place that variables name for a provider's models; one without an address for none."""
    variables = {variable.name: variable for variable in settings.addresses if variable.value}
    for variable in filter(None, map(variables.get, ADDRESS_VARIABLES.get(provider, ()))):
        source = f"{variable.name}, {variable.source}"
        return RunLocation("cloud", variable.value, variable.address or variable.value, source)
    return RunLocation("cloud")


def in_cloud(facts: Facts) -> tuple[Role, ...]:
    """The roles that would run in a cloud other than Ollama's. A name that Ollama has, without its prefix, is none."""
    if isinstance(facts.settings, Unavailable):
        return ()
    return tuple(
        role
        for role in roles(facts)
        if place(role, facts.settings).kind == "cloud" and not lacks_prefix(role, facts)
    )


def lacks_prefix(role: Role, facts: Facts) -> bool:
    """Whether the name is that of an installed model, without the prefix that makes Aider ask Ollama."""
    if ollama_name(role.model) is not None or not role.model.strip() or role.api_base:
        return False
    return any(same_model(model.name, role.model) for model in installed_models(facts.server))


def with_ollama(facts: Facts) -> Iterator[tuple[Role, str]]:
    """The roles that run on Ollama, each with Ollama's name for its model; models of Ollama's cloud are left out."""
    if isinstance(facts.settings, Unavailable):
        return
    for role in roles(facts):
        name = ollama_name(role.model)
        if name and place(role, facts.settings).kind == "ollama" and not is_cloud_name(name):
            yield role, name


def installed_models(server: ServerReport | Unavailable) -> tuple[InstalledModel, ...]:
    """The models on the server's disk; none when they are not known."""
    if isinstance(server, Unavailable) or isinstance(server.installed, Unavailable):
        return ()
    return server.installed


def runs_here(server: ServerReport | Unavailable) -> tuple[str, ...]:
    """The names of installed models that run on the server itself."""
    return tuple(
        model.name
        for model in installed_models(server)
        if not model.remote_host and not is_cloud_name(model.name)
    )


def base_url(facts: Facts) -> str:
    """The URL of Ollama: the guard's own setting, else what Aider uses, else what the environment says
    (``OLLAMA_HOST`` last, which Aider does not know), else Ollama's default.
    """
    settings = facts.settings if isinstance(facts.settings, AiderSettings) else AiderSettings()
    configured = facts.config.ollama or settings.ollama_api_base
    from_environment = (facts.environment.get(name) for name in OLLAMA_ADDRESSES)
    return connectable_base(configured or next(filter(None, from_environment), DEFAULT_BASE))


def is_local(facts: Facts) -> bool:
    """Whether Ollama is on this machine, as far as its address tells."""
    if isinstance(facts.server, ServerReport):
        return facts.server.is_local
    return is_this_machine(base_url(facts))


def model_option(role: str, model: str) -> str:
    """Aider's option that gives a role this model of Ollama's."""
    option = {"editor": "--editor-model", "weak": "--weak-model"}.get(role, "--model")
    return f"{option} ollama_chat/{model}"


def local_model_command(role: str, facts: Facts) -> str:
    """The command that gives a role an installed model, or an example to pull if none is installed."""
    models = {} if isinstance(facts.server, Unavailable) else facts.server.models
    used = [name for _, name in with_ollama(facts) if is_valid_name(name)]
    here = [name for name in used if not isinstance(models.get(name), ModelMissing)]
    here += runs_here(facts.server)
    start = f"aider-guard -- {model_option(role, (here or [_EXAMPLE])[0])}"
    return start if here else f"ollama pull {_EXAMPLE} && {start}"


ADDRESS_PARAMETERS = ("base_url", "api_base")
"""The extra parameters that are an address; the first goes before the second (litellm/main.py, completion)."""


def key_of(address: str) -> str:
    """Spell an address in one way, so that addresses can be compared."""
    return connectable_base(address).replace("//localhost:", "//127.0.0.1:", 1)


def addresses_in(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The complete addresses among an entry's extra parameters."""
    extra = entry.get("extra_params") or {}
    return tuple(extra[name] for name in ADDRESS_PARAMETERS if isinstance(extra.get(name), str))


def headers_in(entry: Mapping[str, Any]) -> Headers:
    """The extra headers of an entry's extra parameters, and its key as one (litellm/main.py, completion)."""
    extra = entry.get("extra_params") or {}
    more, key = extra.get("extra_headers"), extra.get("api_key")
    pairs = list(more.items()) if isinstance(more, dict) else []
    pairs += [("Authorization", f"Bearer {key}")] if key else []
    return valid_headers((str(name), str(value)) for name, value in pairs)


def redirect_entry(entry: Mapping[str, Any], urls: Mapping[str, str]) -> dict[str, Any]:
    """Replace the addresses in an entry's extra parameters; *urls* has the new ones by ``key_of`` the old ones."""
    if not addresses_in(entry):
        return dict(entry)
    extra = dict(entry["extra_params"])
    for name in ADDRESS_PARAMETERS:
        if isinstance(extra.get(name), str):
            extra[name] = urls.get(key_of(extra[name]), extra[name])
    return {**entry, "extra_params": extra}
