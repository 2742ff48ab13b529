"""The state of a session as ``aider-guard status`` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aider_guard.core.messages import count, size
from aider_guard.core.readings import MemoryReading, ModelsReading, Unavailable
from aider_guard.core.state import (
    Phase,
    State,
    fill_percent,
    is_measured,
    used_tokens,
    window_tokens,
)


def session_facts(state: State, *, session_id: str, pid: int) -> dict[str, Any]:
    """One session as in ``status --json``. What is not known is null."""
    return {
        "id": session_id,
        "pid": pid,
        "phase": phase_word(state),
        "turns": state.turns,
        "used_tokens": _known(used_tokens(state)),
        "used_is_measured": is_measured(state),
        "window_tokens": _known(window_tokens(state)),
        "fill_percent": _rounded(fill_percent(state)),
        "memory": _memory(state.memory),
        "models": _models(state.loaded),
        "restarts": state.restarts,
        "last_notice": state.last_notice or None,
    }


def phase_word(state: State) -> str:
    """The phase in a word: of a running Aider, whether it waits or works."""
    if state.phase is Phase.RUNNING:
        return "prompt" if state.prompt is not None else "busy"
    return str(state.phase.value)


def _known(value: int | Unavailable) -> int | None:
    return None if isinstance(value, Unavailable) else value


def _rounded(value: float | Unavailable) -> float | None:
    return None if isinstance(value, Unavailable) else round(value, 1)


def _memory(reading: MemoryReading | Unavailable) -> dict[str, Any] | None:
    if isinstance(reading, Unavailable):
        return None
    ram = None if isinstance(reading.ram, Unavailable) else reading.ram
    return {
        "gpus": None
        if isinstance(reading.gpus, Unavailable)
        else [
            {
                "index": gpu.index,
                "name": gpu.name,
                "vram_used_bytes": gpu.vram_used_bytes,
                "vram_total_bytes": gpu.vram_total_bytes,
            }
            for gpu in reading.gpus
        ],
        "ram_used_bytes": ram and ram.total_bytes - ram.available_bytes,
        "ram_total_bytes": ram and ram.total_bytes,
        "ollama_bytes": _known(ram.ollama_bytes) if ram else None,
    }


def _models(reading: ModelsReading | Unavailable) -> list[dict[str, Any]] | None:
    if isinstance(reading, Unavailable):
        return None
    return [
        {
            "name": model.name,
            "size_bytes": model.size_bytes,
            "vram_bytes": model.vram_bytes,
            "window_tokens": _known(model.window_tokens),
        }
        for model in reading.models
    ]


def table(sessions: Sequence[Mapping[str, Any]]) -> str:
    """Running sessions for people, a few lines each."""
    if not sessions:
        return "no session is running\n"
    return "\n".join(_block(session) for session in sessions)


def _block(facts: Mapping[str, Any]) -> str:
    lines = [
        f"session   {facts['id']}  (process {facts['pid']})",
        f"Aider     {facts['phase']}, {count(facts['turns'], 'turn')}, {count(facts['restarts'], 'restart')}",
        f"context   {_fill(facts)}",
        f"memory    {_memory_line(facts['memory'])}",
        f"models    {_models_line(facts['models'])}",
    ]
    if facts["last_notice"]:
        lines.append(f"notice    {facts['last_notice']}")
    return "\n".join(lines) + "\n"


def _fill(facts: Mapping[str, Any]) -> str:
    used, window, fill = facts["used_tokens"], facts["window_tokens"], facts["fill_percent"]
    if fill is not None:
        about = "" if facts.get("used_is_measured") else "about "
        return f"{about}{fill:.0f} % full: {used:,} of {window:,} tokens"
    return f"not measured yet; window {window:,} tokens" if window else "not measured yet"


def _memory_line(memory: Mapping[str, Any] | None) -> str:
    if memory is None:
        return "not read yet"
    parts = [
        f"GPU {gpu['index']} {size(gpu['vram_used_bytes'])} of {size(gpu['vram_total_bytes'])}"
        for gpu in memory["gpus"] or ()
    ]
    if memory["ram_total_bytes"]:
        parts.append(f"RAM {size(memory['ram_used_bytes'])} of {size(memory['ram_total_bytes'])}")
    return ", ".join(parts) or "not known"


def _models_line(models: Sequence[Mapping[str, Any]] | None) -> str:
    if models is None:
        return "Ollama was not read"
    return (
        ", ".join(f"{model['name']} ({size(model['size_bytes'])})" for model in models)
        or "none loaded"
    )


def line(sessions: Sequence[Mapping[str, Any]]) -> str:
    """All sessions on one line, for a status bar."""
    return "  ".join(_short(session) for session in sessions) or "no session"


def _short(facts: Mapping[str, Any]) -> str:
    fill = facts["fill_percent"]
    return f"aider {facts['phase']} {f'{fill:.0f}%' if fill is not None else '-'} turn {facts['turns']}"
