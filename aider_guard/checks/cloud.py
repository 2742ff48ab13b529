"""Every role that would run in a cloud, and the way by which it got there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from aider_guard.checks.models import instead
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
from aider_guard.launch.facts import Facts
from aider_guard.launch.ollama_address import host_of
from aider_guard.launch.places import base_url, in_cloud, installed, place, roles, with_ollama

_ALIAS = ", an alias in "
# "--4o on the command line", "AIDER_4O in /repo/.env", "4o in /repo/.aider.conf.yml".
_OLD_FLAG = re.compile(r"(?!--?mo?d?e?l?\b)-\S+ on |AIDER_\w+ in |[\w-]+ in /")
_NO_CLOUD = "set OLLAMA_NO_CLOUD=1 in the environment of ollama serve, and restart it"


def by_role(facts: Facts) -> Iterator[Finding]:
    """One finding for each role in a cloud; a side role that only follows the main model is not named again."""
    if isinstance(facts.settings, Unavailable):
        return
    away = in_cloud(facts)
    main = next((role for role in away if role.role == "main"), None)
    for role in away:
        if role is main or main is None or _is_its_own(role):
            yield _finding(role, facts, facts.settings)


def _is_its_own(role: Role) -> bool:
    """Whether the user said it, and not Aider's table of models."""
    follows = role.source.startswith(("the main model", "Aider's settings"))
    return bool(role.source or role.settings_source) and not follows


def _finding(role: Role, facts: Facts, settings: AiderSettings) -> Finding:
    base = place(role, settings).base
    where = f" at {base}" if base else ""
    what = f"the {role.role} model, {role.model}, would run in a cloud{where}"
    path = path_of(role)
    if path == "alias":
        what = f"{role.asked}, the {role.role} model, is an alias of {role.model}, which would run in a cloud"
    return stop(path, what, _evidence(role, path), instead(role.role, facts))


def path_of(role: Role) -> str:
    """The id of the way by which a role's model became one of a cloud, from the words of its source."""
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


def _evidence(role: Role, path: str) -> str:
    if path == "model-settings" and role.settings_source not in role.source:
        return role.settings_source
    return role.source


def redirected(facts: Facts) -> Iterator[Finding]:
    """Extra parameters with which litellm sends a role's requests elsewhere."""
    for model, used in _by_model(roles(facts)).items():
        away = [one for role in used for one in role.redirects if not _leads_to_ollama(one)]
        if away:
            source = listed(role.settings_source for role in used if role.redirects)
            what = (
                f"requests of the {_jobs(used)} model, {model}, would go to a cloud: {listed(away)}"
            )
            fix = f"remove {listed(one.partition(':')[0] for one in away)} from {source}"
            yield stop("model-settings", what, source, fix)


def _leads_to_ollama(redirect: str) -> bool:
    target = redirect.partition(":")[2].strip()
    return target.startswith(OLLAMA_PREFIXES) or f"{target}/" in OLLAMA_PREFIXES


def through_ollama(facts: Facts) -> Iterator[Finding]:
    """Names that Ollama passes on to its cloud (0.18 and later), and stubs of models that run elsewhere."""
    stubs = _stubs(facts)
    for model, used in _by_model(roles(facts)).items():
        name = ollama_name(model)
        host = stubs.get(canonical_name(name), "") if name is not None else ""
        if name is not None and (is_cloud_name(name) or host):
            what = f"the {_jobs(used)} model, {name}, would run in Ollama's cloud"
            evidence = (
                f"it is a stub for {host}" if host else "by its name; it is not sent to find out"
            )
            yield stop("ollama-cloud", what, evidence, instead(used[0].role, facts))


def _by_model(used: Iterable[Role]) -> dict[str, list[Role]]:
    found: dict[str, list[Role]] = {}
    for role in used:
        found.setdefault(role.model, []).append(role)
    return found


def _jobs(used: Iterable[Role]) -> str:
    return listed(role.role for role in used)


def _stubs(facts: Facts) -> dict[str, str]:
    if isinstance(facts.server, Unavailable):
        return {}
    listed_ones = {
        canonical_name(model.name): model.remote_host for model in installed(facts.server)
    }
    shown = {
        canonical_name(name): model.remote_host
        for name, model in facts.server.models.items()
        if isinstance(model, ModelFacts) and model.remote_host
    }
    return {name: host for name, host in {**listed_ones, **shown}.items() if host}


def switch(facts: Facts) -> Iterator[Finding]:
    """Ollama's own switch, where it has one (0.16.2 and later)."""
    if isinstance(facts.server, ServerReport) and facts.server.cloud_disabled is False:
        what = "Ollama's own cloud is not switched off: a name that ends in cloud goes there"
        yield info("ollama-cloud-switch", what, "/api/status", _NO_CLOUD)


def fallback(facts: Facts) -> Iterator[Finding]:
    """Main and weak model stand in for each other (repo.py, history.py): one in a cloud is enough."""
    away = {role.role for role in in_cloud(facts)}
    here = {role.role for role, _ in with_ollama(facts)}
    for first, second in (("main", "weak"), ("weak", "main")):
        if first in here and second in away:
            model = next(role.model for role in in_cloud(facts) if role.role == second)
            what = f"when the {first} model fails at a commit message or summary, {model} gets the text"
            fix = instead(second, facts)
            yield warn("fallback", what, f"{listed(sorted(here))} here, {second} in a cloud", fix)


# Ways out that are open beside the models: keys, tokens, proxies, and what you or your programs may send.

_COPILOT = "GITHUB_COPILOT_TOKEN"
_OAUTH_FILE = "oauth-keys.env"


