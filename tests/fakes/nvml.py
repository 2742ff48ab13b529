"""A fake NVIDIA driver (nvml.c), built with ``cc``, for the real bindings in another process."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

GIB = 1024**3
NO_PERMISSION, NOT_SUPPORTED, DRIVER_NOT_LOADED, GPU_IS_LOST = 4, 3, 9, 15  # nvml.h

_SOURCE = Path(__file__).with_name("nvml.c")


@dataclass(frozen=True)
class Card:
    """One card; the codes are what the driver answers to the two questions."""

    total_bytes: int = 24 * GIB
    used_bytes: int = 1 * GIB
    name: str = "NVIDIA Fake 3090"
    memory_code: int = 0
    processes_code: int = 0
    compute: tuple[tuple[int, int | None], ...] = ()
    """Process ids with the bytes they hold; None where the driver does not tell."""
    graphics: tuple[tuple[int, int | None], ...] = ()
    use: tuple[int, int] | None = None
    """How busy it is in per cent, and the bits of why its clocks are low; None where the driver does not tell."""


class FakeDriver:
    """The library in a folder of its own, and the file with what it shall say."""

    def __init__(self, folder: Path, *, old: bool = False) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler (cc) to build the fake NVIDIA driver with")
        library = folder / "libnvidia-ml.so.1"
        options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        options += ["-DOLD_DRIVER"] if old else []
        subprocess.run([compiler, *options, "-o", library, _SOURCE], check=True)
        self._folder = folder
        self._state = folder / "state"
        self.write()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that shall see this driver."""
        path = os.pathsep.join(filter(None, (str(self._folder), os.getenv("LD_LIBRARY_PATH"))))
        return {**os.environ, "LD_LIBRARY_PATH": path, "FAKE_NVML_STATE": str(self._state)}

    def write(self, *cards: Card, init_code: int = 0, also: Iterable[str] = ()) -> None:
        """Say what the driver shall say from now on; ``also`` takes lines such as ``hang init``."""
        lines = [f"init {init_code}", *also]
        for index, card in enumerate(cards):
            lines.append(
                f"gpu {card.memory_code} {card.total_bytes} {card.used_bytes}"
                f" {card.processes_code} {card.name}"
            )
            if card.use is not None:
                lines.append(f"use {index} {card.use[0]} {card.use[1]}")
            for kind, table in (("compute", card.compute), ("graphics", card.graphics)):
                for pid, used_bytes in table:
                    lines.append(
                        f"{kind} {index} {pid} {'na' if used_bytes is None else used_bytes}"
                    )
        draft = self._state.with_suffix(".new")
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self._state)
