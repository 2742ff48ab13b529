"""Checks every way by which code could leave the machine: roles in a cloud, keys, proxies, own programs, calls home."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from aider_guard.checks.runtime import set_variable
from aider_guard.core.findings import GUARDED, Finding, info, listed, stop, unknown, verb, warn
from aider_guard.core.messages import size
from aider_guard.core.model_names import canonical_name, is_cloud_name
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts, ServerReport
from aider_guard.launch.aider_settings import (
    OLLAMA_PREFIXES,
    AiderSettings,
    Role,
    Variable,
    ollama_name,
)
from aider_guard.launch.environment import INVALID_KEY, NOWHERE, local_environment
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import (
    base_url,
    by_model,
    host_of,
    in_cloud,
    installed_models,
    is_private,
    local_model_command,
    place,
    roles,
    with_ollama,
)
from aider_guard.ollama.access import KEY_VARIABLE
from aider_guard.ollama.names import connectable_base, display_base

_ALIAS = ", an alias in "
# "--4o on the command line", "AIDER_4O in /repo/.env", "4o in /repo/.aider.conf.yml".
_OLD_FLAG = re.compile(r"(?!--?mo?d?e?l?\b)-\S+ on |AIDER_\w+ in |[\w-]+ in /")


def roles_in_cloud(facts: Facts) -> Iterator[Finding]:
    """One finding for each role in a cloud, except a side role that only follows the main model."""
    if isinstance(facts.settings, Unavailable):
        return
    away = in_cloud(facts)
    main = next((role for role in away if role.role == "main"), None)
    for role in away:
        if role is not main and main is not None and not _is_set_by_user(role):
            continue
        base = place(role, facts.settings).base
        what = f"the {role.role} model, {role.model}, would run in a cloud{f' at {base}' if base else ''}"
        if base and is_private(connectable_base(base)):
            what = f"the {role.role} model, {role.model}, would run at {base}, which only the repository names"
        path = path_of(role)
        if path == "alias":
            what = f"{role.asked}, the {role.role} model, is an alias of {role.model}, which would run in a cloud"
        names_file = path == "model-settings" and role.settings_source not in role.source
        evidence = role.settings_source if names_file else role.source
        yield stop(path, what, evidence, local_model_command(role.role, facts))


def _is_set_by_user(role: Role) -> bool:
    """Whether the role's model comes from the user, and not from Aider's table of models."""
    follows = role.source.startswith(("the main model", "Aider's settings"))
    return bool(role.source or role.settings_source) and not follows


def path_of(role: Role) -> str:
    """The id of the way by which a role got a cloud's model, from the text of its source."""
    source = role.source
    if role.settings_source and (role.api_base or role.settings_source in source):
        return "model-settings"
    if _ALIAS in source:
        return "alias"
    if role.role != "main":
        return "side-model"
    if source.startswith("the key "):
        return "default-model"
    if source.startswith("AIDER_MODEL "):
        return "model-from-env"
    return "model-flag" if _OLD_FLAG.match(source) else "cloud-model"


def redirected_requests(facts: Facts) -> Iterator[Finding]:
    """Extra parameters with which litellm sends the requests of a role to another server."""
    for model, used in by_model(roles(facts)).items():
        away = [text for role in used for text in role.redirects if not _leads_to_ollama(text)]
        if away:
            source = listed(role.settings_source for role in used if role.redirects)
            what = f"requests of the {_jobs(used)} model, {model}, would go to a cloud: "
            fix = f"remove {listed(text.partition(':')[0] for text in away)} from {source}"
            yield stop("model-settings", what + listed(away), source, fix)


def _leads_to_ollama(redirect: str) -> bool:
    """Whether the target is a model of Ollama's, or only its name as a provider."""
    return f"{redirect.partition(':')[2].strip()}/".startswith(OLLAMA_PREFIXES)


