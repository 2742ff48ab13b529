"""``doctor --report`` over a real Aider: what it reads in files, variables and arguments is not shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aider_guard.demo.layout import Rig

SECRETS = ("dotenv-91", "yaml-92", "variable-93", "flag-94", "pass-95", "settings-96", "grace")


@pytest.mark.e2e
def test_no_secret_is_in_a_report(rig: Rig, tmp_path: Path) -> None:
    """Of a `.env`, the two settings files, the environment, an address, and the command line."""
    repo = tmp_path / "grace" / "till"
    repo.mkdir(parents=True)
    (repo / ".env").write_text("OPENAI_API_KEY=dotenv-91\nAIDER_WEAK_MODEL=gpt-4o\n")
    (repo / ".aider.conf.yml").write_text("anthropic-api-key: yaml-92\n")
    (repo / ".aider.model.settings.yml").write_text(
        "- name: ollama_chat/x\n  extra_params:\n    api_key: settings-96\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(repo.parent),
        "DB_PASSWORD": "variable-93",
        "OLLAMA_API_BASE": "http://grace:pass-95@127.0.0.1:9",
    }
    guard = (sys.executable, "-m", "aider_guard", "--aider", str(rig.aider_command))
    aider = ("--model", "ollama_chat/x", "--api-key", "gemini=flag-94", "--no-git")
    done = subprocess.run(
        [*guard, "doctor", "--report", "--", *aider],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert [secret for secret in SECRETS if secret in done.stdout] == []
    assert "ANTHROPIC_API_KEY, GEMINI_API_KEY and OPENAI_API_KEY are set" in done.stdout
    assert "\nlitellm " in done.stdout
