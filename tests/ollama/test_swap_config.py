"""The window of a model that llama-swap has not started, from a configuration as its documents have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aider_guard.core.readings import Unavailable
from aider_guard.ollama.swap_config import configured_window, window_in_config

CONFIG = """
macros:
  latest: /opt/llama-server --port ${PORT}
  ctx: 24576
  with_window: "${latest} --ctx-size ${ctx}"
models:
  plain:
    cmd: |
      /opt/llama-server --port ${PORT}
      -c 8192
  by macro:
    cmd: ${with_window} -m 'a b.gguf'
  own macro:
    macros: {ctx: 4096}
    cmd: ${with_window} # small
  slots:
    cmd: ${latest} -c 16384 -np 2
  open:
    cmd: ${latest}
  unknown:
    cmd: ${latest} -c ${env.WINDOW}
  broken:
    cmd: "x 'y"
  none:
"""


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("plain", 8192),
        ("by macro", 24576),
        ("own macro", 4096),
        ("slots", 8192),
        *((name, None) for name in ("open", "unknown", "broken", "none", "not there")),
    ],
)
def test_the_window_of_each_way_to_write_it(model: str, window: int | None) -> None:
    """With macros, the model's own first; what cannot be resolved is no window."""
    assert window_in_config(CONFIG, model) == window


@pytest.mark.parametrize("text", ["", "7", "- a", "models: [", "models: {a: 7}", "a: &a [*a]"])
def test_a_text_that_is_no_configuration_has_none(text: str) -> None:
    """Nothing raises."""
    assert window_in_config(text, "a") is None


@pytest.mark.skipif(sys.platform != "linux", reason="a script cannot be named so elsewhere")
@pytest.mark.parametrize("option", [["-config", "my.yaml"], ["--config=my.yaml"], []])
def test_the_file_is_found_by_the_process_that_listens(tmp_path: Path, option: list[str]) -> None:
    """By its own command line and folder; another program that listens there is not asked for one."""
    (tmp_path / ("my.yaml" if option else "config.yaml")).write_text(CONFIG, encoding="utf-8")
    swap = tmp_path / "llama-swap"
    swap.symlink_to(os.path.realpath(sys.executable))
    words: list[str | Path] = [swap, "-S", "-c", "print(flush=True); input()", *option]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    with subprocess.Popen(words, cwd=tmp_path, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs under its name
        ours, unseen, unread = (
            SimpleNamespace(pid=os.getpid()),
            SimpleNamespace(pid=0),
            Unavailable("not read"),
        )
        listeners = (SimpleNamespace(pid=process.pid), ours, unseen, unread)
        base = "http://127.0.0.1:8080"
        windows = [configured_window(base, "plain", find=lambda *_, at=at: at) for at in listeners]
        process.kill()
    assert windows == [8192, None, None, None]
