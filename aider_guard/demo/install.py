"""The private Aider: an environment of its own, because Aider pins every dependency exactly.

Here are also the choice of its Python, and `run_command`, which every part's installation uses: the
output of a program that takes long feeds the progress line, or explains its failure.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.core.printable import printable
from aider_guard.demo.layout import AIDER_VERSION, RigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aider_guard.demo.progress import Step

SUITABLE = ((3, 12), (3, 11), (3, 10))  # the Pythons that Aider 0.86.2 runs on
PROBE_TIMEOUT_SECONDS = 20.0
LAST_LINES = 12
TICK_SECONDS = 0.1
_PROBE = "import sys, venv, ensurepip; print(*sys.version_info[:2])"


def install_aider(partial: Path, place: Path, step: Step) -> None:
    """Fill ``partial`` with a virtual environment that will work once it is moved to ``place``."""
    run_command([choose_python(), "-m", "venv", partial], step)
    pip(partial, step, "install", f"aider-chat=={AIDER_VERSION}")
    relocate(partial, place)


def pip(venv: Path, step: Step, *words: str | Path) -> None:
    """Run ``venv``'s own pip; the user's pip settings (index, proxy, timeouts) hold."""
    command = [venv / "bin" / "python", "-m", "pip", *words, "--progress-bar=off", "--no-input"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run_command(command, step, environ={**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})


def relocate(venv: Path, place: Path) -> None:
    """Write the name of ``place`` for that of ``venv``, its sibling, into the scripts and settings.

    The name of a folder that is being built is longer than its final name, so a first line that
    the kernel accepts (at most 127 bytes) stays one.
    """
    old, new = os.fsencode(venv.name), os.fsencode(place.name)
    for path in (*(venv / "bin").iterdir(), venv / "pyvenv.cfg"):
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if old in content and b"\0" not in content:
            path.write_bytes(content.replace(old, new))


def choose_python(
    running: Path | None = None,
    search_path: str | None = None,
    version_of: Callable[[Path], tuple[int, int] | None] | None = None,
) -> Path:
    """Return the running interpreter if Aider runs on it, else the newest suitable one on PATH.

    Raises:
        RigError: there is none that can make a virtual environment.
    """
    first = running or Path(sys.executable)
    searched = os.environ.get("PATH", "") if search_path is None else search_path
    folders = [Path(folder) for folder in searched.split(os.pathsep) if folder]
    names = [f"python{major}.{minor}" for major, minor in SUITABLE]
    on_path = (folder / name for name in names for folder in folders)
    for candidate in (first, *(path for path in on_path if os.access(path, os.X_OK))):
        if (version_of or probe_version)(candidate) in SUITABLE:
            return candidate
    raise RigError(
        f"Aider {AIDER_VERSION} needs Python 3.10, 3.11 or 3.12 with its venv module, and none is "
        f"on PATH (this is Python {sys.version_info[0]}.{sys.version_info[1]}). Install one, on "
        "Debian for example `apt install python3.11 python3.11-venv`, and run this again."
    )


def probe_version(python: Path) -> tuple[int, int] | None:
    """Return the version of ``python``, or None if it does not run or cannot make environments.

    It is run because a name on PATH proves little: pyenv's shims exist for versions that are not
    active, and Debian ships Python without ensurepip.
    """
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor = answer.stdout.split()
    return int(major), int(minor)


def run_command(
    command: Sequence[str | Path], step: Step, *, environ: Mapping[str, str] | None = None
) -> None:
    """Run ``command`` to its end, ticking ``step`` with each line that it prints.

    Raises:
        RigError: it cannot be started or ends with a status other than 0; the message holds the
            command and the last lines of its output.
    """
    words = [os.fspath(word) for word in command]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
        )
    except OSError as error:
        raise RigError(f"Cannot run {words[0]}: {error.strerror}.") from error
    with process:
        try:
            last = _follow(process, step)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise RigError(_failure(words, process.returncode, last))


def _follow(process: subprocess.Popen[bytes], step: Step) -> deque[str]:
    """Read until the output's end and the program's; return the last lines."""
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=LAST_LINES)
    pending = b""
    for chunk in _chunks(process.stdout.fileno()):
        *lines, pending = (pending + chunk).split(b"\n")
        last.extend(text for line in lines if (text := _readable(line)))
        step.tick(last[-1] if last else "")
    if text := _readable(pending):
        last.append(text)
    process.wait()
    return last


def _chunks(descriptor: int) -> Iterator[bytes]:
    """Yield what can be read, and an empty chunk whenever nothing came for `TICK_SECONDS`."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(TICK_SECONDS):
                yield b""
            elif chunk := os.read(descriptor, 65536):
                yield chunk
            else:
                return


def _readable(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return printable(text, replacement=" ").strip()


def _failure(words: Sequence[str], status: int, last: deque[str]) -> str:
    ended = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
    printed = "".join(f"\n  {line}" for line in last)
    return f"`{shlex.join(words)}` {ended}.{' Its last lines:' if printed else ''}{printed}"
