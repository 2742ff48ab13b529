"""Checks the models: one is named, each is installed under its name, and each name has the right prefix."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.core.findings import Finding, info, listed, stop, unknown, warn
from aider_guard.core.model_names import is_valid_name
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts, ModelMissing, ServerReport
from aider_guard.launch.aider_settings import Role
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import (
    by_model,
    lacks_prefix,
    local_model_command,
    model_option,
    roles,
    runs_here,
    with_ollama,
)


def main_model(facts: Facts) -> Iterator[Finding]:
    """A ``stop`` if no model is named: Aider would offer a login to OpenRouter, and Enter would accept it."""
    if isinstance(facts.settings, Unavailable) or facts.aider_problem:
        return
    named = facts.settings.model or any(role.role == "main" for role in roles(facts))
    if named or not facts.settings.are_roles_known:
        return
    here = runs_here(facts.server)
    evidence = f"installed: {listed(here, 6)}" if here else ""
    what = "no model is named, and Aider would offer a login to OpenRouter"
    yield stop("no-model", what, evidence, local_model_command("main", facts))


def invalid_names(facts: Facts) -> Iterator[Finding]:
    """Names that Ollama accepts for no model, whatever is installed: they are sent nowhere."""
    for name, used in _jobs_by_name(facts).items():
        if not is_valid_name(name):
            what = f"the {listed(role.role for role in used)} model, {name!r}, is not a name that Ollama accepts"
            why = "only letters, digits, - _ . and one : before the tag; no space"
            yield stop("model-name", what, why, local_model_command(used[0].role, facts))


def _jobs_by_name(facts: Facts) -> dict[str, list[Role]]:
    names: dict[str, list[Role]] = {}
    for role, name in with_ollama(facts):
        names.setdefault(name, []).append(role)
    return names


def installed_models(facts: Facts) -> Iterator[Finding]:
    """Each model under its exact tag. A server that does not answer is a finding of ``server.availability``."""
    if isinstance(facts.server, Unavailable):
        return
    short = {}
    for name, used in _jobs_by_name(facts).items():
        match facts.server.models.get(name):
            case ModelMissing(nearest=nearest) if is_valid_name(name):
                near = f"installed with a similar name: {listed(nearest)}"
                jobs = listed(role.role for role in used)
                yield stop(
                    "model-missing",
                    f"Ollama has no {name}, the {jobs} model",
                    near if nearest else "no model with a similar name is installed",
                    _installed_first(used[0].role, name, nearest),
                )
            case ModelFacts(resolved=resolved) if resolved and ":" not in name.rpartition("/")[2]:
                if resolved.casefold() != name.casefold():
                    short[name] = resolved
            case Unavailable(reason) if not _is_silent(facts.server):
                what = f"Ollama did not describe {name}, so its window and size are unchecked"
                yield unknown("model-unread", what, reason, f"ollama show {name}")
    if short:
        what = listed(f"{name} means {resolved}" for name, resolved in short.items())
        yield info("model-tag", what, "a name without its tag")
    if isinstance(facts.server.installed, Unavailable) and not _is_silent(facts.server):
        reason = facts.server.installed.reason
        yield unknown("model-unread", "Ollama did not list its models", reason, "ollama list")


def _installed_first(role: str, name: str, nearest: tuple[str, ...]) -> str:
    """The command for a model that is not installed: with a similar one that is, else to pull it."""
    pull = f"ollama pull {name}"
    return f"aider-guard -- {model_option(role, nearest[0])}   # or: {pull}" if nearest else pull


def _is_silent(server: ServerReport) -> bool:
    return isinstance(server.version, Unavailable) and isinstance(server.installed, Unavailable)


def templates(facts: Facts) -> Iterator[Finding]:
    """Models whose template has no place for system text: Aider's instructions never reach them."""
    if isinstance(facts.server, Unavailable):
        return
    for name in _jobs_by_name(facts):
        match facts.server.models.get(name):
            case ModelFacts(loses_system=True):
                yield warn(
                    "model-template",
                    f"{name} never sees Aider's instructions: its template leaves system text out",
                    "its TEMPLATE names neither .System nor .Messages",
                    f"ollama show --modelfile {name} > Modelfile   (correct its TEMPLATE, then ollama create)",
                )


def prefixes(facts: Facts) -> Iterator[Finding]:
    """Names of installed models without Ollama's prefix, and names with the prefix of the older interface."""
    if isinstance(facts.settings, Unavailable):
        return
    bare = by_model(role for role in roles(facts) if lacks_prefix(role, facts))
    for model, (role, *_) in bare.items():
        what = f"Aider does not know that {model} is a model of Ollama"
        fix = f"aider-guard -- {model_option(role.role, model)}"
        yield stop("model-prefix", what, f"the {role.role} model, {role.source}".rstrip(", "), fix)
    old = [(role, name) for role, name in with_ollama(facts) if role.model.startswith("ollama/")]
    if old:
        names = listed(role.model for role, _ in old)
        options = dict.fromkeys(model_option(role.role, name) for role, name in old)
        what = f"{names}: with ollama/ Aider does not notice the end of the window, and keep_alive is not sent"
        yield warn("model-prefix", what, "", f"aider-guard -- {' '.join(options)}")
