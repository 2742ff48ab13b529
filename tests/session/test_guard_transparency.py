"""A person sees and does the same through ``aider-guard`` as without it: byte for byte, on the real command line.

Every test starts ``python -m aider_guard`` on an Aider that becomes a small program (``guards.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest
from session.guards import Place
from session.ptys import child

from aider_guard.config import Config
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.environment import cloud_addresses, local_environment
from aider_guard.launch.routes import DoorAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BYTES = bytes(range(256))
ODD_SIZE = (33, 97, 970, 660)
RUNS = 50
"""A relay that loses an end loses it in every twelfth run or oftener: fifty find it in 99 of 100 attempts."""
OF_THE_GUARD = {"AIDER_GUARD": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def counted(size: int) -> bytes:
    return b"".join(b"%09d " % i for i in range(size // 10))


@pytest.fixture(params=["settings", "problem"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """With an Aider that says what it will use, and with one that cannot."""
    return Place.make(tmp_path / "place", request.param)


@pytest.fixture
def talking(tmp_path: Path) -> Place:
    """With an Aider that says what it will use."""
    return Place.make(tmp_path / "place")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_last_megabyte_before_the_exit(talking: Place) -> None:
    """The megabyte that is written just before the exit is complete, in each of the runs."""
    program = child("prints_1mb_and_exits")
    whole = 0
    for _ in range(RUNS):
        with talking.person(program) as person:
            assert person.finish() == 0
            whole += person.shown == counted(1_000_000)

    assert whole == RUNS


def test_the_end_of_the_output_on_a_slow_terminal(talking: Place) -> None:
    """A terminal that takes seconds for the last of the output, as over a slow line, gets all of it."""
    with talking.person(child("prints_1mb_and_exits", 200_000)) as person:
        person.until(b"000000001")
        while person.process.poll() is None:
            time.sleep(0.08)  # 50 kB/s
            with contextlib.suppress(BlockingIOError):
                person.shown += os.read(person.master, 4096)
        assert person.finish() == 0
        assert person.shown == counted(200_000)


def test_every_byte_typed_arrives(place: Place) -> None:
    """All byte values typed reach a program that has the whole terminal, once each, alone and together."""
    with place.person(child("echo_raw", 512)) as person:
        person.until(b"READY")
        for value in BYTES:
            person.type(bytes([value]))
        person.type(BYTES)
        assert person.finish() == 0
        assert person.shown == b"READY" + BYTES + BYTES


def test_a_large_paste_while_the_program_prints(place: Place) -> None:
    """A megabyte pasted while the program prints it back, unread for a while, is complete."""
    paste = b"\x1b[200~" + counted(1_000_000) + b"\x1b[201~"
    with place.person(child("echo_raw", len(paste))) as person:
        person.until(b"READY")
        typed = person.paste_without_looking(paste)
        person.type(paste[typed:])
        assert person.finish() == 0
        assert person.shown == b"READY" + paste


def test_the_size(talking: Place) -> None:
    """The program has the terminal's size from the start and at each resize, pixels included."""
    with talking.person(child("sigwinch_report"), size=(31, 99, 800, 600)) as person:
        person.until(b"START 31 99 800 600\r\n")
        for size in [(40, 132, 1320, 800), (40, 132, 1300, 800), (5, 20, 0, 0)]:
            person.resize(size)
            person.until(b"WINCH %d %d %d %d\r\n" % size)
        person.type(b"q")
        assert person.finish() == 0


def test_a_resize_during_the_start(talking: Place) -> None:
    """A resize while the guard is still starting is not lost."""
    with talking.person(child("sigwinch_report"), size=(31, 99, 0, 0)) as person:
        before = person.attributes()
        person.until(lambda: person.attributes() != before)
        person.resize((40, 132, 1320, 800))
        person.until(b" 40 132 1320 800\r\n")
        person.type(b"q")
        assert person.finish() == 0


def test_type_ahead(place: Place) -> None:
    """What is typed before the guard started and while it starts reaches the program, in order."""
    with place.person(child("echo_raw", 11), type_ahead=b"git ") as person:
        before = person.attributes()
        person.type(b"sta")
        person.until(lambda: person.attributes() != before)
        person.type(b"tus\n")
        assert person.finish() == 0
        assert person.shown.endswith(b"READYgit status\n")


def test_type_ahead_for_the_shell(talking: Place) -> None:
    """What is typed after the end is there for the next reader of the terminal."""
    with talking.person(child("exits_with", 0)) as person:
        assert person.finish() == 0
        person.type(b"ls\n")
        assert os.read(person.tty, 100) == b"ls\n"


