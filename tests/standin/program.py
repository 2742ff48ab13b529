"""Makes the program of a stand-in, which the private Ollama's own starter runs as it runs the real one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aider_guard.demo.llama_server import ensure_llama_server
from aider_guard.demo.ollama_files import SERVER
from aider_guard.demo.ollama_server import PrivateOllama, private_ollama

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aider_guard.demo.layout import Rig

VERSION: Final = "0.33.0-rc2"
"""That of the recorded answers."""
NONE_SET: Final[Mapping[str, str]] = {}
_TESTS: Final = Path(__file__).resolve().parents[1]
_PROGRAM: Final = """#!{interpreter}
import os, sys
from pathlib import Path
os.environ.update({environ!r})
sys.path[:0] = {paths!r}
from standin.child import ChildProgram
from standin.serve import main
main({version!r}, ChildProgram(Path({python!r}), Path({packages!r}), Path({shown!r})))
"""


def make_program(
    folder: Path, rig: Rig, version: str = VERSION, environ: Mapping[str, str] = NONE_SET
) -> Path:
    """Write the program of a stand-in for this version of Ollama into ``folder``; what `private_ollama` takes.

    ``environ`` holds settings of Ollama's, as ``OLLAMA_NO_CLOUD``.
    """
    server = folder / "server"
    server.mkdir(parents=True)
    script = server / SERVER
    script.write_text(
        _PROGRAM.format(
            interpreter=sys.executable,
            paths=[str(_TESTS), str(_TESTS.parent)],
            version=version,
            environ=dict(environ),
            python=str(rig.aider / "bin" / "python"),
            packages=str(ensure_llama_server(rig)),
            shown=str(folder / "lib" / "ollama" / "llama-server"),
        )
    )
    script.chmod(0o755)
    return folder


@contextmanager
def standin_ollama(
    rig: Rig,
    folder: Path,
    version: str = VERSION,
    environ: Mapping[str, str] = NONE_SET,
    add_models: Callable[[Path], object] = lambda _models: None,
) -> Iterator[PrivateOllama]:
    """Run a stand-in for the length of a ``with``, on a copy of the rig's models with others added.

    Its log, its models and its program lie in ``folder``.
    """
    models = folder / "models"
    shutil.copytree(rig.models, models, copy_function=os.symlink)
    add_models(models)
    program = make_program(folder / "program", rig, version, environ)
    with private_ollama(program, models, folder=folder) as server:
        yield server
