"""Ways out that are open beside the models: keys, tokens, proxies, and what you or your programs may send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from aider_guard.core.findings import GUARDED, Finding, info, listed, verb
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import AiderSettings, Variable
from aider_guard.launch.facts import Facts
from aider_guard.launch.ollama_address import host_of
from aider_guard.launch.places import base_url

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
