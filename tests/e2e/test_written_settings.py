"""What ``aider-guard init --write`` wrote is what the real Aider runs with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from e2e.conftest import TODAY, windows_tokens
from e2e.emptying import empty

if TYPE_CHECKING:
    from pathlib import Path

    from aider_guard.demo.layout import Rig
    from aider_guard.demo.ollama_server import PrivateOllama

pytestmark = pytest.mark.servers(TODAY)
QUIET = ["--no-pretty", "--yes-always", "--no-check-update", "--no-analytics"]
LOCAL = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
CONF = ".aider.conf.yml"


def ran(argv: list[str], folder: Path, env: dict[str, str]) -> str:
    """Run a program to its end, which must be a good one; all it printed."""
    ended = subprocess.run(
        argv, cwd=folder, env={**env, **LOCAL}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def init(folder: Path, env: dict[str, str], *arguments: str) -> str:
    """Run ``aider-guard init``."""
    return ran([sys.executable, "-m", "aider_guard", "init", *arguments], folder, env)


def test_the_window_and_the_settings_arrive_in_a_turn(
    rig: Rig, ollama: PrivateOllama, terse: str, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """Aider says the settings of the file are its own, and Ollama loads the model with the window of the file."""
    users = f"# mine\nmodel: ollama_chat/{terse}\ndark-mode: true"
    (sample_repo / CONF).write_text(users)
    said = init(sample_repo, aider_env, "--vram", "8", "--write")
    conf = yaml.safe_load((sample_repo / CONF).read_text())
    (entry,) = yaml.safe_load((sample_repo / ".aider.model.settings.yml").read_text())
    window = entry["extra_params"]["num_ctx"]
    empty(ollama)
    before = len(ollama.log_path.read_text())
    shown = ran(
        [str(rig.aider_command), *QUIET, "--verbose", "--no-git", "--message", "/ask Say hello."],
        sample_repo,
        aider_env,
    )
    log = ollama.log_path.read_text()[before:]

    assert said.startswith("for 8 GiB of GPU memory")
    assert (sample_repo / CONF).read_text().startswith(users)
    for key, value in conf.items():
        assert re.search(rf"^  - {key.replace('-', '_')}: {re.escape(str(value))}$", shown, re.M), (
            key
        )
    assert f"Model: ollama_chat/{terse} with whole edit format" in shown
    assert set(windows_tokens(log)) == {window}


def test_settings_for_two_cards_are_taken_by_aider(
    rig: Rig, sample_repo: Path, aider_env: dict[str, str]
) -> None:
    """Architect mode with the editor and weak model that were written; nothing of the file is refused."""
    init(sample_repo, aider_env, "--vram", "2x24", "--write")
    conf = yaml.safe_load((sample_repo / CONF).read_text())
    # The models are not there: with this, Aider does not look for them.
    known = {
        conf[key]: {"max_input_tokens": 8192, "mode": "chat"} for key in ("model", "editor-model")
    }
    (sample_repo / ".aider.model.metadata.json").write_text(json.dumps(known))
    shown = ran(
        [
            str(rig.aider_command),
            *QUIET,
            "--no-show-model-warnings",
            "--no-show-release-notes",
            "--exit",
        ],
        sample_repo,
        aider_env,
    )

    shown = " ".join(shown.split())  # Aider breaks lines at 80 columns

    assert f"Main model: {conf['model']} with architect edit format" in shown
    assert f"Editor model: {conf['editor-model']} with editor-whole edit format" in shown
    assert f"Weak model: {conf['weak-model']}" in shown
    assert f"Repo-map: using {conf['map-tokens']} tokens, auto refresh" in shown


def test_a_second_init_finds_nothing_to_do(sample_repo: Path, aider_env: dict[str, str]) -> None:
    """On a real repository with a real server: the files stay as they are, and no kept line is reported."""
    init(sample_repo, aider_env, "--vram", "16", "--write")
    before = {path: path.read_bytes() for path in sample_repo.glob(".aider*")}
    said = init(sample_repo, aider_env, "--vram", "16", "--write")

    assert len(before) == 2
    assert {path: path.read_bytes() for path in sample_repo.glob(".aider*")} == before
    assert said.endswith("nothing to add\n")
    assert "your own settings" not in said
