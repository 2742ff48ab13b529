"""Checks the models: one is named, each is installed under its name, and each name has the right prefix."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.checks.aider import are_roles_known
from aider_guard.core.findings import Finding, info, listed, stop, unknown, warn
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts, ModelMissing, ServerReport
from aider_guard.launch.aider_settings import ollama_name
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import (
    aider_name,
    lacks_prefix,
    place,
    roles,
    runs_here,
    with_ollama,
)

_EXAMPLE = "qwen3:8b"
FLAGS = {"main": "--model", "editor": "--editor-model", "weak": "--weak-model"}


def main_model(facts: Facts) -> Iterator[Finding]:
    """A ``stop`` if no model is named: Aider would offer a login to OpenRouter, and Enter would accept it."""
    if isinstance(facts.settings, Unavailable) or facts.aider_problem:
        return
    named = facts.settings.model or any(role.role == "main" for role in roles(facts))
    if named or not are_roles_known(facts.settings):
        return
    here = runs_here(facts.server)
    evidence = f"installed: {listed(here, 6)}" if here else ""
    what = "no model is named, and Aider would offer a login to OpenRouter"
    yield stop("no-model", what, evidence, instead("main", facts))


def instead(role: str, facts: Facts) -> str:
    """The command that gives a role an installed model, or an example to pull if none is installed."""
    models = {} if isinstance(facts.server, Unavailable) else facts.server.models
    absent = {name for name, model in models.items() if isinstance(model, ModelMissing)}
    used = [name for _, name in with_ollama(facts) if name not in absent]
    here = [*used, *runs_here(facts.server)]
    start = f"aider-guard -- {FLAGS.get(role, '--model')} {aider_name((here or [_EXAMPLE])[0])}"
    return start if here else f"ollama pull {_EXAMPLE} && {start}"


def installed_models(facts: Facts) -> Iterator[Finding]:
    """Each model under its exact tag. A server that does not answer is a finding of ``server.availability``."""
    if isinstance(facts.server, Unavailable):
        return
    short = {}
    for name in dict.fromkeys(name for _, name in with_ollama(facts)):
        match facts.server.models.get(name):
            case ModelMissing(nearest=nearest):
                yield _missing(name, nearest, facts)
            case ModelFacts(resolved=resolved) if _incomplete(name, resolved):
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


def _is_silent(server: ServerReport) -> bool:
    return isinstance(server.version, Unavailable) and isinstance(server.installed, Unavailable)


def _missing(name: str, nearest: tuple[str, ...], facts: Facts) -> Finding:
    jobs = listed(role.role for role, used in with_ollama(facts) if used == name)
    near = (
        f"installed with a similar name: {listed(nearest)}"
        if nearest
        else "no model with a similar name is installed"
    )
    what = f"Ollama has no {name}, the {jobs} model"
    return stop("model-missing", what, near, f"ollama pull {name}")


def _incomplete(name: str, resolved: str) -> bool:
    last = name.rpartition("/")[2]
    return ":" not in last and resolved.casefold() != name.casefold() and bool(resolved)


def prefixes(facts: Facts) -> Iterator[Finding]:
    """Names of installed models without Ollama's prefix, and names with the prefix of the older interface."""
    if isinstance(facts.settings, Unavailable):
        return
    bare = [role for role in roles(facts) if lacks_prefix(role, facts)]
    for model in dict.fromkeys(role.model for role in bare):
        role = next(role for role in bare if role.model == model)
        what = f"Aider does not know that {model} is a model of Ollama"
        flag = FLAGS.get(role.role, "--model")
        fix = f"aider-guard -- {flag} {aider_name(model)}"
        yield stop("model-prefix", what, f"the {role.role} model, {role.source}".rstrip(", "), fix)
    old = [role for role, _ in with_ollama(facts) if role.model.startswith("ollama/")]
    if old:
        names = listed(role.model for role in old)
        flags = dict.fromkeys(
            f"{FLAGS.get(role.role, '--model')} {aider_name(role.model.removeprefix('ollama/'))}"
            for role in old
        )
        what = f"{names}: with ollama/ Aider does not notice the end of the window, and keep_alive is not sent"
        yield warn("model-prefix", what, "", f"aider-guard -- {' '.join(flags)}")


def other_servers(facts: Facts) -> Iterator[Finding]:
    """Models on another server on this machine: the guard watches their window but cannot fix it."""
    if isinstance(facts.settings, Unavailable):
        return
    for model in dict.fromkeys(role.model for role in roles(facts)):
        role = next(role for role in roles(facts) if role.model == model)
        where = place(role, facts.settings)
        if where.kind == "server":
            yield _served(model, where.base or "its usual address", facts)


def _served(model: str, base: str, facts: Facts) -> Finding:
    report = facts.server
    window = None if isinstance(report, Unavailable) else report.others.get(model)
    what = f"{model} runs on another server on this machine"
    if ollama_name(model) is not None:
        return info("local-server", what, base)
    if isinstance(window, int):
        return info("local-server", f"{what}; its window is {window:,} tokens", base)
    if facts.config.num_ctx is not None:
        return info("local-server", f"{what}; its window is taken from num-ctx", base)
    what += "; it does not report its window, so how full it is cannot be shown"
    why = f"{base}: {window.reason}" if window is not None else base
    return unknown("local-server", what, why, "aider-guard --num-ctx 8192")
