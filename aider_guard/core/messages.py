"""Words the session's notices in plain lines, without colours or escape codes; a command to copy begins a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aider_guard.core.actions import PART, Handoff, Notice
from aider_guard.core.drop_advice import Advice
from aider_guard.core.events import ModelsUnloaded
from aider_guard.core.findings import Finding, listed, verb
from aider_guard.core.model_names import same_model
from aider_guard.core.printable import printable
from aider_guard.core.readings import (
    ContextReading,
    Gpu,
    LoadedModel,
    MemoryReading,
    ModelsReading,
    RamReading,
    Unavailable,
    share_used_percent,
)
from aider_guard.core.state import Restart, State, window_tokens

_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    6: "SIGABRT",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
}
_KINDS = {"system": "instructions", "history": "history", "map": "repository map", "file": "files"}


def context_filling(
    reading: ContextReading,
    used: int,
    window: int,
    advice: Advice | None,
    *,
    is_measured: bool = False,
) -> Notice:
    """The window fills up: how far, with what, and the command that helps; an estimate is "about"."""
    about = "" if is_measured else "about "
    sums: Counter[str] = Counter()
    for row in reading.rows:
        sums[row.kind] += row.tokens
    listed = (f"{_KINDS[kind]} {tokens:,}" for kind, tokens in sums.most_common() if tokens)
    parts = f" ({', '.join(listed)})" if reading.rows else ""
    first = f"context {about}{100 * used / window:.0f} % full: {used:,} of {window:,} tokens{parts}"
    helps = "/tokens   (shows what takes the room)"
    if reading.rows:
        helps = "no file can be dropped; /clear forgets the conversation"
    return Notice("context_filling", (first, advice.line if advice else helps))


def probing_off(reason: str) -> Notice:
    """Aider can no longer be asked for the fill."""
    return Notice("probing_off", (f"the context is no longer watched in this session: {reason}",))


def cannot_restart(problem: str) -> Notice:
    """A planned restart was given up."""
    line = f"not restarting Aider by itself in this session: {problem}"
    return Notice("restart_given_up", (line,))


PLAIN_INPUT = "without fancy input nothing is typed for you: Aider is not restarted here, nor asked for /tokens"
"""What does not work where Aider reads lines without prompt_toolkit."""


def no_restarts() -> Notice:
    """A restart is due in a session without prompt_toolkit."""
    helps = "to begin afresh, leave with /exit, which unloads the model, and start again"
    return Notice("no_restarts", (PLAIN_INPUT, helps))


def restarted(restart: Restart, seconds: float) -> Notice:
    """A restart is over: why, what was kept, what was freed, how long it took, and what is lost."""
    kept, exchanges = _files(restart.handoff), restart.exchanges
    if exchanges:
        kept += f" and the last {f'{exchanges} exchanges' if exchanges > 1 else 'exchange'}"
    freed = f", {' and '.join(restart.unloaded)} unloaded" if restart.unloaded else ""
    if isinstance(restart.freed_bytes, int) and restart.unloaded:
        freed = f", {size(restart.freed_bytes)} freed"
    first = f"Aider restarted in {seconds:.1f} s ({restart.reason}): {kept} kept{freed}"
    return Notice("restarted", (first, "/undo no longer knows the commits before this line"))


def freed_behind(unloaded: ModelsUnloaded) -> Notice | None:
    """Models were unloaded behind a restart: what that freed; None where that was not measured, or nothing."""
    if not unloaded.names or not isinstance(unloaded.freed_bytes, int) or not unloaded.freed_bytes:
        return None
    names = " and ".join(unloaded.names)
    return Notice("restart_freed", (f"{names} unloaded, {size(unloaded.freed_bytes)} freed",))


def _files(handoff: Handoff) -> str:
    return count(handoff.files, "file") if handoff.known else "the files of the command line"


def offer(status: int, handoff: Handoff, *, talked: bool) -> Notice:
    """Aider died: how, and what a new start restores."""
    exchanges = " and the last exchanges" if talked else ""
    return Notice(
        "aider_died",
        (f"Aider {ended(status)}.", f"Start it again with {_files(handoff)}{exchanges}?"),
    )


def gave_up(status: int, attempts: int) -> Notice:
    """Aider could not be started again."""
    line = f"Aider {ended(status)}; it was started {attempts} times. Nothing of yours is lost."
    return Notice("gave_up", (line,))


def ended(status: int) -> str:
    """Return in words how a process ended."""
    if status < 0:
        return f"was killed by {_SIGNALS.get(-status, f'signal {-status}')}"
    return f"ended by itself with status {status}"


def files_dropped(names: Sequence[str]) -> Notice:
    """Aider took files out of the chat at a ``/tokens`` that the user did not see."""
    them = verb(names, "it", "them")
    line = f"Aider could not read {listed(names)}, and took {them} out of the chat"
    return Notice("files_dropped", (line,))


def sidecar_lost(reason: str) -> Notice:
    """The sidecar is lost, so that nothing is measured."""
    line = f"memory and models are not watched at the moment ({reason}); Aider goes on"
    return Notice("sidecar_lost", (line,))


def memory_short(
    reading: MemoryReading, loaded: ModelsReading | Unavailable, main_model: str
) -> Notice:
    """Memory is nearly full: whose it is, and what helps."""
    models = loaded.models if isinstance(loaded, ModelsReading) else ()
    held = [_model_share(model) for model in models]
    if isinstance(reading.gpus, tuple) and reading.gpus:
        gpu = max(reading.gpus, key=share_used_percent)
        unused = [model.name for model in models if not same_model(model.name, main_model)]
        return Notice("memory_short", _gpu_lines(gpu, held, unused))
    used, ram = "nearly all", reading.ram
    if isinstance(ram, RamReading):
        used = f"{size(ram.total_bytes - ram.available_bytes)} of {size(ram.total_bytes)}"
    help_line = (
        f"{', '.join(held) or 'no model is loaded'}; a smaller --num-ctx or model needs less"
    )
    return Notice("memory_short", (f"main memory nearly full: {used} in use", help_line))


def finding_notice(finding: Finding) -> Notice:
    """A warning from the checks before the first prompt, with its fix."""
    return Notice("finding", (finding.what, *([finding.fix] if finding.fix else [])))


def refused(findings: Sequence[Finding], *, leaks: bool) -> Notice:
    """Aider was not started: each reason with its evidence and its fix.

    Where code would leave the machine, also how to start it all the same.
    """
    first, *more = findings
    lines = [f"Aider was not started: {first.what}", *_seen_and_fix(first)]
    for finding in more:
        lines += [finding.what, *_seen_and_fix(finding)]
    if leaks:
        lines.append("aider-guard --network open starts it all the same")
    return Notice("refused", tuple(lines))


def greeting(state: State) -> Notice:
    """What holds in this session, on one line: the air gap, the window, the model, and when Aider is restarted."""
    model, window = printable(state.main_model), window_tokens(state)
    parts = [_offline(state)]
    if isinstance(window, int):
        parts.append(f"window {window:,}")
    elif model:
        parts.append("window decided by the server")
    parts += [model] if model else []
    turns = state.limits.max_turns
    if state.plain_input:
        parts.append("no restarts")
    else:
        parts.append(f"restart after {count(turns, 'turn')}" if turns else "no restart by count")
    return Notice("greeting", (f"guarded: {PART.join(parts)}",), is_short=True)


def _offline(state: State) -> str:
    if state.egress.layer == "open":
        return "network open"
    but = [count(state.limits.allowed_places, "place")] if state.limits.allowed_places else []
    but += ["the model's server"] if state.leads_elsewhere else []
    how = "kernel" if state.egress.is_enforced else "asked, not blocked"
    return f"offline{' but for ' if but else ''}{' and '.join(but)} ({how})"


def _seen_and_fix(finding: Finding) -> list[str]:
    seen = [f"  seen: {finding.evidence}"] if finding.evidence else []
    return [*seen, *([f"  fix: {finding.fix}"] if finding.fix else [])]


def more_found() -> Notice:
    """There are more warnings than are shown."""
    return Notice("more_findings", ("there is more to know before you start: aider-guard doctor",))


def spilled(model: LoadedModel, spilled_bytes: int, window: int) -> Notice:
    """A model did not fit after all: how much of it runs on the CPU, and the window that would do."""
    share = _percent(spilled_bytes, model.size_bytes)
    first = f"{model.name} does not fit: {size(spilled_bytes)} of it ({share:.0f} %) runs on the CPU, which is slow"
    helps = "no window of this model fits; a smaller one would"
    if window:
        helps = f"--num-ctx {window} would fit; auto takes it from the next start on"
    return Notice("model_spilled", (first, helps))


def _percent(part: int, whole: int) -> float:
    """Return a share in per cent; of nothing it is none."""
    return 100 * part / whole if whole else 0.0


def _gpu_lines(gpu: Gpu, held: list[str], unused: list[str]) -> tuple[str, str]:
    least = "" if isinstance(gpu.vram_used_bytes, int) else "at least "
    share, used = share_used_percent(gpu), size(gpu.least_used_bytes)
    first = (
        f"GPU memory {least}{share:.0f} % full: {used} of {size(gpu.vram_total_bytes)} ({gpu.name})"
    )
    processes = gpu.processes if isinstance(gpu.processes, tuple) else ()
    largest_first = sorted(
        processes, key=lambda p: -p.vram_used_bytes if isinstance(p.vram_used_bytes, int) else 0
    )
    others = [
        (process.name or "a hidden process", process.pid)
        for process in largest_first
        if not process.is_ollama
    ]
    what = ", ".join([*held[:2], *(f"{name} ({pid})" for name, pid in others[:2])])
    helps = "a smaller --num-ctx or model needs less"
    if unused:
        helps = f"ollama stop {unused[0]}"
    elif others:
        helps = f"close {others[0][0]}, or use a smaller --num-ctx"
    return first, f"held by {what or 'unknown holder'}; {helps}"


def _model_share(model: LoadedModel) -> str:
    if model.vram_bytes >= model.size_bytes:
        return f"{model.name} {size(model.size_bytes)}"
    on_cpu = _percent(model.size_bytes - model.vram_bytes, model.size_bytes)
    return f"{model.name} {size(model.size_bytes)}, {on_cpu:.0f} % of it on the CPU"


def size(count_bytes: int) -> str:
    """Return a number of bytes in GiB, below one in MiB."""
    gib = count_bytes / 2**30
    return f"{gib:.1f} GiB" if abs(gib) >= 1 else f"{count_bytes / 2**20:.0f} MiB"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 turn, 2 turns."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
