"""Every role that would run in a cloud, and the way by which it got there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from aider_guard.core.findings import Finding, info, listed, stop, warn
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts, ServerReport
from aider_guard.launch.aider_settings import OLLAMA_PREFIXES, AiderSettings, Role, ollama_name
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import in_cloud, installed, place, roles, with_ollama
from aider_guard.launch.preflight.models import instead
from aider_guard.ollama.names import canonical_name, is_cloud_name

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