def keys(facts: Facts) -> Iterator[Finding]:
    """Keys of clouds and where they were set, and the switch of models in the middle of a session."""
    found = [one for one in _keys(facts) if one.name != _COPILOT]
    if not found:
        return
    names = listed(one.name for one in found)
    where = listed(f"{one.name}, {one.source}" for one in found)
    what = f"{names} {verb((one.name for one in found), 'is', 'are')} set"
    yield info(
        "cloud-keys",
        f"{what}; {GUARDED} the value is one that no cloud takes",
        where,
        undo(found),
    )
    what = f"/model, /weak-model and /editor-model can name a cloud's model; {GUARDED} its key is invalid"
    yield info("switch-model", what, names)


def _keys(facts: Facts) -> tuple[Variable, ...]:
    return () if isinstance(facts.settings, Unavailable) else facts.settings.keys


def tokens(facts: Facts) -> Iterator[Finding]:
    """Tokens that do more than lie there."""
    for one in _keys(facts):
        if one.name == _COPILOT:
            what = f"with {_COPILOT} Aider asks api.github.com before each request; {GUARDED} it is taken away"
            yield info("copilot-token", what, one.source, undo([one]))
            break
    for one in _keys(facts):
        if _OAUTH_FILE in one.source:
            what = f"Aider's login to OpenRouter left {one.name}; {GUARDED} it is invalid"
            yield info("openrouter-oauth", what, one.source, f"rm ~/.aider/{_OAUTH_FILE}")
            break
    for one in _keys(facts):
        if one.name == "OPENAI_API_KEY":
            what = f"/voice would send what you say to OpenAI; {GUARDED} its key is invalid"
            yield info("voice", what, f"{one.name}, {one.source}")
            break


def proxies(facts: Facts) -> Iterator[Finding]:
    """Proxies between Aider and Ollama."""
    if isinstance(facts.settings, Unavailable):
        return
    through = _proxies(facts.settings, base_url(facts))
    if through:
        hosts = listed(one.value for one in through if one.value)
        what = f"a proxy{f' at {hosts}' if hosts else ''} would carry what Aider sends to Ollama"
        where = listed(f"{one.name}, {one.source}" for one in through)
        host = host_of(base_url(facts))
        yield info(
            "http-proxy", f"{what}; {GUARDED} it is passed by", where, f"export NO_PROXY={host}"
        )
    values = {one.name: one for one in facts.settings.addresses}
    switched = values.get("USE_LITELLM_PROXY")
    if switched is not None and switched.value.strip().lower() not in {"false", "0", "no"}:
        to = values.get("LITELLM_PROXY_API_BASE")
        where = listed(f"{one.name}, {one.source}" for one in (switched, to) if one is not None)
        shown = f" at {to.value}" if to and to.value else ""
        what = f"a LiteLLM proxy{shown} would get Ollama's requests; {GUARDED} it is switched off"
        yield info("litellm-proxy", what, where, undo([switched]))


def _proxies(settings: AiderSettings, base: str) -> list[Variable]:
    """Those that hold for Ollama's address: its scheme's, or any, unless an exception names its host."""
    wanted = {"ALL_PROXY", "HTTPS_PROXY" if base.startswith("https:") else "HTTP_PROXY"}
    found = [one for one in settings.addresses if one.name.upper() in wanted]
    exceptions = [one.value for one in settings.addresses if one.name.upper() == "NO_PROXY"]
    return [] if any(_excepts(text, host_of(base)) for text in exceptions) else found


def _excepts(no_proxy: str, host: str) -> bool:
    names = [name.strip().lower().partition(":")[0] for name in no_proxy.split(",")]
    return any(
        name == "*" or (name and (name == host or fnmatchcase(host, f"*.{name.lstrip('.')}")))
        for name in names
    )


def typed(facts: Facts) -> Iterator[Finding]:
    """What a message can set off."""
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


def programs(facts: Facts) -> Iterator[Finding]:
    """The user's own programs that a session runs."""
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
        where = "where the air gap holds them" if facts.is_held else "and may go wherever they like"
        what = f"programs of yours may run in a session, {where}"
        yield info("user-commands", what, listed(parts, 6))


def _short(text: str) -> str:
    first = " ".join(text.split())
    return first if len(first) <= 40 else first[:39] + "…"


def undo(variables: Sequence[Variable]) -> str:
    """How variables are taken away: those of the shell by a command, those of files in words."""
    by_source: dict[str, list[str]] = {}
    for one in variables:
        by_source.setdefault(one.source, []).append(one.name)
    shell = by_source.pop("the environment", [])
    if not by_source:
        return f"unset {' '.join(shell)}" if shell else ""
    others = [f"{listed(names)} from {source}" for source, names in by_source.items()]
    return f"remove {listed([*others, *(f'{name} from the environment' for name in shell)])}"


# What Aider asks the network for by itself, and the room that the guard needs on the disk.

SMALL_BYTES = 100 * 2**20


def home(facts: Facts) -> Iterator[Finding]:
    """Calls that nobody asked for, all in one finding."""
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
    """Certificates that are not checked matter where Ollama is behind one."""
    if isinstance(facts.settings, Unavailable) or facts.settings.verify_ssl:
        return
    say = warn if base_url(facts).startswith("https:") else info
    where = facts.settings.sources.get("verify_ssl", "verify-ssl")
    what = "certificates are not checked, so another machine could pose as Ollama's"
    yield say("tls-unchecked", what, where, "aider-guard -- --verify-ssl")


def disk(facts: Facts) -> Iterator[Finding]:
    """Room for the journal and the private histories of a session."""
    match facts.state_free_bytes:
        case Unavailable(reason):
            yield unknown("disk-space", "how much room the journal has is not known", reason)
        case int(free) if free < SMALL_BYTES:
            what = f"only {size(free)} are free where the journal and the histories of a session go"
            yield warn("disk-space", what, "", "df -h ~/.local/state")
