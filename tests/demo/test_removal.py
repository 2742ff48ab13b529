"""``aider-guard demo --remove`` takes away what the demo installed and left, and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aider_guard import cli
from aider_guard.demo import demo
from aider_guard.demo.layout import (
    AIDER_FOLDER,
    FORMER_FOLDERS,
    MODELS_FOLDER,
    OLLAMA_FOLDER,
    PART_FOLDERS,
    RigError,
)
from aider_guard.demo.parts import (
    DEMO_LOCK,
    LockHeldError,
    build_once,
    demo_runs,
    locked,
    part_lock,
)
from aider_guard.demo.progress import Progress
from aider_guard.demo.removal import SAMPLE_PREFIX, SAMPLES_FILE, note_sample, run_removal

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def part(cache: Path, name: str = AIDER_FOLDER) -> Path:
    """A part with one file of a megabyte that has two names."""
    build_once(cache / name, _fill, lambda: pytest.fail("the lock is held"))
    return cache / name


def _fill(partial: Path) -> None:
    (partial / "file").write_bytes(b"x" * 1_000_000)
    (partial / "again").hardlink_to(partial / "file")


def sample(parent: Path, name: str = "one") -> Path:
    """A folder as the demo makes it."""
    folder = parent / f"{SAMPLE_PREFIX}{name}"
    (folder / "till").mkdir(parents=True)
    (folder / "till" / "README.md").write_text("a till")
    return folder


def remove(cache: Path) -> str:
    """Remove, and return the output on stdout."""
    out = io.StringIO()
    assert run_removal(cache, out, Progress(io.StringIO(), pulse_seconds=None)) == 0
    return out.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_that_the_demo_installed_goes_and_all_else_stays(cache: Path, tmp_path: Path) -> None:
    """Parts of every version, locks, unfinished builds and noted repositories; it says how many MB."""
    places = [part(cache, name) for name in PART_FOLDERS]
    (cache / f".{AIDER_FOLDER}.x1.partial").mkdir()
    with demo_runs(cache):
        repositories = [sample(tmp_path, name) for name in ("one", "two words")]
        for repository in repositories:
            note_sample(cache, repository)
    for kept in ("vocabularies", "aider-0.99.0", ".other.x1.partial", "mine"):
        (cache / kept).mkdir()
    unnoted = sample(tmp_path, "unnoted")
    said = remove(cache)

    assert names(cache) == [".other.x1.partial", "aider-0.99.0", "mine", "vocabularies"]
    assert [path.exists() for path in (*places, *repositories)] == [False] * 8
    assert unnoted.is_dir()
    assert FORMER_FOLDERS
    assert f"Removed {cache / AIDER_FOLDER} (1.0 MB)\n" in said
    assert f"Removed {repositories[1]} (" in said
    assert said.endswith("6.0 MB in all\n")


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir, Path.touch])
def test_nothing_there_is_said(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """No cache folder, an empty one, or a file in its place: exit 0, and it is left as it was."""
    cache = tmp_path / "cache"
    make(cache)
    before = (cache.is_dir(), cache.exists())

    assert remove(cache) == "nothing to remove\n"
    assert (cache.is_dir(), cache.exists()) == before
    assert not cache.is_dir() or names(cache) == []


def test_a_second_time_there_is_nothing_left(cache: Path) -> None:
    """Also the locks are gone, and a part can be built again."""
    part(cache)
    remove(cache)

    assert (names(cache), remove(cache)) == ([], "nothing to remove\n")
    assert part(cache).is_dir()


def test_a_link_is_not_followed(cache: Path, tmp_path: Path) -> None:
    """A part that is a link, links in a part, and a repository behind a link."""
    outside = tmp_path / "outside"
    inner = sample(outside)
    (outside / "precious").write_text("mine")
    (cache / AIDER_FOLDER).symlink_to(outside)
    (part(cache, OLLAMA_FOLDER) / "link").symlink_to(outside)
    (cache / f".{MODELS_FOLDER}.x1.partial").symlink_to(outside)
    (tmp_path / "door").symlink_to(outside)
    link = tmp_path / f"{SAMPLE_PREFIX}link"
    link.symlink_to(outside)
    through = [tmp_path / "door" / inner.name, link]
    (cache / SAMPLES_FILE).write_text("".join(json.dumps(str(path)) + "\n" for path in through))
    said = remove(cache)

    assert names(outside) == [inner.name, "precious"]
    assert (inner / "till" / "README.md").is_file()
    assert not (cache / OLLAMA_FOLDER).exists()
    assert (cache / AIDER_FOLDER).is_symlink()
    assert f"Left alone: {cache / AIDER_FOLDER} (a link" in said


@pytest.mark.parametrize("name", [DEMO_LOCK, part_lock(Path(AIDER_FOLDER)).name, SAMPLES_FILE])
def test_a_link_in_the_place_of_a_file_is_not_followed(
    cache: Path, tmp_path: Path, name: str
) -> None:
    """Whatever is done, the file that it leads to keeps its content."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (cache / name).symlink_to(precious)
    with contextlib.suppress(RigError):  # refusing is as good as passing it over
        run_removal(cache, io.StringIO())
    with contextlib.suppress(RigError):
        note_sample(cache, sample(tmp_path))
    with contextlib.suppress(RigError), demo_runs(cache):
        pass

    assert precious.read_text() == "mine"


