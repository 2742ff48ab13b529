"""Makes the program of a stand-in, which the private Ollama's own starter runs as it runs the real one."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aider_guard.demo.llama_server import ensure_llama_server
from aider_guard.demo.ollama_files import SERVER
from aider_guard.demo.ollama_server import PrivateOllama, private_ollama

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aider_guard.demo.layout import Rig

VERSION: Final = "0.33.0-rc2"
"""That of the recorded answers."""
_TESTS: Final = Path(__file__).resolve().parents[1]
_PROGRAM: Final = """#!{interpreter}
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from standin.child import ChildProgram
from standin.serve import main
main({version!r}, ChildProgram(Path({python!r}), Path({packages!r}), Path({shown!r})))
"""


def make_program(folder: Path, rig: Rig, version: str = VERSION) -> Path:
    """Write the program of a stand-in for this version of Ollama into ``folder``; what `private_ollama` takes."""
    server = folder / "server"
    server.mkdir(parents=True)
    script = server / SERVER
    script.write_text(
        _PROGRAM.format(
            interpreter=sys.executable,
            paths=[str(_TESTS), str(_TESTS.parent)],
            version=version,
            python=str(rig.aider / "bin" / "python"),
            packages=str(ensure_llama_server(rig)),
            shown=str(folder / "lib" / "ollama" / "llama-server"),
        )
    )
    script.chmod(0o755)
    return folder


@contextmanager
def standin_ollama(
    rig: Rig, models: Path, folder: Path, *, version: str = VERSION, port: int = 0
) -> Iterator[PrivateOllama]:
    """Run a stand-in for the length of a ``with``, on Ollama's folder of models; its log goes to ``folder``."""
    program = make_program(folder / f"ollama-{version}", rig, version)
    with private_ollama(program, models, folder=folder, port=port) as server:
        yield server
