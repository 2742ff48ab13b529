"""How long the checks before the first prompt take: ``doctor`` as a command, beside what Aider's own imports take."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.guard import bench_place


@dataclass(frozen=True)
class Doctor:
    """Command lines that take turns: Aider's imports alone, and ``doctor``."""

    imports: Sequence[str]
    doctor: Sequence[str]
    env: dict[str, str]
    folder: Path

    def measure(self, count: int) -> tuple[list[float], list[float]]:
        """Seconds of both, taking turns. The first of each is not counted."""
        imports, doctor = [], []
        for _ in range(count + 1):
            imports.append(self._seconds(self.imports))
            doctor.append(self._seconds(self.doctor))
        return imports[1:], doctor[1:]

    def _seconds(self, command: Sequence[str]) -> float:
        started = time.perf_counter()
        subprocess.run(
            command,
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return time.perf_counter() - started


def doctor(folder: Path, ollama: str, aider: str) -> Doctor:
    """The real Aider, and an Ollama that answers."""
    place = bench_place(folder, ollama)
    env = place.env([])
    del env["PYTHONPATH"]  # the stand-in for Aider is there
    program = place.guarded()[:3]  # the guard without its arguments
    words = ["--aider", aider, "doctor", "--json", "--", "--model", "ollama_chat/small"]
    python = str(Path(aider).resolve().parent / "python")
    imports = [python, "-c", "import aider.main"]
    return Doctor(imports, [*program, *words], env, place.work)
