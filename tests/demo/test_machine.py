"""A machine that cannot run or build the private programs is refused before anything is downloaded."""

from __future__ import annotations

import ctypes
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aider_guard.demo import machine, rig
from aider_guard.demo.layout import RigError, rig_in
from aider_guard.demo.machine import build_stub, check_platform, find_compiler
from aider_guard.demo.progress import Progress

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        ("AVX2", "needs a CPU with AVX2"),
        ("compiler", "C compiler is needed"),
        ("linker", "C compiler cannot build"),
        ("git", "git is needed"),
    ],
)
def test_nothing_is_downloaded_where_something_is_lacking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacking: str, sentence: str
) -> None:
    """Each requirement is looked for first, and nothing is left in the cache folder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in {"compiler": ["git"], "git": ["cc"]}.get(lacking, ["cc", "git"]):
        program = programs / name
        program.write_text(f"#!/bin/sh\nexit {1 if lacking == 'linker' else 0}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CC", raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags : fpu {'' if lacking == 'AVX2' else 'avx2'}\n")
    monkeypatch.setattr(machine, "CPUINFO", cpuinfo)
    monkeypatch.setattr(machine, "_answers", lambda _: False)
    monkeypatch.setattr(rig, "install_aider", lambda *_: pytest.fail("it was downloaded"))

    with pytest.raises(RigError, match=sentence):
        rig.ensure_rig(tmp_path / "cache", Progress(io.StringIO(), pulse_seconds=None))

    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("complete", "status"), [(False, 78), (True, 0)])
def test_make_asks_with_the_standard_library_only(
    tmp_path: Path, complete: bool, status: int
) -> None:
    """Without any package: no compiler is a sentence and 78, and none is needed for what is there."""
    rig_there = rig_in(tmp_path / "cache")
    if complete:
        for place in (rig_there.aider, rig_there.models, rig_there.checked):
            place.mkdir(parents=True)
    program = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r});"
        "runpy.run_module('aider_guard.demo.machine', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        env={"PATH": str(tmp_path), "AIDER_GUARD_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == status, ended.stderr
    assert ("aider-guard: " in ended.stderr) != complete
    assert "Traceback" not in ended.stderr