def test_every_byte_is_shown(place: Place) -> None:
    """All byte values that the program writes reach the terminal, in every neighbourhood tried."""
    expected = b"".join(bytes((i * step) % 256 for i in range(256)) for step in range(1, 64, 2))
    with place.person(child("dumps_bytes")) as person:
        assert person.finish() == 0
        assert person.shown[: len(expected)] == expected


SAME = {
    "stty -a": ["stty", "-a"],
    "colours left on": ["printf", r"\033[1;31mred and bold"],
    "long lines": ["sh", "-c", "seq -s ' ' 2000; printf 'no newline'"],
    "a pipe that breaks": ["sh", "-c", "seq 100000 | head -n 3; cat /proc/self/limits"],
}


@pytest.mark.parametrize("size", [(24, 80, 0, 0), (5, 20, 0, 0)], ids=["24x80", "5x20"])
@pytest.mark.parametrize("program", SAME.values(), ids=SAME.keys())
def test_the_same_as_without_a_guard(
    program: list[str], size: tuple[int, int, int, int], talking: Place
) -> None:
    """Programs print the same bytes and end the same, also on a tiny terminal with the user's own odd modes."""
    endings = []
    for command in (talking.plain(), talking.guarded()):
        with talking.person(program, command, size=size, prepare=_odd_modes) as person:
            endings.append((person.finish(), bytes(person.shown)))

    assert endings[0] == endings[1]
    assert endings[0][1]


def _odd_modes() -> None:
    modes = termios.tcgetattr(0)
    modes[3] &= ~termios.ECHOCTL
    modes[6][termios.VERASE] = b"\x08"
    termios.tcsetattr(0, termios.TCSANOW, modes)


def test_what_the_program_finds_is_what_it_found_without_a_guard(place: Place) -> None:
    """Folder, modes, signals, open files and leadership are the same; the environment gets what keeps it local."""
    reports: list[dict[str, Any]] = []
    for command in (place.plain(), place.guarded()):
        with place.person(child("reports_start", "a b"), command, size=ODD_SIZE) as person:
            assert person.finish() == 0
            reports.append(json.loads(person.shown))
            reports[-1]["env"].pop("AIDER_GUARD_TEST_PERSON")

    plain, guarded = reports
    environment = guarded.pop("env")
    added = dict(OF_THE_GUARD)
    if place.form == "settings":
        nowhere = environment["HTTP_PROXY"]
        added |= local_environment(Config(), AiderSettings(), place.ollama, nowhere).set
        door, secret = environment["OLLAMA_API_BASE"].rsplit("/", 1)
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+", door)
        address = DoorAddress(int(door.rpartition(":")[2]), secret)
        added |= cloud_addresses(Config(), AiderSettings(), place.ollama, address)
        assert len(secret) >= 32
        added |= {"OLLAMA_API_BASE": f"{door}/{secret}"}
        added |= {"LLAMAFILE_API_BASE": f"{door}/{secret}/llamafile"}
    assert environment == {**plain.pop("env"), **added}
    assert guarded == plain


def test_arguments_are_handed_on_untouched(talking: Place) -> None:
    """Everything after ``--`` is Aider's, odd words included, before what the session adds."""
    words = ["--read", "two words.md", "", "two\nlines.md", "--alias=ü:x"]
    called = _called_with(talking, words)

    assert called[: len(words)] == words
    assert "--chat-history-file" in called[len(words) :]


def test_names_after_the_end_of_the_options(talking: Place) -> None:
    """After a ``--`` of Aider's there are names of files only; what the session adds comes before it."""
    called = _called_with(talking, ["--read", "a", "--", "--odd name"])

    assert called[-2:] == ["--", "--odd name"]
    assert "--chat-history-file" in called


def _called_with(place: Place, words: list[str]) -> Any:
    with place.person(child("exits_with", 0), place.guarded(*words)) as person:
        assert person.finish() == 0
    return json.loads((place.work / "aider.argv").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("key", "status"), [(b"\x03", 130), (b"\x1c", 131)], ids=["^C", r"^\ "])
def test_keys_that_end_a_program(key: bytes, status: int, place: Place) -> None:
    r"""^C and ^\ are the program's: in its own terminal modes they end it as without a guard."""
    with place.person(["sh", "-c", "echo READY; exec cat"]) as person:
        before = person.attributes()
        person.until(b"READY\r\n")
        person.type(key)
        assert person.finish() == status
        assert person.shown == b"READY\r\n" + {b"\x03": b"^C", b"\x1c": b"^\\"}[key]
        assert person.attributes() == before