def ollama_cloud(facts: Facts) -> Iterator[Finding]:
    """Names that Ollama forwards to its cloud (0.18 and later), and stubs of models that run on other machines."""
    hosts = [(model.name, model.remote_host) for model in installed_models(facts.server)]
    if isinstance(facts.server, ServerReport):
        models = facts.server.models.items()
        hosts += [(name, each.remote_host) for name, each in models if isinstance(each, ModelFacts)]
    stubs = {canonical_name(name): host for name, host in hosts if host}
    for model, used in by_model(roles(facts)).items():
        name = ollama_name(model)
        host = stubs.get(canonical_name(name), "") if name is not None else ""
        if name is not None and (is_cloud_name(name) or host):
            what = f"the {_jobs(used)} model, {name}, would run in Ollama's cloud"
            evidence = "its name says so; the name is not sent to find out"
            evidence = f"it is a stub for {host}" if host else evidence
            yield stop("ollama-cloud", what, evidence, local_model_command(used[0].role, facts))


def _jobs(used: Iterable[Role]) -> str:
    return listed(role.role for role in used)


def cloud_switch(facts: Facts) -> Iterator[Finding]:
    """Ollama's switch for its cloud, where it has one (0.16.2 and later)."""
    if isinstance(facts.server, ServerReport) and facts.server.cloud_disabled is False:
        what = "Ollama's own cloud is not switched off: a name that ends in cloud goes there"
        fix = set_variable(facts, "OLLAMA_NO_CLOUD", "1")
        yield info("ollama-cloud-switch", what, "/api/status", fix)


def fallback(facts: Facts) -> Iterator[Finding]:
    """A main or weak model in a cloud: Aider uses each if the other fails (repo.py, history.py)."""
    away = {role.role: role.model for role in in_cloud(facts)}
    here = {role.role for role, _ in with_ollama(facts)}
    for first, second in (("main", "weak"), ("weak", "main")):
        if first in here and second in away:
            what = f"when the {first} model fails at a commit message or summary, {away[second]} gets the text"
            fix = local_model_command(second, facts)
            yield warn("fallback", what, f"{listed(sorted(here))} here, {second} in a cloud", fix)


# Other ways out than the models: keys, tokens, proxies, typed addresses, the user's own programs.

_COPILOT = "GITHUB_COPILOT_TOKEN"
_OAUTH_FILE = "oauth-keys.env"


def cloud_keys(facts: Facts) -> Iterator[Finding]:
    """The keys of clouds with their sources, what becomes of each in a session, and that `/model` could use them."""
    variables = [key for key in _keys(facts) if key.name != _COPILOT]
    invalid = [key for key in variables if _session_value(key, facts) == INVALID_KEY]
    kept = [key for key in variables if key not in invalid]
    if invalid:
        what = f"{_are_set(invalid)}; {GUARDED} Aider gets invalid values instead"
        yield info("cloud-keys", what, _sources(invalid), undo(invalid))
    if kept:
        what = f"{_are_set(kept)}, and {GUARDED} Aider has {_pronoun(kept)} all the same"
        yield info("cloud-keys", what + _why_kept(kept, facts), _sources(kept), undo(kept))
    usable = [key for key in kept if key.name != KEY_VARIABLE]
    what = "/model, /weak-model and /editor-model can name a cloud's model"
    if invalid:
        names = listed(key.name for key in invalid)
        yield info("switch-model", f"{what}; {GUARDED} its key is invalid", names)
    elif usable:
        held = f"{GUARDED} the kernel blocks it" if facts.is_held else "its key is valid"
        yield info("switch-model", f"{what}; {held}", listed(key.name for key in usable))


def _session_value(key: Variable, facts: Facts) -> str | None:
    """What a session makes of a variable: another value, "" for none, None where it stays as it is."""
    if isinstance(facts.settings, Unavailable):
        return None
    made = local_environment(facts.config, facts.settings, base_url(facts), NOWHERE)
    return "" if key.name in made.unset else made.set.get(key.name)


def _are_set(variables: Sequence[Variable]) -> str:
    names = listed(key.name for key in variables)
    return f"{names} {verb((key.name for key in variables), 'is', 'are')} set"


