"""Real Aider on an LM Studio that is played from its documents, and the guard between them."""

from __future__ import annotations

from e2e.desk import QUIET, Desk
from e2e.people import Guarded
from fakes.model_servers import LMStudio, Model

NO_OLLAMA = "http://127.0.0.1:9"
"""Where none answers: none is needed."""


def test_a_session_has_its_model_loaded_with_its_window(desk: Desk) -> None:
    """The one that was wished, once, and it is Aider's too."""
    with LMStudio([Model("qwen/small"), Model("other", loaded=True)]) as studio:
        addresses = {"LM_STUDIO_API_BASE": f"{studio.url}/v1", "LM_STUDIO_API_KEY": "none"}
        person = Guarded(
            str(desk.aider),
            ["--model", "lm_studio/qwen/small", *QUIET],
            options=["--num-ctx", "12288"],
            env={**desk.env, **addresses, "OLLAMA_API_BASE": NO_OLLAMA},
            cwd=desk.repo,
            columns=160,
        )
        with person:
            person.wait_for_prompt()
            person.ask("Say hello.")
            (chosen,) = person.journal("models_chosen")
            finished = person.wait_for_event("request_finished")
            person.type(b"/exit\r")
            assert person.end() == 0
        assert chosen["window_tokens"] == finished["window_tokens"] == 12288
        assert finished["outcome"] == "answered"
        loads = studio.asked("/api/v1/models/load")
        assert loads == [{"model": "qwen/small", "context_length": 12288}]
