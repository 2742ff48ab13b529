"""All three parts, installed and checked.

``python -m aider_guard.demo.rig`` installs those that are missing, and what only tests need.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aider_guard.demo.answers import check_answers
from aider_guard.demo.install import install_aider
from aider_guard.demo.layout import AIDER_VERSION, Rig, RigError, cache_folder, rig_in
from aider_guard.demo.llama_server import ensure_llama_server
from aider_guard.demo.machine import check_machine
from aider_guard.demo.model import ensure_gemma, install_models
from aider_guard.demo.ollama_files import install_ollama
from aider_guard.demo.parts import demo_runs, ensure_part
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.demo.parts import Build


def ensure_rig(cache: Path | None = None, progress: Progress | None = None) -> Rig:
    """Return the rig, installing into ``cache`` what is missing, with progress for each part.

    Raises:
        RigError: this machine cannot run it, a step failed, or a model answers nonsense; one
        sentence, and the program's last words. What is missing or unchecked then is so next time.
    """
    rig = rig_in(cache or cache_folder())
    if rig.is_complete():
        return rig
    shown = progress or Progress()
    with shown.step("Checking this machine") as step:
        check_machine(rig, step)
    with demo_runs(rig.aider.parent):
        for place, title, build in _parts(rig):
            if not place.is_dir():
                with shown.step(title) as step:
                    ensure_part(place, build, step)
    return rig


def _parts(rig: Rig) -> list[tuple[Path, str, Build]]:
    """Return each part's place, its title with the sizes in MB (download, disk), and what builds it."""
    return [
        (
            rig.aider,
            f"Installing Aider {AIDER_VERSION} (120 MB, 720 on disk)",
            lambda partial, step: install_aider(partial, rig.aider, step),
        ),
        (
            rig.ollama,
            "Installing Ollama 0.9.3 (160 MB, 120 on disk)",
            lambda partial, step: install_ollama(partial, rig.aider, step),
        ),
        (
            rig.models,
            "Installing SmolLM2-135M (93 MB, 243 on disk)",
            lambda partial, step: install_models(partial, rig.aider, rig.ollama, step),
        ),
        (
            rig.checked,
            "Checking an answer of each model",
            lambda partial, step: check_answers(partial, rig, step),
        ),
    ]


def main() -> int:
    """Install what is missing, with the server that only tests need, and say where the rig is."""
    try:
        with demo_runs(cache_folder()):
            rig = ensure_rig()
            ensure_llama_server(rig)
            ensure_gemma(rig)
    except RigError as error:
        sys.stderr.write(f"aider-guard: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(f"The rig is in {rig.aider.parent}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