def _pronoun(variables: Sequence[Variable]) -> str:
    return verb((key.name for key in variables), "it", "them")


def _why_kept(kept: Sequence[Variable], facts: Facts) -> str:
    if facts.config.network == "open":
        return ": the network is open"
    if all(key.name == KEY_VARIABLE for key in kept):
        return f": it goes to Ollama at {display_base(base_url(facts))}"
    return ": a server of your own or another program may need it"


def _keys(facts: Facts) -> tuple[Variable, ...]:
    return () if isinstance(facts.settings, Unavailable) else facts.settings.keys


def _sources(variables: Iterable[Variable]) -> str:
    return listed(f"{variable.name}, {variable.source}" for variable in variables)


def cloud_tokens(facts: Facts) -> Iterator[Finding]:
    """Tokens that cause requests without a model of their cloud: one finding for the first of each kind."""
    by_name = {key.name: key for key in reversed(_keys(facts))}
    if copilot := by_name.get(_COPILOT):
        what = f"with {_COPILOT} Aider asks api.github.com before each request"
        what += f"; {GUARDED} it is removed" if _session_value(copilot, facts) == "" else ""
        yield info("copilot-token", what, copilot.source, undo([copilot]))
    login = next((key for key in _keys(facts) if _OAUTH_FILE in key.source), None)
    if login is not None:
        what = f"Aider's login to OpenRouter left {login.name}"
        what += f"; {GUARDED} it is invalid" if _session_value(login, facts) == INVALID_KEY else ""
        yield info("openrouter-oauth", what, login.source, f"rm ~/.aider/{_OAUTH_FILE}")
    if openai := by_name.get("OPENAI_API_KEY"):
        what = "/voice would send what you say to OpenAI"
        what += (
            f"; {GUARDED} its key is invalid"
            if _session_value(openai, facts) == INVALID_KEY
            else ""
        )
        yield info("voice", what, _sources([openai]))


def proxies(facts: Facts) -> Iterator[Finding]:
    """Proxies between Aider and Ollama."""
    if isinstance(facts.settings, Unavailable):
        return
    through = _proxies(facts.settings, base_url(facts))
    if through:
        hosts = listed(proxy.value for proxy in through if proxy.value)
        what = f"a proxy{f' at {hosts}' if hosts else ''} would carry what Aider sends to Ollama"
        fix = f"export NO_PROXY={host_of(base_url(facts))}"
        yield info("http-proxy", f"{what}; {GUARDED} it is not used", _sources(through), fix)
    variables = {variable.name: variable for variable in facts.settings.addresses}
    switched = variables.get("USE_LITELLM_PROXY")
    if switched is not None and switched.value.strip().lower() not in {"false", "0", "no"}:
        to = variables.get("LITELLM_PROXY_API_BASE")
        shown = f" at {to.value}" if to and to.value else ""
        what = f"a LiteLLM proxy{shown} would get Ollama's requests"
        what += (
            f"; {GUARDED} it is switched off" if _session_value(switched, facts) == "False" else ""
        )
        yield info("litellm-proxy", what, _sources(filter(None, (switched, to))), undo([switched]))


def _proxies(settings: AiderSettings, base: str) -> list[Variable]:
    """The proxies for Ollama's address: those of its scheme or of all, unless an exception names its host."""
    host = host_of(base)
    exceptions = [each.value for each in settings.addresses if each.name.upper() == "NO_PROXY"]
    excepted = (text.strip().partition(":")[0] for text in ",".join(exceptions).lower().split(","))
    for name in filter(None, excepted):
        if name in ("*", host) or fnmatchcase(host, f"*.{name.lstrip('.')}"):
            return []
    wanted = {"ALL_PROXY", "HTTPS_PROXY" if base.startswith("https:") else "HTTP_PROXY"}
    return [variable for variable in settings.addresses if variable.name.upper() in wanted]


