"""In WSL, without systemd: ``doctor`` says what is different there, and a run starts as on any Linux."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from session.guards import Place
from session.ptys import child

MODEL = ("--model", "ollama_chat/qwen3:8b")
VERSION = "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1) (gcc 11.2.0)\n"


def in_wsl(
    place: Place, command: Sequence[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program where /proc/version is WSL's and /run has no systemd."""
    version = place.work.parent / "version"
    version.write_text(VERSION)
    mounts = f"mount --bind {shlex.quote(str(version))} /proc/version && mount -t tmpfs none /run"
    there = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    done = subprocess.run(
        (*there, f'{mounts} || exit 99; exec "$@"', "sh", *command),
        env=environment,
        cwd=place.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no file can be mounted over another here: {done.stderr.strip()}")
    return done


@pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare")
def test_doctor_and_a_run_work_in_wsl(tmp_path: Path) -> None:
    """Ollama is not reached: that of Windows is named; and Aider's own status comes back."""
    place = Place.make(tmp_path / "place", ollama="http://127.0.0.1:9")
    environment = place.env(child("exits_with", 9))
    options = ("--aider", str(place.aider))
    guard = (sys.executable, "-m", "aider_guard", *options)
    done = in_wsl(place, (*guard, "doctor", "--report", "--", *MODEL), environment)
    (system,) = (line for line in done.stdout.splitlines() if line.startswith("system "))
    assert ", in WSL" in system
    assert system.endswith(", without systemd")
    assert (
        "fix: ollama serve   # one on Windows: networkingMode=mirrored in .wslconfig" in done.stdout
    )
    assert "systemctl" not in done.stdout
    started = in_wsl(place, place.guarded(*MODEL), environment)
    assert started.returncode == 9, started.stderr
