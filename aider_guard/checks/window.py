"""Checks the window of each role: who fixes it, whether it is the same for one model, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator

from aider_guard.core.findings import Finding, info, listed, unknown, warn
from aider_guard.core.fit import Fit
from aider_guard.core.messages import size
from aider_guard.core.model_names import canonical_name, same_model
from aider_guard.core.ollama_versions import UNKNOWN_ERA, era_of
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ModelFacts, ModelMissing
from aider_guard.launch.aider_settings import AiderSettings, Role
from aider_guard.launch.facts import Facts
from aider_guard.launch.places import runs_here, with_ollama


def window_pins(facts: Facts) -> Iterator[Finding]:
    """Whether the user's files fix the window, or only the guard does."""
    used = [role for role, _ in with_ollama(facts)]
    if not used:
        return
    tokens = facts.window_tokens
    window = f"it at {tokens:,} tokens" if isinstance(tokens, int) else "it"
    own = [role for role in used if role.num_ctx is not None]
    models = {} if isinstance(facts.server, Unavailable) else facts.server.models
    free = [role for role in used if role.num_ctx is None]
    main = next((name for role, name in with_ollama(facts) if role.role == "main"), "")
    model = models.get(main)
    in_file = model.num_ctx_parameter if isinstance(model, ModelFacts) else 0
    if in_file and not own and facts.config.num_ctx is None:
        what = f"{main}'s own file has a window of {in_file:,} tokens, which the guard takes"
        yield info("window-pinned", what, "PARAMETER num_ctx", f"ollama show {main} --parameters")
    if own:
        windows = listed(f"{role.num_ctx:,}" for role in own if role.num_ctx is not None)
        what = f"your settings fix the window at {windows} tokens"
        sources = listed(role.settings_source or role.model for role in own)
        yield info("window-pinned", what, sources)
    if free:
        names = listed(role.model for role in free)
        change = "each request would change the window and reload the model"
        if is_never_reloaded(facts):
            change = "each request would ask for another window, which Ollama cuts to what the model was trained for"
        what = f"without the guard {change}; the guard fixes {window}"
        yield info("window-unpinned", what, f"no num_ctx for {names}")


_AIDERS_LEAST_TOKENS = 8192
"""What Aider asks for beyond its prompt, at the least (models.py: tokens * 1.25 + 8192)."""


def is_never_reloaded(facts: Facts) -> bool:
    """Whether requests without a pin reload no model: all of them were trained for less than Aider asks for, and Ollama
    compares windows as it has cut them. From 0.30 on it does (server/sched.go, needsReload); 0.9.3 did not.
    """
    report = facts.server
    if isinstance(report, Unavailable) or era_of(report.version) is UNKNOWN_ERA:
        return False
    models = [report.models.get(name) for _, name in with_ollama(facts)]
    return era_of(report.version).engine == "C" and all(
        isinstance(model, ModelFacts)
        and isinstance(model.trained_tokens, int)
        and model.trained_tokens <= _AIDERS_LEAST_TOKENS
        for model in models
    )


def same_for_one_model(facts: Facts) -> Iterator[Finding]:
    """Tags of one file with weights with different windows: they share a runner, which is reloaded at each change."""
    models = {} if isinstance(facts.server, Unavailable) else facts.server.models
    by_file: dict[str, list[Role]] = {}
    for role, name in with_ollama(facts):
        model = models.get(name)
        blob = model.blob if isinstance(model, ModelFacts) else ""
        by_file.setdefault(blob or canonical_name(name), []).append(role)
    for used in by_file.values():
        windows = {role.num_ctx for role in used}
        if len(windows) > 1:
            shown = listed(
                f"{role.model} {'not fixed' if role.num_ctx is None else f'{role.num_ctx:,}'}"
                for role in used
            )
            what = f"one model with different windows is reloaded at each change: {shown}"
            fix = f"aider-guard --num-ctx {min(number for number in windows if number is not None)}"
            where = listed(role.settings_source for role in used if role.settings_source)
            yield warn("window-differs", what, where, fix)


def contested(facts: Facts) -> Iterator[Finding]:
    """Another running session that fixes another window for one of the models: they reload it by turns."""
    window = facts.window_tokens
    names = dict.fromkeys(name for _, name in with_ollama(facts))
    for name in names if isinstance(window, int) else ():
        held = next(
            (t for other, t in facts.held_windows.items() if same_model(other, name)), window
        )
        if held != window:
            what = (
                f"another session has {name} with a window of {held:,} tokens, this one with {window:,}: "
                "each reloads it after the other"
            )
            yield warn("window-contested", what, "", f"aider-guard --num-ctx {held}")
            return


