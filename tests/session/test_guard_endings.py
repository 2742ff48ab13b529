"""However a guarded session ends, the terminal is as before, no process is left, and one sentence says what was wrong.

Every test starts ``python -m aider_guard`` on an Aider that becomes a small program (``guards.py``).
"""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from airgap.layers import best_of
from session.guards import CRASHING, NOTICE, Place, prompts
from session.ptys import CAP_SECONDS, Person, child

if TYPE_CHECKING:
    from pathlib import Path

seccomp = pytest.mark.skipif(
    best_of("seccomp").layer != "seccomp",
    reason="this system allows no filter with a listener",
)
RESET = b"\x1b[?2004l\x1b[?1049l\x1b[0m\x1b[?25h"
"""What undoes the modes that ``leaves_modes_on`` sets."""


@pytest.fixture(params=["settings", "problem"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """With an Aider that says what it will use, and with one that cannot."""
    return Place.make(tmp_path / "place", request.param)


@pytest.fixture
def talking(tmp_path: Path) -> Place:
    """With an Aider that says what it will use."""
    return Place.make(tmp_path / "place")


def gone(person: Person) -> None:
    """Wait until nothing of it runs."""
    person.wait_for_none_left()


def pid_of_modes(person: Person) -> int:
    """The process of ``leaves_modes_on``, once it has set them."""
    person.until(b"READY ")
    person.until(b"\r\n")
    return int(person.shown.split(b"READY ")[1].split()[0])


@pytest.mark.parametrize(
    ("status", "outside"), [(0, 0), (7, 7), (255, 255), (-15, 143), (-9, 137), (-2, 130)]
)
def test_the_exit_status(status: int, outside: int, place: Place) -> None:
    """The status is Aider's, or 128 + the signal that killed it before it showed a prompt; nothing is added."""
    with place.person(child("exits_with", status)) as person:
        before = person.attributes()
        assert person.finish() == outside
        assert person.shown == b"READY\r\n"
        assert person.attributes() == before
        gone(person)


@seccomp
def test_a_daemon_that_ends_is_gone(talking: Place) -> None:
    """Where the guard takes orphans it waits for them at once, and the status is the program's."""
    with talking.person(child("waits_for_daemon"), talking.guarded(layers=["seccomp"])) as person:
        assert person.finish() == 7
        gone(person)
    done = subprocess.run(
        talking.guarded("--message", "hi", layers=["seccomp"]),
        env=talking.env(child("waits_for_daemon")),
        cwd=talking.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7, done.stderr


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_killed(signum: int, place: Place) -> None:
    """The modes that a killed program left on are reset; the terminal's own are as before."""
    with place.person(child("leaves_modes_on")) as person:
        before = person.attributes()
        os.kill(pid_of_modes(person), signum)
        assert person.finish() == 128 + signum
        assert person.attributes() == before
        assert person.shown.endswith(RESET)
        gone(person)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("program", ["leaves_modes_on", "ignores_term"])
def test_a_guard_that_is_asked_to_end(program: str, signum: int, place: Place) -> None:
    """SIGTERM and SIGHUP end the guard and its program, one that ignores them too."""
    with place.person(child(program)) as person:
        before = person.attributes()
        person.until(b"READY")
        person.until(b"\r\n")
        assert person.attributes() != before
        os.kill(person.process.pid, signum)
        assert person.finish() == 128 + signum
        assert person.attributes() == before
        assert person.shown.endswith(RESET) or program == "ignores_term"
        gone(person)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_guard_that_is_asked_to_end_while_it_starts(signum: int, talking: Place) -> None:
    """A signal that comes as early as the terminal is the guard's ends it just the same."""
    with talking.person(child("leaves_modes_on")) as person:
        before = person.attributes()
        person.until(lambda: person.attributes() != before)
        os.kill(person.process.pid, signum)
        assert person.finish() == 128 + signum
        assert person.attributes() == before
        gone(person)


def test_a_guard_that_is_killed(place: Place) -> None:
    """After kill -9 of the guard its program loses the terminal, and everything ends."""
    with place.person(child("leaves_modes_on")) as person:
        pid_of_modes(person)
        person.process.kill()
        assert person.finish() == -signal.SIGKILL
        gone(person)


def used_seconds(pid: int) -> float:
    """Processor time of a process and of all below it, so far."""
    seconds = 0.0
    guard = psutil.Process(pid)
    for process in (guard, *guard.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:4])
    return seconds


@pytest.mark.parametrize("program", ["leaves_modes_on", "ignores_term"])
def test_a_terminal_that_hangs_up(program: str, talking: Place) -> None:
    """Closing the terminal ends the guard and its program, without spinning."""
    with talking.person(child(program)) as person:
        person.until(b"READY")
        # Its start is not counted, nor what its children have used: they are its own once they are waited for.
        started = (b"models_chosen", b"memory_read", b"server_read", b"door_opened")
        person.until(lambda: all(b'"%b"' % event in talking.journal() for event in started))
        before = used_seconds(person.process.pid)
        person.hang_up()
        status, cpu_seconds = person.wait()
        person.wait_for_none_left()

    assert status == 128 + signal.SIGHUP
    assert cpu_seconds - before < 0.5


FAULTS = {
    "when the program writes": child("ignores_term"),
    "when it begins": child("leaves_modes_on"),
    "when it ends": child("exits_with", 0),
}


@pytest.mark.parametrize(("where", "program"), FAULTS.items(), ids=FAULTS.keys())
def test_a_fault_of_the_guards_own(where: str, program: list[str], place: Place) -> None:
    """A crash inside the guard is reported in one sentence, once the terminal has its modes again; the status is 70."""
    command = [sys.executable, "-c", CRASHING[where], *place.guarded()[3:]]
    with place.person(program, command) as person:
        before = person.attributes()
        assert person.finish() == 70
        assert person.attributes() == before
        gone(person)
    message = bytes(person.shown).partition(NOTICE)[2]

    assert message.count(b"\n") == message.count(b"\r\n") == 1
    assert b"Traceback" not in person.shown


SENTENCES = {
    "no Aider": (("--aider", "no-such-aider"), {}, 78, b"'no-such-aider'"),
    "no Python script": (("--aider", "/bin/sh"), {}, 78, b"/bin/sh is not a Python script"),
    "no interpreter": (("--aider", "{folder}/stale"), {}, 78, b"python-of-old cannot be started"),
    "no state folder": ((), {"AIDER_GUARD_STATE_DIR": "/dev/null/x"}, 78, b"/dev/null/x"),
    "a wrong setting": (("--warn-at", "much"), {}, 64, b"warn-at"),
}


@pytest.mark.parametrize(
    ("options", "env", "status", "named"), SENTENCES.values(), ids=SENTENCES.keys()
)
def test_what_cannot_be_started(
    options: tuple[str, ...], env: dict[str, str], status: int, named: bytes, talking: Place
) -> None:
    """What stops the start is one sentence that names it; the terminal is untouched."""
    stale = talking.folder / "stale"
    stale.write_text("#!/opt/gone/bin/python-of-old\n")
    stale.chmod(0o755)
    options = tuple(option.format(folder=talking.folder) for option in options)
    command = talking.guarded(options=options)
    with talking.person(child("exits_with", 0), command, env=env) as person:
        before = person.attributes()
        assert person.finish() == status
        assert person.attributes() == before
        gone(person)
    assert person.shown.startswith(b"aider-guard: ")
    assert person.shown.count(b"\r\n") == 1
    assert named in person.shown


@pytest.mark.parametrize("stdout_is_pipe", [True, False], ids=["from and to pipes", "from a pipe"])
def test_not_a_terminal(stdout_is_pipe: bool, talking: Place) -> None:
    """Without a terminal the program inherits the guard's own files, and its status is the status."""
    program = ["sh", "-c", "cat; test -t 0 || echo no terminal; exit 7"]
    command = ["sh", "-c", f"printf 'in\\n' | {shlex.join(talking.guarded())}"]
    if stdout_is_pipe:
        command[-1] += "; echo ended $? | cat"
        done = subprocess.run(
            command,
            env=talking.env(program),
            cwd=talking.work,
            check=True,
            capture_output=True,
            timeout=CAP_SECONDS,
        )
        assert (done.stdout, done.stderr) == (b"in\nno terminal\nended 7\n", b"")
    else:
        with talking.person(program, command) as person:
            before = person.attributes()
            assert person.finish() == 7
            assert person.attributes() == before
            assert person.shown == b"in\r\nno terminal\r\n"
            gone(person)


def test_output_into_a_pipe(talking: Place) -> None:
    """With only the output in a pipe, the keys are still the program's own."""
    program = ["sh", "-c", "echo READY >&2; read line; echo got $line"]
    command = ["sh", "-c", f"{shlex.join(talking.guarded())} | sed s/got/piped/"]
    with talking.person(program, command) as person:
        person.until(b"READY\r\n")
        person.type(b"key\n")
        assert person.finish() == 0
        assert person.shown == b"READY\r\nkey\r\npiped key\r\n"


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_journal_that_cannot_grow(talking: Place) -> None:
    """When the journal cannot be written any more, one notice says so, and the session goes on to its end."""
    quiet = {"PYTHONDONTWRITEBYTECODE": "1"}  # it would be cut as well
    with talking.person(prompts(200), prepare=small_files, env=quiet) as person:
        before = person.attributes()
        assert person.finish() == 0
        assert person.attributes() == before
        assert person.shown.count(b"the journal cannot be written") == 1
        assert person.shown.count(b"prompt 199") == 1


def test_a_full_disk(tmp_path: Path) -> None:
    """The same on a disk that is full: a tiny file system of the guard's own."""
    place = Place.make(tmp_path / "place", "problem")
    mount = f"mount -t tmpfs -o size=8k,mode=700 none {shlex.quote(str(tmp_path / 'disk'))}"
    (tmp_path / "disk").mkdir()
    unshare = ["unshare", "-rm", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*unshare, mount], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    command = [*unshare, f"{mount} && exec {shlex.join(place.guarded())}"]
    env = {"AIDER_GUARD_STATE_DIR": str(tmp_path / "disk")}
    with place.person(prompts(200), command, env=env) as person:
        before = person.attributes()
        assert person.finish() == 0
        assert person.attributes() == before
        assert person.shown.count(b"the journal cannot be written") == 1
        assert NOTICE in person.shown
        assert person.shown.count(b"prompt 199") == 1


def test_a_state_folder_that_goes_away(place: Place) -> None:
    """Removing the state folder under a session harms neither the session nor its end."""
    with place.person(child("echo_raw", 1)) as person:
        before = person.attributes()
        person.until(b"READY")
        shutil.rmtree(place.state)
        person.type(b"x")
        assert person.finish() == 0
        assert person.attributes() == before
        assert b"Traceback" not in person.shown
        gone(person)


def test_an_unknown_encoding(talking: Place) -> None:
    """What is wrong in Aider's own settings is Aider's to say: the guard starts it all the same."""
    command = talking.guarded("--encoding", "no-such-encoding")
    with talking.person(child("exits_with", 1), command) as person:
        assert person.finish() == 1
        assert person.shown == b"READY\r\n"


def test_what_tried_to_leave_is_said_last(talking: Place) -> None:
    """One line, after all that the program wrote."""
    with talking.person(child("exits_with", 0)) as person:
        assert person.finish() == 0
        assert person.last_line == b"aider-guard: nothing tried to leave\r\n"
        assert person.shown == b"READY\r\n"
