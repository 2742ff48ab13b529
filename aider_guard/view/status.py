"""Shows the state of sessions for ``aider-guard status``: as a table, and on one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aider_guard.core.chat.pace import about
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
        *_reading_lines(facts),
        f"memory    {memory_line(facts['memory'])}",
        f"loaded    {', '.join(models) or nothing}",
    ]
    if facts["last_notice"]:
        lines.append(f"notice    {notice_words(facts['last_notice'])}")
    return "".join(f"{printable(each)}\n" for each in wrapped(lines, columns, _LABEL_COLUMNS))


def _fill(facts: Mapping[str, Any]) -> str:
    used, window, fill = facts["used_tokens"], facts["window_tokens"], facts["fill_percent"]
    if fill is not None:
        about = "" if facts.get("used_is_measured") else "about "
        return f"{about}{fill:.0f} % full: {used:,} of {window:,} tokens"
    return f"not measured yet; window {window:,} tokens" if window else "not measured yet"


def _reading_lines(facts: Mapping[str, Any]) -> list[str]:
    """What is read now, and what the last turn read; sessions of an older guard do not say."""
    lines, now, last = [], facts.get("reading"), facts.get("last_turn")
    if now:
        unread = now["prompt_tokens"] - now["cached_tokens"]
        cached = f" ({now['cached_tokens']:,} more were known)" if now["cached_tokens"] else ""
        left = about(now["seconds_left"])
        lines.append(f"reading   {now['read_tokens']:,} of {unread:,} tokens{cached}, {left} left")
    if last and last["read_tokens"] is not None:
        lines.append(
            f"last turn {last['read_tokens']:,} tokens read, {last['cached_tokens']:,} known already"
        )
    return lines


def memory_line(memory: Mapping[str, Any] | None) -> str:
    """Return the memory of the cards and of the machine that is in use."""
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
        now = facts.get("reading")
        reading = f" reading {about(now['seconds_left']).removeprefix('about ')}" if now else ""
        parts.append(f"aider {facts['phase']}{reading} {fill} turn {facts['turns']}")
    return printable("  ".join(parts)) or "no session"


_NOTICES = {
    "answer_broke_off": "an answer broke off",
    "context_filling": "the window fills up",
    "egress": "something tried to leave",
    "egress_more": "something tried to leave",
    "files_dropped": "Aider took files out of the chat",
    "finding": "a check found something: aider-guard doctor",
    "greeting": "the session began",
    "histories": "a history was not merged",
    "launch_failed": "Aider could not be started",
    "map_changes": "the repository map changes with each message",
    "memory_short": "memory is short",
    "message_left_out": "a message was left out",
    "model_spilled": "the model runs partly on the CPU",
    "more_findings": "the checks found more: aider-guard doctor",
    "no_restarts": "there are no restarts here",
    "prompt_reread": "much of a prompt was read again",
    "notify_failed": "the notify-command failed",
    "probing_off": "the context is not watched any more",
    "reload_seen": "the model was loaded again",
    "request_refused": "a message did not fit and was not sent",
    "restart_given_up": "no restarts by themselves any more",
    "restart_freed": "the models were unloaded behind a restart",
    "restarted": "Aider was restarted",
    "resumed": "an earlier session was opened again",
    "sidecar_lost": "memory and models are not watched",
    "truncation_seen": "the server cut a prompt",
    "truncation_unknown": "the server may have cut a prompt",
}


def notice_words(name: str) -> str:
    """Return what a notice is about, by its name in the journal."""
    return _NOTICES.get(name, name.replace("_", " "))
