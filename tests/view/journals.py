"""A journal as a session writes it: twelve turns with what the report is about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIB = 1 << 30
SECRET = "/home/me/secret-project/secret.sock"


def lines(turns: int = 12) -> Iterator[dict[str, Any]]:
    """The events in order; ``at`` begins at 10:15 UTC."""
    yield _line(0.3, "air_gap_chosen", layer="netns", because="")
    yield _line(5.1, "models_chosen", main="qwen3:8b", models=["qwen3:8b"], window_tokens=8192)
    for turn in range(1, turns + 1):
        yield from _turn(turn, 60.0 * turn)
    yield _line(400.0, "notice_shown", notice="context_filling")
    yield _line(405.0, "egress_blocked", **_attempt("us.i.posthog.com", 443, "tcp", "python", 12))
    yield _line(406.0, "egress_blocked", **_attempt("us.i.posthog.com", 443, "tcp", "python", 2))
    yield _line(407.0, "egress_blocked", **_attempt(SECRET, 0, "unix", "secret-program", 1))
    yield _line(500.0, "start_aider", reason="12 turns", handoff={})
    yield _line(505.0, "notice_shown", notice="restarted")
    yield _line(
        610.0, "reload_seen", model="qwen3:8b", load_seconds=6.5, cause="its window was changed"
    )
    yield _line(720.0, "end_session", exit_status=0, notice=None)


def _attempt(host: str, port: int, protocol: str, program: str, count: int) -> dict[str, Any]:
    return {"host": host, "port": port, "protocol": protocol, "program": program, "count": count}


def _turn(turn: int, t: float) -> Iterator[dict[str, Any]]:
    prompt, cached = 3000 + 300 * turn, 0 if turn == 1 else 2000 + 200 * turn
    seconds = {
        "load_seconds": 12.0 if turn == 1 else 0.0,
        "prefill_seconds": 30.0 if turn == 1 else 2.0 + turn / 10,
        "generation_seconds": 4.0,
    }
    tokens = {"prompt_tokens": prompt, "answer_tokens": 150}
    gpu = {"vram_used_bytes": (9 + turn // 4) * GIB, "vram_total_bytes": 16 * GIB}
    yield _line(t - 9, "memory_read", reading={"gpus": [gpu], "ram": {}})
    yield _line(
        t - 5,
        "request_finished",
        role="main",
        purpose="chat",
        verdict={"outcome": "whole"},
        window_tokens=8192,
        **seconds,
        **tokens,
    )
    yield _line(
        t - 2,
        "request_finished",
        role="weak",
        purpose="commit",
        verdict={"outcome": "whole"},
        window_tokens=8192,
        prompt_tokens=400,
        answer_tokens=20,
        prefill_seconds=3.0,
        generation_seconds=1.0,
    )
    if turn % 2:
        yield _line(t - 1, "prompt_reread", cause="map", seconds=6.0)
    yield _line(t, "turn_finished", requests=2, **seconds, **tokens, cached_tokens=cached)


def _line(t: float, event: str, **facts: Any) -> dict[str, Any]:
    minute, second = divmod(int(t), 60)
    at = f"2026-03-01T10:{15 + minute:02}:{second:02}.000000Z"
    return {"event": event, "at": at, "t": t, **facts}


def write(folder: Path) -> None:
    """Write the journal into a session's folder, with a last line that a kill cut short."""
    folder.mkdir(parents=True)
    text = "".join(f"{json.dumps(line)}\n" for line in lines())
    (folder / "journal.jsonl").write_text(f'{text}{{"event": "turn_fini')