def test_what_is_noted_wrongly_is_passed_over(cache: Path, tmp_path: Path) -> None:
    """No other folder goes, whatever the file says, and what is right in it goes all the same."""
    repository, other = sample(tmp_path), tmp_path / "home"
    (other / f"{SAMPLE_PREFIX}x").mkdir(parents=True)
    (tmp_path / f"{SAMPLE_PREFIX}file").write_text("a file")
    wrong: list[object] = [
        *("/", "", ".", "..", str(other), str(tmp_path), f"{SAMPLE_PREFIX}one", "\0", "\ud800"),
        *(f"{repository}/..", f"{other}/{SAMPLE_PREFIX}x/../../home", f"{other}/{SAMPLE_PREFIX}x/"),
        *(str(tmp_path / f"{SAMPLE_PREFIX}file"), f"/{SAMPLE_PREFIX}{'x' * 9999}"),
        *(None, 7, [str(other)], {"path": str(other)}),
    ]
    lines = [*(json.dumps(one) for one in wrong), str(other), "{", "[" * 99_999, "\u00ff"]
    lines += [json.dumps(str(repository))] * 2
    (cache / SAMPLES_FILE).write_text("\n".join(lines), encoding="latin-1")
    remove(cache)

    assert not repository.exists()
    assert names(other) == [f"{SAMPLE_PREFIX}x"]
    assert (tmp_path / f"{SAMPLE_PREFIX}file").is_file()
    assert names(cache) == []


def test_a_running_demo_is_not_disturbed(cache: Path) -> None:
    """While one runs, or a part is built, a sentence and nothing is removed; two demos can run."""
    place = part(cache)
    with demo_runs(cache), demo_runs(cache), pytest.raises(RigError, match="A demo is running"):
        run_removal(cache, io.StringIO())
    with locked(part_lock(cache / MODELS_FOLDER)), pytest.raises(RigError, match="end that first"):
        run_removal(cache, io.StringIO())

    assert place.is_dir()
    assert remove(cache).startswith("Removed ")


def test_no_demo_starts_while_one_is_removed(cache: Path) -> None:
    """A demo is refused; once the lock's file is removed, only a new file's lock counts."""
    lock = cache / DEMO_LOCK
    with locked(lock):
        with pytest.raises(RigError, match="--remove` is at work"), demo_runs(cache):
            pytest.fail("it ran")
        lock.unlink()
        with demo_runs(cache), pytest.raises(LockHeldError), locked(lock):
            pytest.fail("two locks with one name")


def test_a_lock_on_a_file_that_is_removed_meanwhile_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """A removal may end between the opening of the file and its locking."""
    lock, flock = cache / DEMO_LOCK, fcntl.flock
    waited: list[bool] = []

    def late(descriptor: int, operation: int) -> None:
        if not waited:
            lock.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", late)
    with (
        locked(lock, while_waiting=lambda: waited.append(True)),
        pytest.raises(LockHeldError),
        locked(lock),
    ):
        pytest.fail("two locks with one name")

    assert waited == [True]


def test_an_interrupted_removal_leaves_no_half_of_a_part(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Ctrl-C in the middle: the part is not taken for complete, and the next removal finishes."""
    place = part(cache)

    def interrupted(folder: Path) -> None:
        (folder / "file").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remove(cache)
    half = [path for path in cache.iterdir() if path.name.endswith(".partial")]

    assert not place.exists()
    assert len(half) == 1
    assert remove(cache).startswith(f"Removed {half[0]} (1.0 MB)")
    assert names(cache) == []


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    """It asks nothing, starts no demo, and its cache folder is the environment's."""
    monkeypatch.setenv("AIDER_GUARD_CACHE_DIR", str(cache))
    monkeypatch.setattr(demo, "run_demo", lambda _session: pytest.fail("the demo started"))
    part(cache)

    assert cli.run(["demo", "--remove"]) == 0
    assert f"Removed {cache / AIDER_FOLDER}" in capsys.readouterr().out
    with demo_runs(cache):
        assert cli.run(["demo", "--remove"]) == 78
    assert capsys.readouterr().err.startswith("aider-guard: A demo is running")


@pytest.mark.parametrize("arguments", [["demo", "--delete"], ["demo", "--remove", "all"]])
def test_a_wrong_word_removes_nothing(
    monkeypatch: pytest.MonkeyPatch, cache: Path, arguments: list[str]
) -> None:
    """It is refused as everywhere, before anything is looked at."""
    monkeypatch.setenv("AIDER_GUARD_CACHE_DIR", str(cache))
    place = part(cache)

    assert cli.run(arguments) == 64
    assert place.is_dir()


def test_what_the_system_forbids_is_said(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The error has the system's reason, and only what was removed before is reported."""
    part(cache, AIDER_FOLDER)
    part(cache, OLLAMA_FOLDER)
    out, remove_tree = io.StringIO(), shutil.rmtree

    def forbidden(folder: Path) -> None:
        if OLLAMA_FOLDER in folder.name:
            raise PermissionError(13, "Permission denied", str(folder))
        remove_tree(folder)

    monkeypatch.setattr("shutil.rmtree", forbidden)
    with pytest.raises(RigError, match=r"Cannot remove all that .* Permission denied") as caught:
        run_removal(cache, out, Progress(io.StringIO(), pulse_seconds=None))

    assert caught.value.exit_code == 78
    assert f"Removed {cache / AIDER_FOLDER} (1.0 MB)\n1.0 MB" in out.getvalue()
    assert OLLAMA_FOLDER not in out.getvalue()


def test_a_killed_demo_holds_nothing(cache: Path) -> None:
    """The kernel lets go of the lock when the process ends, however it does."""
    program = (
        "import os, sys; from pathlib import Path; from aider_guard.demo.parts import demo_runs\n"
        "with demo_runs(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(cache)], check=False)

    assert names(cache) == [DEMO_LOCK]
    assert remove(cache) == "nothing to remove\n"
    assert names(cache) == []
