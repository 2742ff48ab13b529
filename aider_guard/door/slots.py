"""Reads from the process of a model how far it has read a prompt (``GET /slots`` of llama.cpp's server).

It is only looked at. While a prompt is read a slot shows how much of it came from the cache, and how much is read: in
pieces of a batch (512 tokens or more). Both are 0 again when the answer has ended (server-context.cpp, to_json).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import httpx

from aider_guard.core.readings import Unavailable
from aider_guard.ollama.http import fetch
from aider_guard.ollama.model_process import ModelProcess

SLOTS_SECONDS: Final = 10.0
"""How long it may take: some versions answer only between two pieces of a prompt."""
_CONNECT_SECONDS: Final = 0.5
_MAX_BYTES: Final = 4 * 1024 * 1024
IDLE: Final = Unavailable("the model's process works on nothing")


@dataclass(frozen=True)
class Slot:
    """A slot that works: on which task, what of its prompt was in the cache, what is read, and whether it answers."""

    task: int
    cached_tokens: int
    read_tokens: int
    answers: bool


class SlotReader:
    """Looks at the slots of models' processes. ``process_of`` finds the process by server and model; calls block."""

    def __init__(
        self,
        process_of: Callable[[str, str], ModelProcess | Unavailable],
        *,
        answer_seconds: float = SLOTS_SECONDS,
    ) -> None:
        self._process_of, self._answer_seconds = process_of, answer_seconds
        # No proxy of the environment, no redirect, and plain http: the processes listen on this machine.
        self._http = httpx.Client(trust_env=False, verify=False, follow_redirects=False)  # noqa: S501

    def read(self, base: str, model: str) -> Slot | Unavailable:
        """Return the slot in which a prompt of this model is read or answered; the newest where there are several."""
        process = self._process_of(base, model)
        if isinstance(process, Unavailable):
            return process
        try:
            answered = fetch(
                partial(self._http.stream, "GET", f"{process.base}/slots"),
                seconds=self._answer_seconds,
                connect_seconds=_CONNECT_SECONDS,
                max_bytes=_MAX_BYTES,
                clock=time.monotonic,
            )
            slots = json.loads(answered.content) if answered.status == httpx.codes.OK else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError, RuntimeError) as error:
            return Unavailable(f"the model's process did not tell ({type(error).__name__})")
        return working_slot(slots)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def working_slot(slots: object) -> Slot | Unavailable:
    """Return the slot that works on the newest task, from the answer to ``/slots``."""
    if not isinstance(slots, list):
        return Unavailable("the model's process does not tell what it works on")
    working = [slot for each in slots if (slot := _slot(each)) is not None]
    return max(working, key=lambda slot: slot.task, default=IDLE)


def _slot(value: Any) -> Slot | None:
    match value:
        case {
            "is_processing": True,
            "id_task": int(task),
            "n_prompt_tokens_cache": int(cached),
            "n_prompt_tokens_processed": int(read),
            **more,
        } if cached >= 0 and read >= 0:
            match more.get("next_token"):
                case [{"n_decoded": int(decoded)}, *_] | {"n_decoded": int(decoded)}:
                    return Slot(task, cached, read, decoded > 0)
            return Slot(task, cached, read, answers=False)
    return None
