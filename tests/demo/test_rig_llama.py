"""Where the server of llama.cpp finds its model, and the error when it does not start."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from aider_guard.demo.layout import Rig, RigError
from aider_guard.demo.llama_server import model_file, private_llama_server

LAYERS = [
    {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:1"},
    {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:2"},
]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A rig with one model, and a Python that does as ``python.sh`` says."""
    manifest = tmp_path / "models" / "manifests" / "registry.ollama.ai" / "library" / "small"
    manifest.mkdir(parents=True)
    (manifest / "latest").write_text(json.dumps({"layers": LAYERS}))
    (tmp_path / "aider" / "bin").mkdir(parents=True)
    return Rig(tmp_path / "aider", tmp_path / "ollama", tmp_path / "models")


def python(rig: Rig, script: str) -> None:
    program = rig.aider / "bin" / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_the_models_file_is_the_layer_with_the_weights(rig: Rig) -> None:
    """Ollama names blobs by their digests."""
    assert model_file(rig.models) == rig.models / "blobs" / "sha256-2"


def test_the_server_is_given_model_and_window_and_ends_with_its_stdin(
    rig: Rig, tmp_path: Path
) -> None:
    """Its first line is the address."""
    python(rig, f'echo "$2 $3" > {tmp_path}/words; echo http://127.0.0.1:7; cat; echo over >&2')
    log = tmp_path / "log"
    with private_llama_server(tmp_path, rig, window_tokens=4096, log=log) as url:
        assert url == "http://127.0.0.1:7"
    assert log.read_text() == "over\n"
    assert (tmp_path / "words").read_text() == f"{rig.models}/blobs/sha256-2 4096\n"


@pytest.mark.parametrize("script", ["exit 1", "echo no address"])
def test_a_server_that_does_not_start_is_said(rig: Rig, tmp_path: Path, script: str) -> None:
    """With where its last words are."""
    python(rig, script)
    with (
        pytest.raises(RigError, match="did not start; its log is"),
        private_llama_server(tmp_path, rig, window_tokens=1, log=tmp_path / "log"),
    ):
        pytest.fail("it was taken for running")
