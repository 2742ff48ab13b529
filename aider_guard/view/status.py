"""Shows the state of sessions for ``aider-guard status``: as a table, and on one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aider_guard.core.messages import count, size
from aider_guard.core.printable import printable
from aider_guard.view.page import wrapped

_LABEL_COLUMNS = 10


def table(sessions: Sequence[Mapping[str, Any]], columns: int = 0) -> str:
    """The running sessions, a few lines for each; broken at *columns* where that is not 0."""
    if not sessions:
        return "no session is running\n"
    return "\n".join(_block(session, columns) for session in sessions)


def is_answer(facts: Mapping[str, Any]) -> bool:
    """Whether an answer is one of the guard's: any program can answer at the path that a session's file names."""
    try:
        return bool(line([facts]) and table([facts]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return False


def _block(facts: Mapping[str, Any], columns: int) -> str:
    models = [f"{each['name']} ({size(each['size_bytes'])})" for each in facts["models"] or ()]
    nothing = "not read from Ollama yet" if facts["models"] is None else "none loaded"
    where = facts.get("folder")
    lines = [
        f"session   {facts['id']}  (process {facts['pid']})",
        *([f"folder    {where}"] if where else []),  # a session of an older guard does not say
    ]
    if facts["phase"] == "stopped":
        lines.append("Aider     stopped; fg in its terminal continues it")
        return "".join(f"{printable(each)}\n" for each in wrapped(lines, columns, _LABEL_COLUMNS))
    model = facts.get("model")
    lines += [
        f"Aider     {facts['phase']}, {count(facts['turns'], 'turn')}, {count(facts['restarts'], 'restart')}",
        *([f"model     {model}"] if model else []),
        f"context   {_fill(facts)}",
        f"memory    {_memory_line(facts['memory'])}",
        f"loaded    {', '.join(models) or nothing}",
    ]
    if facts["last_notice"]:
        lines.append(f"notice    {facts['last_notice']}")
    return "".join(f"{printable(each)}\n" for each in wrapped(lines, columns, _LABEL_COLUMNS))


def _fill(facts: Mapping[str, Any]) -> str:
    used, window, fill = facts["used_tokens"], facts["window_tokens"], facts["fill_percent"]
    if fill is not None:
        about = "" if facts.get("used_is_measured") else "about "
        return f"{about}{fill:.0f} % full: {used:,} of {window:,} tokens"
    return f"not measured yet; window {window:,} tokens" if window else "not measured yet"


def _memory_line(memory: Mapping[str, Any] | None) -> str:
    if memory is None:
        return "not read yet"
    parts = []
    for gpu in memory["gpus"] or ():
        used, total = gpu["vram_used_bytes"], size(gpu["vram_total_bytes"])
        told = f"{total}, use not told" if used is None else f"{size(used)} of {total}"
        shared = " of the main memory" if gpu.get("shares_main_memory") else ""
        parts.append(f"GPU {gpu['index']} {told}{shared}")
    if memory["ram_total_bytes"]:
        parts.append(f"RAM {size(memory['ram_used_bytes'])} of {size(memory['ram_total_bytes'])}")
    return ", ".join(parts) or "not known"


def line(sessions: Sequence[Mapping[str, Any]]) -> str:
    """All sessions on one line, for a status bar."""
    parts = []
    for facts in sessions:
        if facts["phase"] == "stopped":
            parts.append("aider stopped")
            continue
        fill = "-" if facts["fill_percent"] is None else f"{facts['fill_percent']:.0f}%"
        parts.append(f"aider {facts['phase']} {fill} turn {facts['turns']}")
    return printable("  ".join(parts)) or "no session"
