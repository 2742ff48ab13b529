"""A model of one layer: the small model without the others. It counts and cuts as the small one, and computes at once.

Ollama treats it as any model: vocabulary, template and window are the small model's. What it answers means nothing,
and does not end by itself.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
from standin.gguf_file import rewritten

from aider_guard.demo.layout import SMALL
from aider_guard.demo.llama_server import model_file

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.demo.layout import Rig
    from aider_guard.demo.ollama_server import PrivateOllama

NAME = "shallow"
BRIEF = {"temperature": 0, "seed": 1, "repeat_penalty": 1.5}
"""With these it says words; without a penalty, line after line of nothing."""


def cut_file(model: Path) -> tuple[str, bytes]:
    """The digest and the content of a model's file, cut."""
    content = rewritten(model, layers=1)
    return f"sha256:{hashlib.sha256(content).hexdigest()}", content


def upload(rig: Rig, ollama: PrivateOllama) -> str:
    """Cut the rig's small model, and give the server the file; its digest (docs/api.md, "Push a Blob")."""
    digest, content = cut_file(model_file(rig.models))
    httpx.post(
        f"{ollama.url}/api/blobs/{digest}",
        content=content,
        timeout=60,
        trust_env=False,
        verify=False,
    ).raise_for_status()
    return digest


def shallow_rig(rig: Rig, folder: Path) -> Rig:
    """The rig, with a models folder in which the small model has one layer."""
    digest, content = cut_file(model_file(rig.models))
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest}
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / SMALL / "latest"
    blob = folder / "blobs" / digest.replace(":", "-")
    for path, data in ((manifest, json.dumps({"layers": [layer]}).encode()), (blob, content)):
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return replace(rig, models=folder)
