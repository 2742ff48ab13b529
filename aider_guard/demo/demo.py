"""``aider-guard demo``: the rig, a sample repository, and a guarded session on it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.demo.layout import SMALL, cache_folder
from aider_guard.demo.machine import check_system
from aider_guard.demo.ollama_server import private_ollama
from aider_guard.demo.parts import demo_runs
from aider_guard.demo.progress import Progress
from aider_guard.demo.removal import SAMPLE_PREFIX, note_sample
from aider_guard.demo.rig import ensure_rig
from aider_guard.demo.sample import BUGGY_FILE, CONVENTIONS_FILE, LARGE_FILE, TEST_FILE, make_sample
from aider_guard.errors import GuardError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Session = Callable[[list[str], dict[str, str]], int]

MODEL = f"ollama_chat/{SMALL}"
INTERRUPTED = 130  # what a shell reports for SIGINT
SIGNALLED = 128  # an exit status above it says that a signal ended the session


def run_demo(guarded: Session) -> int:
    """Install what is missing, run a guarded session on a sample repository, return its status.

    ``guarded`` runs Aider under guard, by Aider's arguments and the settings that a flag would give.

    What cannot be done is said in one sentence on stderr; the status is then that of the error
    (78 where the private Ollama does not run). The repository stays, noted for `removal`; the
    server does not.
    """
    try:
        check_system()
        cache = cache_folder()
        with demo_runs(cache):
            return _demonstrate(guarded, cache, Progress())
    except GuardError as error:
        sys.stderr.write(f"aider-guard: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _demonstrate(guarded: Session, cache: Path, progress: Progress) -> int:
    rig = ensure_rig(cache, progress)
    with progress.step("Making the sample repository"):
        parent = Path(tempfile.mkdtemp(prefix=SAMPLE_PREFIX))
        note_sample(cache, parent)
        folder = make_sample(parent / "till")
    with contextlib.ExitStack() as running:
        with progress.step("Starting the private Ollama"):
            server = running.enter_context(private_ollama(rig.ollama, rig.models))
        sys.stdout.write(introduction(folder, _own_command()))
        sys.stdout.flush()
        status = _session(guarded, rig.aider_command, server.url, folder)
        if status > SIGNALLED:
            return status  # the terminal may be gone
        with progress.step("Stopping the private Ollama"):
            running.close()
    sys.stdout.write(farewell(folder, _own_command()))
    return status


def demo_arguments() -> list[str]:
    """Return Aider's arguments, with every role named: no settings file may bring a cloud in."""
    roles = ["--model", MODEL, "--weak-model", MODEL, "--editor-model", MODEL]
    quiet = ["--no-show-model-warnings", "--no-show-release-notes"]
    quiet += ["--no-check-update", "--no-analytics"]
    return [*roles, *quiet, "--read", CONVENTIONS_FILE, BUGGY_FILE, TEST_FILE]


def introduction(folder: Path, command: str = "aider-guard") -> str:
    """Return the lines that stand above the session: where the user is, and what to try."""
    return f"""
A repository to try things in, which stays:
  {shlex.quote(str(folder))}
The model is tiny: its answers are fluent, without meaning.
Try: What does total() return?  (takes a minute or two)
     /add {LARGE_FILE}     (fills most of the window)
     /exit
and, meanwhile, in another terminal: {command} status

"""


def farewell(folder: Path, command: str = "aider-guard") -> str:
    """Return the lines that stand below the session: what stays, and what to do next."""
    return f"""
The repository stays:
  {shlex.quote(str(folder))}
With your own Aider and Ollama, there or in your repository:
  {command} -- --model ollama_chat/NAME
To take away what the demo installed and left:
  {command} demo --remove
"""


def _own_command() -> str:
    """Return what starts the guard in another terminal."""
    return "aider-guard" if shutil.which("aider-guard") else f"{sys.executable} -m aider_guard"


def _session(guarded: Session, aider: Path, url: str, folder: Path) -> int:
    overrides = {"aider": str(aider), "ollama": url}
    with _environment({"OLLAMA_API_BASE": url}), _working_in(folder):
        return guarded(demo_arguments(), overrides)


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