def typed_requests(facts: Facts) -> Iterator[Finding]:
    """Requests that a message can cause: fetched addresses and cache pings."""
    if isinstance(facts.settings, Unavailable):
        return
    if facts.settings.detect_urls:
        what = "/web, and addresses in your messages after a question, fetch pages"
        evidence = facts.settings.sources.get("detect_urls", "detect-urls is on by default")
        yield info("web", what, evidence, "aider-guard -- --no-detect-urls")
    if facts.settings.cache_keepalive_pings > 0:
        what = "cache pings are on: they do nothing with Ollama, and repeat requests to a cloud"
        evidence = facts.settings.sources.get("cache_keepalive_pings", "cache-keepalive-pings")
        yield info("cache-pings", what, evidence, "aider-guard -- --cache-keepalive-pings 0")


def own_programs(facts: Facts) -> Iterator[Finding]:
    """The user's own programs that a session may run."""
    parts = [f"git hooks ({listed(facts.repo.hooks)})"] if facts.repo.hooks else []
    if isinstance(facts.settings, AiderSettings):
        settings = facts.settings
        named = (
            ("tests", settings.test_cmd),
            ("lint", listed(settings.lint_cmd, 2)),
            ("notifications", settings.notifications and settings.notifications_command),
            ("commands at the start", settings.load),
        )
        parts += [f"{what} ({_short(text)})" for what, text in named if text]
    if parts:
        where = "inside the air gap" if facts.is_held else "and may connect to any address"
        what = f"your own programs may run in a session, {where}"
        yield info("user-commands", what, listed(parts, 6))


def _short(text: str) -> str:
    first = " ".join(text.split())
    return first if len(first) <= 40 else first[:39] + "…"


def undo(variables: Sequence[Variable]) -> str:
    """How to remove variables: from the shell by a command, from files in words."""
    by_source: dict[str, list[str]] = {}
    for variable in variables:
        by_source.setdefault(variable.source, []).append(variable.name)
    shell = by_source.pop("the environment", [])
    if not by_source:
        return f"unset {' '.join(shell)}" if shell else ""
    others = [f"{listed(names)} from {source}" for source, names in by_source.items()]
    return f"remove {listed([*others, *(f'{name} from the environment' for name in shell)])}"


# Requests that Aider makes by itself, certificates, and the disk space that the guard needs.

SMALL_BYTES = 100 * 2**20


def calls_home(facts: Facts) -> Iterator[Finding]:
    """The requests that Aider makes by itself, all in one finding."""
    if isinstance(facts.settings, Unavailable):
        return
    settings = facts.settings
    on = (
        ("new versions", settings.check_update, "--no-check-update"),
        ("analytics", settings.analytics is not False, "--no-analytics"),
        ("release notes", settings.show_release_notes is not False, "--no-show-release-notes"),
        ("model prices and contexts", True, ""),
    )
    what = f"Aider asks for {listed(name for name, is_on, _ in on if is_on)}; {GUARDED} it does not"
    flags = " ".join(flag for _, is_on, flag in on if is_on and flag)
    hosts = "the package index, us.i.posthog.com, aider.chat, raw.githubusercontent.com"
    yield info("calls-home", what, hosts, f"aider {flags}" if flags else "")


def certificates(facts: Facts) -> Iterator[Finding]:
    """Certificates that are not checked: a ``warn`` if Ollama's address is https."""
    if isinstance(facts.settings, Unavailable) or facts.settings.verify_ssl:
        return
    severity = warn if base_url(facts).startswith("https:") else info
    where = facts.settings.sources.get("verify_ssl", "verify-ssl")
    what = "certificates are not checked, so another machine could pose as Ollama"
    yield severity("tls-unchecked", what, where, "aider-guard -- --verify-ssl")


def disk_space(facts: Facts) -> Iterator[Finding]:
    """The free disk space for the journal and the private histories of a session."""
    match facts.state_free_bytes:
        case Unavailable(reason):
            yield unknown("disk-space", "how much disk space the journal has is not known", reason)
        case int(free) if free < SMALL_BYTES:
            what = f"only {size(free)} are free on the disk with the journal and the histories of a session"
            yield warn("disk-space", what, "", "df -h ~/.local/state")
