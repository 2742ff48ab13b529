"""Checks models on other servers than the session's Ollama: the kind of server, the window, where the model runs."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.core.findings import Finding, info, stop, unknown, warn
from aider_guard.core.other_servers import STUDIO_WINDOW_TOKENS, OtherModel, planned_window
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import Role, ollama_name
from aider_guard.launch.door_settings import name_on_server
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import (
    base_url,
    by_model,
    key_of,
    model_option,
    place,
    roles,
)
from aider_guard.ollama.names import connectable_base, display_base, is_this_machine


def other_servers(facts: Facts) -> Iterator[Finding]:
    """Models on another server of this machine or network, and those that Ollama answers by OpenAI's protocol."""
    if isinstance(facts.settings, Unavailable):
        return
    for model, (role, *_) in by_model(roles(facts)).items():
        where = place(role, facts.settings)
        if where.kind == "server":
            base = where.base or "its usual address"
            if where.base and not is_this_machine(connectable_base(where.base)):
                host = where.base.removeprefix("http://")
                what = f"all code for {model} goes to {host}"
                yield info("remote-server", what, where.source)
            yield _served(role, base, facts)


def _served(role: Role, base: str, facts: Facts) -> Finding:
    model, report = role.model, facts.server
    found = None if isinstance(report, Unavailable) else report.others.get(model)
    is_elsewhere = "://" in base and not is_this_machine(connectable_base(base))
    where = "in your network" if is_elsewhere else "on this machine"
    if ollama_name(model) is not None:
        return info("local-server", f"{model} runs on another server {where}", base)
    if isinstance(found, OtherModel):
        return _described(role, found, base, where, facts)
    if facts.config.num_ctx is not None:
        return _told(model, where, "its window is taken from num-ctx", base)
    return _untold(model, where, base, found.reason if found is not None else "")


def _described(role: Role, found: OtherModel, base: str, where: str, facts: Facts) -> Finding:
    if found.elsewhere:
        what = f"{role.model} does not run {where}: its requests are passed on to {found.elsewhere}"
        fix = f"take a model that {found.server} runs itself, or aider-guard --network open"
        return stop("cloud-model", what, base, fix)
    if found.server == "Ollama":
        return _ollamas(role, found, base, facts)
    name = found.server or "another server"
    window = planned_window(found, facts.config.num_ctx or 0)
    if found.server == "LM Studio" and found.state == "loaded":
        return _loaded_in_studio(role.model, found, base, where, facts)
    if found.server == "LM Studio":
        how = f"the guard has it loaded with a window of {window:,} tokens, or what --num-ctx says"
        return _told(role.model, where, how, base, name)
    if isinstance(window, int):
        first = ", and it is loaded with the first message" if found.loads_first else ""
        return _told(role.model, where, f"its window is {window:,} tokens{first}", base, name)
    if facts.config.num_ctx is not None:
        return _told(role.model, where, "its window is taken from num-ctx", base, name)
    if found.loads_first:
        return _told(role.model, where, "its window is known once it is loaded", base, name)
    return _untold(role.model, where, base, window.reason)


def _told(model: str, where: str, what: str, base: str, server: str = "another server") -> Finding:
    return info("local-server", f"{model} runs on {server} {where}; {what}", base)


def _untold(model: str, where: str, base: str, why: str) -> Finding:
    what = f"{model} runs on another server {where}; it does not report its window, so how full it is cannot be shown"
    evidence = f"{base}: {why}" if why else base
    return unknown("local-server", what, evidence, "aider-guard --num-ctx 8192")


def _loaded_in_studio(
    model: str, found: OtherModel, base: str, where: str, facts: Facts
) -> Finding:
    """LM Studio has loaded it for another program: the guard leaves that as it is."""
    window, wished = found.window_tokens, facts.config.num_ctx or STUDIO_WINDOW_TOKENS
    if not isinstance(window, int):
        return _untold(model, where, base, window.reason)
    if window >= min(wished, found.longest_tokens or wished):
        what = f"it is loaded with a window of {window:,} tokens"
        return _told(model, where, what, base, "LM Studio")
    what = f"{model} is loaded in LM Studio with a window of {window:,} tokens, which is little for Aider"
    if facts.config.num_ctx is not None:
        what = f"{model} is loaded in LM Studio with a window of {window:,} tokens, not {wished:,}"
    fix = f"lms unload {found.name}   (the guard then has it loaded with {wished:,} tokens)"
    return warn("local-server", what, base, fix)


def _ollamas(role: Role, found: OtherModel, base: str, facts: Facts) -> Finding:
    window = f"; its window is {found.window_tokens:,} tokens" if _is_known(found) else ""
    what = f"{role.model} is asked through Ollama's /v1, where no window can be fixed{window}"
    start = f"aider-guard -- {model_option(role.role, name_on_server(role.model))}"
    root = base.removesuffix("/").removesuffix("/v1")
    if key_of(root) != key_of(base_url(facts)):
        start = f"OLLAMA_API_BASE={display_base(root)} {start}"
    return warn("ollama-openai", what, base, start)


def _is_known(found: OtherModel) -> bool:
    return isinstance(found.window_tokens, int)
