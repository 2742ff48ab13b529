"""Whether the private programs can be installed on this machine, found out before anything is downloaded.

``make demo`` runs it with the machine's own Python, before there is a virtual environment, so only
the standard library is imported here, and by the modules that are.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import urllib.request
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from aider_guard.demo.install import choose_python, run_command
from aider_guard.demo.layout import Rig, RigError, cache_folder, rig_in
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from aider_guard.demo.progress import Step

CPUINFO = Path("/proc/cpuinfo")
USUAL_OLLAMA = "http://127.0.0.1:11434"


def check_machine(rig: Rig, step: Step) -> None:
    """Raise `RigError` where a part that ``rig`` lacks could not be installed, or the sample not made.

    The C compiler is not only looked for: it compiles what it will be needed for.
    """
    check_system()
    if not rig.ollama.is_dir():
        with tempfile.TemporaryDirectory(prefix="aider-guard-") as folder:
            build_stub(find_compiler(), Path(folder) / "stub.so", step)
    if not rig.aider.is_dir():
        choose_python()
    if not shutil.which("git"):
        raise RigError("git is needed for the sample repository, and is not on PATH. Install it.")


def check_system() -> None:
    """Raise where the private Ollama cannot run, naming the user's own Ollama if one answers."""
    try:
        check_platform()
    except RigError as error:
        first = "Install Ollama and Aider, then"
        if _answers(USUAL_OLLAMA):
            first = f"An Ollama answers on {USUAL_OLLAMA}:"
        command = "`aider-guard -- --model ollama_chat/NAME` in a repository"
        raise RigError(f"{error} {first} run {command}.") from error


def _answers(url: str) -> bool:
    unproxied = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with unproxied.open(f"{url}/api/version", timeout=2):
            return True
    except OSError:
        return False


def check_platform(
    system: str | None = None, machine: str | None = None, cpuinfo: Path | None = None
) -> None:
    """Raise `RigError` unless this is what the private Ollama is built for: Linux, x86-64, AVX2."""
    system, machine = system or platform.system(), machine or platform.machine()
    if system != "Linux" or machine not in {"x86_64", "AMD64"}:
        raise RigError(f"The private Ollama runs on Linux x86-64 only; this is {system} {machine}.")
    flags = cpuinfo or CPUINFO
    if flags.exists() and "avx2" not in flags.read_text(encoding="utf-8").split():
        raise RigError("The private Ollama needs a CPU with AVX2, which this one does not have.")


def find_compiler() -> str:
    """Return the C compiler's path: ``$CC``, cc, gcc or clang.

    Raises:
        RigError: there is none.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise RigError(
        "A C compiler is needed for one small library of the private Ollama, and none is on PATH "
        "(cc, gcc or clang). Install one, on Debian for example `apt install gcc libc6-dev`."
    )


def build_stub(compiler: str, target: Path, step: Step) -> None:
    """Compile the stand-in for the SYCL backend. Raises RigError if the compiler cannot."""
    with resources.as_file(resources.files("aider_guard.demo.data") / "sycl_stub.c") as source:
        try:
            run_command([compiler, "-shared", "-fPIC", "-O1", "-o", target, source], step)
        except RigError as error:
            raise RigError(
                "The C compiler cannot build a small library of the private Ollama; on Debian "
                f"`apt install gcc libc6-dev` gives one that can. {error}"
            ) from error


def main() -> int:
    """Check this machine for the parts that its cache folder lacks; a sentence and 78 if it will not do."""
    rig = rig_in(cache_folder())
    if rig.is_complete():
        return 0
    try:
        with Progress().step("Checking this machine") as step:
            check_machine(rig, step)
    except RigError as error:
        sys.stderr.write(f"aider-guard: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
