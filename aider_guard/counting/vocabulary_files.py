"""Asks Ollama for a model's template and vocabulary, and keeps the vocabulary on disk.

The vocabulary is megabytes that never change as long as the model's file does not. No prompt is ever written.
It is asked for with http.client and not with httpx, as elsewhere in the sidecar: each counting process asks a few times
in its life, and httpx adds a third to the time of its start (35 ms) and 4.5 MB to its memory.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from aider_guard.core.model_names import is_cloud_name, is_valid_name
from aider_guard.core.readings import Unavailable
from aider_guard.counting.vocabulary import FACTS
from aider_guard.ollama.client import blob
from aider_guard.ollama.names import is_cloud_base

CONNECT_SECONDS: Final = 1.0
SECONDS: Final = 3.0
VERBOSE_SECONDS: Final = 20.0
MAX_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 1_000_000
_MOST_KEPT: Final = 8


def show(base: str, model: str, *, verbose: bool = False) -> dict[str, Any] | Unavailable:
    """Return the answer of ``/api/show``. No proxy is used, and no redirect followed."""
    if is_cloud_name(model) or is_cloud_base(base):
        return Unavailable("a cloud's model is not asked about")
    if not is_valid_name(model):
        return Unavailable("Ollama has no model under such a name")
    body = {"model": model, **({"verbose": True} if verbose else {})}
    try:
        seconds = VERBOSE_SECONDS if verbose else SECONDS
        status, content = _post(base, json.dumps(body).encode(), seconds)
        decoded = json.loads(content) if status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        return Unavailable(f"Ollama did not tell of the model ({type(error).__name__})")
    if not isinstance(decoded, dict) or decoded.get("remote_host"):
        return Unavailable("Ollama did not tell of the model")
    return decoded


def _post(base: str, body: bytes, seconds: float) -> tuple[int, bytes]:
    parts = urlsplit(base)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    headers = {"Content-Type": "application/json"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(login).decode()
    deadline = time.monotonic() + seconds
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=CONNECT_SECONDS)
    try:
        connection.connect()
        connection.sock.settimeout(seconds)
        connection.request("POST", f"{parts.path.rstrip('/')}/api/show", body, headers)
        response = connection.getresponse()
        content = bytearray()
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > MAX_BYTES or time.monotonic() > deadline:
                raise ValueError("an endless answer")
        return response.status, bytes(content)
    finally:
        connection.close()


def vocabulary_facts(
    base: str, model: str, description: Mapping[str, Any], folder: str
) -> Mapping[str, Any] | Unavailable:
    """Return the part of ``model_info`` that the vocabulary is made of.

    It is read from ``folder`` ("" for none), else Ollama is asked for it.
    """
    facts = description.get("model_info")
    if isinstance(facts, dict) and facts.get("tokenizer.ggml.model") not in ("gpt2", None):
        return facts  # its lists are of no use here
    digest = blob(description.get("modelfile"))  # the file is named by the model's weights
    file = Path(folder) / f"{digest}.json" if digest and folder else None
    if file is not None:
        with suppress(OSError, ValueError, RecursionError):
            kept = json.loads(file.read_bytes())
            os.utime(file)
            if isinstance(kept, dict):
                return kept
    verbose = show(base, model, verbose=True)
    if isinstance(verbose, Unavailable):
        return verbose
    facts = verbose.get("model_info")
    if not isinstance(facts, dict):
        return Unavailable("Ollama tells no vocabulary")
    facts = {key: facts[key] for key in FACTS if key in facts}
    if file is not None and facts.get("tokenizer.ggml.tokens"):
        with suppress(OSError):  # a full disk costs a second the next time
            _write(file, facts)
    return facts


def _write(file: Path, facts: Mapping[str, Any]) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    try:
        draft.write_text(json.dumps(facts), encoding="utf-8")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    others = sorted(file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for old in others[:-_MOST_KEPT]:
        old.unlink()
