"""The prompt of a request for text, as the fake models' template writes it (fakes/ollama_models.py: ``CHATML``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fakes.answering import Received
from fakes.ollama_runners import seconds_of


def messages(request: Received) -> list[dict[str, Any]]:
    """The prompt as messages; none when there is no prompt."""
    body = request.body
    if "messages" in body or request.path.endswith("/chat/completions"):
        return body.get("messages") or []
    prompt = [{"role": "user", "content": body["prompt"]}] if body.get("prompt") else []
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    return [*system, *prompt] if prompt and body.get("raw") is not True else prompt


def rendered(request: Received) -> list[str] | None:
    """The text of each message as ``CHATML`` writes it, and what it ends with; None when there is no prompt."""
    told = collated(messages(request))
    if not told:
        return None
    if request.body.get("raw") is True:
        return [told[0]["content"]]
    texts = [f"<|im_start|>{one['role']}\n{content(one)}<|im_end|>\n" for one in told]
    return [*texts, "<|im_start|>assistant\n"]


def collated(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role are one message to a template (template/template.go: collate)."""
    merged: list[dict[str, Any]] = []
    for one in told:
        if merged and merged[-1]["role"] == one["role"]:
            merged[-1] = {**one, "content": f"{content(merged[-1])}\n\n{content(one)}"}
        else:
            merged.append(one)
    return merged


def content(message: Mapping[str, Any]) -> str:
    """The text of a message; /v1 may send it in parts."""
    told = message.get("content") or ""
    return told if isinstance(told, str) else "".join(part.get("text", "") for part in told)


def is_unload(request: Received) -> bool:
    """Whether nothing is asked but that a model goes."""
    keep_alive = request.body.get("keep_alive")
    return keep_alive is not None and seconds_of(keep_alive) == 0 and rendered(request) is None