def test_the_end_of_input_reaches_the_program(talking: Place) -> None:
    """^D ends the input of a program that reads lines."""
    with talking.person(["sh", "-c", "echo READY; cat; echo over"]) as person:
        person.until(b"READY\r\n")
        person.type(b"line\n\x04")
        assert person.finish() == 0
        assert person.shown == b"READY\r\nline\r\nline\r\nover\r\n"


def test_variables_that_name_the_terminal_name_the_programs_own(talking: Place) -> None:
    """Such as GPG_TTY, where gpg-agent asks for a passphrase; one that names another terminal stays."""
    program = ["sh", "-c", 'test "$GPG_TTY" = "$(tty)" && echo "same, $OTHER_TTY"']
    named = ["sh", "-c", 'GPG_TTY=$(tty) OTHER_TTY=/dev/pts/x exec "$@"', "sh"]
    with talking.person(program, [*named, *talking.guarded()]) as person:
        assert person.finish() == 0
        assert person.shown == b"same, /dev/pts/x\r\n"


def test_suspending_in_a_shell(talking: Place) -> None:
    """^Z gives the shell its terminal back, with its modes; ``fg`` goes on where it was."""
    if not shutil.which("bash"):
        pytest.skip("no bash, whose job control is used")
    shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
    program = ["sh", "-c", "echo READY; exec cat"]
    with talking.person(program, shell, env={"PS1": "$ "}) as person:
        person.until(b"$ ")
        before = person.attributes()
        person.type(shlex.join(talking.guarded()).encode() + b"\n")
        person.until(b"READY\r\n")
        person.type(b"one\n")
        person.until(b"one\r\none\r\n")
        person.type(b"\x1a")
        person.until(b"Stopped")
        person.until(lambda: person.attributes() == before)
        person.until(lambda: person.shown.endswith(b"$ "))
        del person.shown[:]
        person.type(b"fg\n")
        person.until(lambda: person.attributes() != before)
        person.type(b"two\n")
        person.until(b"two\r\ntwo\r\n")
        person.type(b"\x04")
        person.until(b"\n$ ")
        assert person.attributes() == before
        person.type(b"exit\n")
        assert person.finish() == 0


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """The command line of a tmux server of our own."""
    if not shutil.which("tmux"):
        pytest.skip("no tmux")
    config = tmp_path / "tmux.conf"
    config.write_text("set -g status off\nset -g default-shell /bin/sh\n")

    def command(*words: str) -> list[str]:
        return ["tmux", "-S", str(tmp_path / "s"), "-f", str(config), *words]

    yield command
    subprocess.run(command("kill-server"), check=False, stderr=subprocess.DEVNULL)


def test_in_tmux(talking: Place, tmux: Callable[..., list[str]]) -> None:
    """In a tmux pane it starts, takes keys, follows a resize, and ends with the pane usable."""
    line = f"{shlex.join(talking.guarded())}; echo ended $?; cat"
    command = tmux("new-session", line)
    with talking.person(child("sigwinch_report"), command, size=(24, 80, 800, 480)) as person:
        person.until(b"START 24 80 ")
        person.resize((15, 60, 600, 300))
        person.until(b"15 60 ")
        subprocess.run(tmux("send-keys", "q"), check=True)
        person.until(b"ended 0")
        person.type(b"usable\r")
        person.until(b"usable\r\nusable")
        screen = subprocess.run(tmux("capture-pane", "-p"), check=True, capture_output=True).stdout
        person.type(b"\x04")
        assert person.finish() == 0
        person.wait_for_none_left()

    shown = (line for line in screen.decode().splitlines() if "nothing tried to leave" not in line)
    lines = [line.split() for line in shown if line]
    assert [line[:3] for line in lines[-5:]] == [
        ["START", "24", "80"],
        ["WINCH", "15", "60"],
        ["ended", "0"],
        ["usable"],
        ["usable"],
    ]


def test_two_guards_at_once(talking: Place) -> None:
    """Two sessions side by side have a terminal, keys and a folder of their own each."""
    with talking.person(child("echo_raw", 3)) as one, talking.person(child("echo_raw", 3)) as two:
        one.until(b"READY")
        two.until(b"READY")
        one.type(b"one")
        two.type(b"two")
        assert (one.finish(), two.finish()) == (0, 0)
        assert (bytes(one.shown), bytes(two.shown)) == (b"READYone", b"READYtwo")

    assert len(talking.sessions) == 2