def trained_context(facts: Facts) -> Iterator[Finding]:
    """A window that is longer than the trained context: Ollama shortens it silently."""
    if isinstance(facts.server, Unavailable):
        return
    seen = set()
    for role, name in with_ollama(facts):
        num_ctx = facts.config.num_ctx or role.num_ctx
        match facts.server.models.get(name):
            case ModelFacts(trained_tokens=int(most)) if (
                num_ctx and num_ctx > most > 0 and name not in seen
            ):
                seen.add(name)
                what = f"{name} was trained for {most:,} tokens; a window of {num_ctx:,} is cut to that"
                source = "num-ctx" if facts.config.num_ctx else role.settings_source
                yield warn("window-too-long", what, source, f"aider-guard --num-ctx {most}")


# Whether the models fit into memory: all together, one at a time, or not at all.

_READ_BYTES_PER_SECOND = 1.5 * 2**30
"""The speed of loading weights from an SSD or the page cache into a card: a rough figure, only shown."""


def memory_fit(facts: Facts) -> Iterator[Finding]:
    """Whether the models fit with the window of the session."""
    names = tuple(dict.fromkeys(name for _, name in with_ollama(facts)))
    if not names:
        return
    match facts.fit:
        case Unavailable() if _has_other_finding(facts):
            return
        case Unavailable(reason):
            what = "whether the models fit into memory is not known"
            yield unknown("fit", what, reason, f"aider-guard fit {' '.join(names)} --vram 16")
        case Fit(fits=True) as fit:
            what = "all models fit together" if fit.needs[1:] else "the model fits into memory"
            yield info("fit", f"{what} at {fit.num_ctx:,} tokens", _sizes(fit, facts))
        case Fit(alone=True) as fit:
            yield _one_at_a_time(fit, names, facts)
        case Fit() as fit:
            yield _spills(fit, names, facts)


def _has_other_finding(facts: Facts) -> bool:
    """Whether another finding has the reason: Ollama is silent, a model is missing or remote, a file is broken."""
    server = facts.server
    broken = isinstance(facts.settings, AiderSettings) and facts.settings.problems
    if isinstance(server, Unavailable) or (broken and isinstance(facts.window_tokens, Unavailable)):
        return True
    silent = isinstance(server.version, Unavailable) and isinstance(server.installed, Unavailable)
    return silent or any(
        isinstance(model, ModelMissing) or (isinstance(model, ModelFacts) and model.remote_host)
        for model in server.models.values()
    )


def _sizes(fit: Fit, facts: Facts) -> str:
    parts = listed(f"{need.name} {size(need.total_bytes)}" for need in fit.needs)
    where = ""
    if isinstance(facts.memory, MemoryReading) and isinstance(facts.memory.gpus, Unavailable):
        where = f" in main memory: {facts.memory.gpus.reason}"
    elif isinstance(facts.memory, MemoryReading) and facts.memory.shares_main_memory:
        where = " in main memory, which the GPU shares"
    return f"{parts}; {size(fit.vram_bytes)} free for Ollama{where}"


def _one_at_a_time(fit: Fit, names: tuple[str, ...], facts: Facts) -> Finding:
    moved = [f"{size(need.weights_bytes)} of {need.name}" for need in fit.needs]
    loads = [max(1.0, need.weights_bytes / _READ_BYTES_PER_SECOND) for need in fit.needs]
    seconds = sum(loads) / max(1, len(loads))
    what = (
        f"the models fit one at a time, not together, at {fit.num_ctx:,} tokens: each change between them "
        f"reloads a model, about {seconds:.0f} s, and reads the whole prompt again"
    )
    fix = _fit_command(names, fit.num_ctx)
    if fit.largest_together > 0:
        fix = f"aider-guard --num-ctx {fit.largest_together}"
    return warn("fit", what, f"{listed(moved)}; {_sizes(fit, facts)}", fix)


def _spills(fit: Fit, names: tuple[str, ...], facts: Facts) -> Finding:
    largest = max(fit.largest_together, fit.largest_alone)
    what = f"a window of {fit.num_ctx:,} tokens does not fit: part of it runs on the CPU, slowly"
    if largest > 0:
        what += f"; {largest:,} would fit"
        return warn("fit", what, _sizes(fit, facts), f"aider-guard --num-ctx {largest}")
    what += "; no window of these models fits"
    smaller = [name for name in runs_here(facts.server) if name not in names]
    return warn("fit", what, _sizes(fit, facts), _fit_command(tuple(smaller[:3]) or names, None))


def _fit_command(names: tuple[str, ...], num_ctx: int | None) -> str:
    window = f" --num-ctx {num_ctx}" if num_ctx else ""
    return f"aider-guard fit {' '.join(names)}{window}"
