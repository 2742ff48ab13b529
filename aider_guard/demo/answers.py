"""Whether the models answer sense on this machine.

A build of Ollama can compute wrongly on some processors only: with the backend for AMX each answer
was one repeated token. So each installation asks once. The question's answer is so likely that
every backend of the private Ollama finds it with the greedy choice of tokens (tried with those for
Haswell, Alder Lake, Skylake-X and Ice Lake), and what computes wrongly does not hit upon it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from aider_guard.demo.layout import SMALL, SMALL_Q4, Rig, RigError
from aider_guard.demo.ollama_server import private_ollama

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.demo.progress import Step

QUESTION = "What is the capital of France?"
EXPECTED = "Paris"
ANSWER_TOKENS = 16
ANSWER_TIMEOUT_SECONDS = 300.0  # a slow machine that is busy; a quiet one takes two seconds
SHOWN_CHARACTERS = 40


def check_answers(partial: Path, rig: Rig, step: Step) -> None:
    """Fill ``partial`` with an answer of each model, on a server of their own. Raises as `check_answer`."""
    with private_ollama(rig.ollama, rig.models) as server:
        for model in (SMALL, SMALL_Q4):
            step.tick(model)
            answer = check_answer(server.url, model)
            (partial / f"{model}.txt").write_text(f"{answer}\n", encoding="utf-8")


def check_answer(url: str, model: str) -> str:
    """Return what ``model`` answers to `QUESTION`.

    Raises:
        RigError: it does not answer, or the answer is not the one that is known.
    """
    answer = _ask(url, model)
    if EXPECTED not in answer:
        raise RigError(
            f"The private Ollama computes wrongly on this machine: its model {model} answers "
            f"{answer[:SHOWN_CHARACTERS]!r} to {QUESTION!r}; use an Ollama of your own "
            "(`aider-guard -- --model ollama_chat/NAME`), and take this one away with "
            "`aider-guard demo --remove`."
        )
    return answer


def _ask(url: str, model: str) -> str:
    request = {
        "model": model,
        "stream": False,
        "messages": [{"role": "user", "content": QUESTION}],
        "options": {"temperature": 0, "seed": 1, "num_predict": ANSWER_TOKENS, "num_ctx": 512},
    }
    try:
        answer = httpx.post(
            f"{url}/api/chat", json=request, timeout=ANSWER_TIMEOUT_SECONDS, trust_env=False
        )
        if answer.is_success:
            return str(answer.json()["message"]["content"])
        reason = f"status {answer.status_code}, {' '.join(answer.text.split())[:200]}"
    except httpx.HTTPError as error:
        reason = f"{type(error).__name__}: {error}"
    except (ValueError, KeyError, TypeError):
        reason = "what came is not an answer of Ollama's"
    raise RigError(
        f"The model {model} of the private Ollama does not answer ({reason}); run this again, "
        "and if that does not help, `aider-guard demo --remove` first."
    )
