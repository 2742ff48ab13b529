"""The window of each role: fixed or not, the same for one model, within what the model was trained for."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.core.findings import Finding, info, listed, warn
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts
from aider_guard.launch.aider_settings import Role
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import with_ollama
from aider_guard.ollama.names import canonical_name


def pinned(facts: Facts) -> Iterator[Finding]:
    """Who fixes the window: the user's files, or the guard alone."""
    used = [role for role, _ in with_ollama(facts)]
    if not used:
        return
    guards = facts.window_tokens
    now = f"{guards:,} tokens" if isinstance(guards, int) else "it"
    own = [role for role in used if role.num_ctx is not None]
    free = [role for role in used if role.num_ctx is None]
    if own:
        windows = listed(f"{role.num_ctx:,}" for role in own if role.num_ctx is not None)
        what = f"your settings fix the window at {windows} tokens"
        yield info(
            "window-pinned", what, listed(role.settings_source or role.model for role in own)
        )
    if free:
        names = listed(role.model for role in free)
        what = f"Aider alone would ask for another window each time, a reload each; the guard fixes {now}"
        yield info("window-unpinned", what, f"no num_ctx for {names}")


def same_for_one_model(facts: Facts) -> Iterator[Finding]:
    """Tags of one file with weights share a runner, which is loaded anew whenever the window changes."""
    by_file: dict[str, list[Role]] = {}
    for role, name in with_ollama(facts):
        by_file.setdefault(_file_of(name, facts), []).append(role)
    for used in by_file.values():
        windows = {role.num_ctx for role in used}
        if len(windows) > 1:
            shown = listed(f"{role.model} {_shown(role.num_ctx)}" for role in used)
            what = f"one model with different windows is loaded anew at each change: {shown}"
            numbers = [number for number in windows if number is not None]
            fix = f"aider-guard --num-ctx {min(numbers)}"
            where = listed(role.settings_source for role in used if role.settings_source)
            yield warn("window-differs", what, where, fix)


def _file_of(name: str, facts: Facts) -> str:
    """What is the same for two names of one model: the file with the weights, else the name."""
    model = None if isinstance(facts.server, Unavailable) else facts.server.models.get(name)
    if isinstance(model, ModelFacts) and model.blob:
        return model.blob
    return canonical_name(name)


def _shown(num_ctx: int | None) -> str:
    return "not fixed" if num_ctx is None else f"{num_ctx:,}"


def trained(facts: Facts) -> Iterator[Finding]:
    """A window beyond the trained context: Ollama cuts it down without a word."""
    if isinstance(facts.server, Unavailable):
        return
    seen = set()
    for role, name in with_ollama(facts):
        asked = facts.config.num_ctx or role.num_ctx
        match facts.server.models.get(name):
            case ModelFacts(trained_tokens=int(most)) if asked and asked > most > 0:
                if name in seen:
                    continue
                seen.add(name)
                what = (
                    f"{name} was trained for {most:,} tokens; a window of {asked:,} is cut to that"
                )
                whose = "num-ctx" if facts.config.num_ctx else role.settings_source
                yield warn("window-too-long", what, whose, f"aider-guard --num-ctx {most}")
