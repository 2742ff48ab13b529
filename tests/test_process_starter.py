"""Helpers run the code that was loaded at the start, whatever is on the disk by then."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aider_guard.line_process import LineProcess
from aider_guard.process_starter import NotLoadedError, ProcessStarter, forbid_loading, may_change

CAP_SECONDS = 30.0
HELPER = """
import os, sys
def main():
    print(sys.argv[1:], os.environ.get("GIVEN"), flush=True)
    for line in sys.stdin:
        try:
            if line == "import\\n":
                import late_module
            print(WORD, flush=True)
        except ImportError as error:
            print(error, flush=True)
WORD = "as it was"
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the air gap")


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with a helper, in a folder of the user's, where Python finds it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "some_helper.py"
    path.write_text(HELPER)
    return path


@pytest.fixture
def starter(helper: Path) -> Iterator[ProcessStarter]:
    """A starter that has loaded the helper."""
    with ProcessStarter([helper.stem]) as started:
        assert started.has_loaded(CAP_SECONDS)
        yield started


def answer(process: LineProcess, line: bytes = b"") -> str:
    if line:
        process.ask(line)
    said = process.answer(CAP_SECONDS)
    assert said is not None
    return said.decode()


def wait_for_end(process: LineProcess) -> None:
    """Until its status is known."""
    until = time.monotonic() + CAP_SECONDS
    while process._process.poll() is None and time.monotonic() < until:
        process.answer(0.05)


@pytest.mark.usefixtures("starter")
def test_a_changed_file_changes_no_helper(helper: Path) -> None:
    """Neither the first nor one that is started again; each has its arguments and variables."""
    helper.write_text(HELPER.replace("as it was", "changed"))
    for number in ("1", "2"):
        process = LineProcess(helper.stem, number, environment={**os.environ, "GIVEN": number})
        assert answer(process) == f"['{number}'] {number}"
        assert answer(process, b"\n") == "as it was"
        os.kill(process.pid, signal.SIGKILL)
        wait_for_end(process)
        assert process._process.poll() == -signal.SIGKILL
        process.close()


@pytest.mark.usefixtures("starter")
def test_no_other_module_is_loaded(helper: Path) -> None:
    """One that a program inside puts in Python's way later."""
    (helper.parent / "late_module.py").write_text("raise SystemExit")
    os.utime(helper.parent)  # a folder's time tells Python to look again
    process = LineProcess(helper.stem)
    answer(process)
    assert answer(process, b"import\n") == "late_module was not loaded before Aider began"
    process.close()


def test_a_helper_that_is_asked_for_early_comes_when_its_code_is_loaded(helper: Path) -> None:
    """And one that is given up before is nothing that could be killed by mistake."""
    with ProcessStarter(["asyncio", helper.stem]):
        given_up, process = LineProcess(helper.stem), LineProcess(helper.stem)
        given_up.close()
        assert answer(process) == "[] None"
        assert process.pid > 0
        process.close()


def test_a_killed_starter_is_no_reason_to_start_from_the_disk(
    starter: ProcessStarter, helper: Path
) -> None:
    """The guard goes on without helpers, as after any that cannot be started."""
    process = LineProcess(helper.stem)
    answer(process)
    starter._process.kill()
    starter._process.wait()
    process.close()
    with pytest.raises(OSError, match="refused"):
        LineProcess(helper.stem)


def test_helpers_end_with_the_guard(helper: Path) -> None:
    """The starter and what it started: their stdin is closed."""
    with ProcessStarter([helper.stem]) as started:
        process = LineProcess(helper.stem)
        answer(process)
        pid = started._process.pid
    process.close_pipes()
    assert not Path(f"/proc/{pid}").exists()


def test_what_this_user_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, or a folder above it; for such modules no import works, for others as before."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_not_loaded.py").write_text("")
    assert may_change(str(tmp_path / "mine_not_loaded.py"))
    assert not may_change("/proc/1/stat") or os.geteuid() == 0
    forbid_loading()
    with pytest.raises(NotLoadedError, match="mine_not_loaded was not loaded"):
        __import__("mine_not_loaded")
    with pytest.raises(ModuleNotFoundError):
        __import__("no_such_module")
