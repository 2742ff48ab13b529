"""Runs the ways in one box: a session of the guard for one layer and one user, and one whose guard is killed.

Runs as ``python -m airgap.battery.stage LAYER USER FOLDER``, and prints JSON lines: what was seen, reported and said.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap.battery import box, outside
from airgap.battery.catalogue import WAYS
from airgap.battery.way import (
    BYSTANDERS_PORT,
    FIRST_SERVER,
    OLLAMA_PORT,
    OUTSIDE,
    OUTSIDE_6,
    Numbered,
    words_in,
)
from airgap.layers import guard_program

from aider_guard.airgap import kernel
from aider_guard.core.egress import Layer

_HERE = Path(__file__).parent
_PREFIX = box.HOME / ".local" / "pipx" / "guard"
_WORK = box.HOME / "till"
_CAP_SECONDS = 240.0
_NO_DOOR = {"door": ("127.0.0.1", OLLAMA_PORT), "door_host": f"127.0.0.1:{OLLAMA_PORT}", "base": ""}
"""Without an air gap programs speak to Ollama itself."""
_FAKES = box.CHECKOUT / "tests" / "fakes" / "aider_like"


@dataclass(frozen=True)
class Stage:
    """What a session needs to know."""

    layer: str
    user: str
    uid: int

    @property
    def runtime(self) -> Path:
        """The user's folder for sockets."""
        return Path(f"/run/user/{self.uid}")

    @property
    def life(self) -> Path:
        """The pipe that each process which is left behind holds open."""
        return _WORK / ".life"

    def facts(self, attacks: str) -> dict[str, Any]:
        """What every way knows."""
        return {
            "out": OUTSIDE,
            "out6": OUTSIDE_6,
            "home": str(box.HOME),
            "runtime": str(self.runtime),
            "uid": self.uid,
            "prefix": str(_PREFIX),
            "package": str(next(_PREFIX.glob("lib/*/site-packages/aider_guard"))),
            "asking": str(outside.ASKING),
            "answering": str(outside.ANSWERING),
            "life": str(self.life),
            "attacks": attacks,
            **(_NO_DOOR if self.layer == "open" else {}),
        }

    def environment(self, batch: Path) -> dict[str, str]:
        """The whole environment of the guard."""
        child = [sys._base_executable, "-I", "-S", str(_HERE / "inside.py"), str(batch)]  # type: ignore[attr-defined]
        return {
            "PATH": f"{box.HOME}/.local/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(box.HOME),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime}/bus",
            "OLLAMA_API_BASE": f"http://127.0.0.1:{OLLAMA_PORT}",
            "PYTHONPATH": f"{_FAKES}:{box.HOME}/.pylib",
            "AIDER_LIKE_FORM": "settings",
            "AIDER_LIKE_CHILD": json.dumps(child),
            "AIDER_GUARD_TEST_WAIT_SECONDS": "15",
        }

    def command(self) -> list[str]:
        """The guard's command line: an installation of the user's own, in the box."""
        layers: tuple[Layer, ...] = () if self.layer == "open" else (self.layer,)  # type: ignore[assignment]
        program = [str(_PREFIX / "bin" / "python"), *guard_program(layers)[1:]]
        options = ["--network", "open"] if self.layer == "open" else []
        return [*program, "--aider", str(_WORK / "aider"), *options, "--probe", "never", "--", "--model",
                "ollama_chat/small"]  # fmt: skip


def _install(uid: int) -> None:
    """Make the user's home: an installation of the guard, an Aider, a working folder with pipes."""
    for folder in (
        _WORK,
        _PREFIX / "bin",
        box.HOME / ".local" / "bin",
        box.HOME / ".pylib",
        Path(f"/run/user/{uid}"),
    ):
        folder.mkdir(parents=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = _PREFIX / "lib" / version / "site-packages"
    library.mkdir(parents=True)
    base = Path(sys._base_executable)  # type: ignore[attr-defined]
    (_PREFIX / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    (_PREFIX / "bin" / "python").symlink_to(base)
    shutil.copytree(box.CHECKOUT / "aider_guard", library / "aider_guard")
    there = Path(sys.prefix) / "lib" / version / "site-packages"
    (library / "packages.pth").write_text(f"{there}\n")
    aider = _WORK / "aider"
    aider.write_text(f"#!{base} -S\nfrom aider.main import main\nmain([])\n")
    aider.chmod(0o755)
    for name in (".asking", ".answering", ".poke", ".poked", ".life"):
        os.mkfifo(_WORK / name)
        (_WORK / name).chmod(0o666)


def _give_to(uid: int) -> None:
    for folder in (box.HOME, Path("/run/user")):
        for path, folders, files in os.walk(folder):
            for name in (".", *folders, *files):
                os.chown(os.path.join(path, name), uid, uid, follow_symlinks=False)


@contextlib.contextmanager
def _world(uid: int) -> Iterator[subprocess.Popen[bytes]]:
    """The other machine, joined to this one."""
    command = [sys.executable, "-m", "airgap.battery.outside", str(uid)]
    paths = os.environ | {"PYTHONPATH": f"{box.CHECKOUT / 'tests'}:{box.CHECKOUT}"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=paths) as world:
        assert world.stdin is not None
        assert world.stdout is not None
        assert world.stdout.readline() == b"unshared\n"
        box.lay_cable(world.pid)
        world.stdin.write(b".")
        world.stdin.flush()
        assert world.stdout.readline() == b"ready\n"
        yield world
        world.kill()


def _seen(world: subprocess.Popen[bytes]) -> list[Any]:
    """What the witness saw since the last time."""
    assert world.stdin is not None
    assert world.stdout is not None
    world.stdin.write(b".")
    world.stdin.flush()
    answer: list[Any] = json.loads(world.stdout.readline())
    return answer


def _tell(kind: str, what: object) -> None:
    print(json.dumps({kind: what}), flush=True)


def _tell_seen(seen: list[Any], ways: set[int]) -> None:
    """Tell what the witness saw: of the ways of this session, and of earlier ones, whose files a later one ran."""
    _tell("seen", [one for one in seen if one[0] in ways or one[0] < 0])
    _tell("later", [one for one in seen if one[0] not in ways and one[0] >= 0])


def _write_batch(stage: Stage, ways: Sequence[Numbered], name: str, attacks: str) -> Path:
    batch = _WORK / f"{name}.json"
    content: dict[str, Any] = {
        "facts": stage.facts(attacks),
        "results": str(_WORK / f"{name}.results"),
        "ways": [
            {
                "number": one.number,
                "id": one.way.id,
                "code": one.way.code,
                "facts": {
                    "port": one.port,
                    "service": one.service,
                    "server": FIRST_SERVER + one.number,
                    "number": one.number,
                    "word": one.word,
                },
            }
            for one in ways
        ],
    }
    if name == "killed":  # what those ways wait for
        content["ways"].append(
            {"number": -1, "id": "", "code": "os.kill(GUARD, 9)", "facts": {"word": ""}}
        )
    batch.write_text(json.dumps(content))
    return batch


def _run_as(
    stage: Stage, command: Sequence[str], batch: Path
) -> tuple[str, list[tuple[int, str, int]]]:
    """Run the guard as the user at a terminal until it ends; what it shows, and what is left to be read there."""
    master, terminal = os.openpty()
    os.set_blocking(master, False)

    def become_leader() -> None:
        if stage.user != "root":
            box.become_user()
        os.setsid()
        box.take_terminal(0)

    shown = b""
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=_WORK, env=stage.environment(batch),
        preexec_fn=become_leader,  # noqa: PLW1509  # one thread
    ) as guard:  # fmt: skip
        ended = kernel.pidfd_open(guard.pid)
        is_over = False
        while not is_over:
            ready, _, _ = select.select([master, ended], [], [], _CAP_SECONDS)
            if not ready:
                guard.kill()
                shown += b"\n(the guard did not end)"
                break
            if master in ready:
                try:
                    shown += os.read(master, 65536)
                except OSError:
                    break
            else:
                is_over = ended in ready
        guard.wait()
        os.close(ended)
    typed = _typed(terminal)
    os.close(terminal)
    os.close(master)
    return shown[-4000:].decode("utf-8", "replace"), typed


def _typed(terminal: int) -> list[tuple[int, str, int]]:
    """What the user's shell would read next: words that were put into the terminal, as things that were seen."""
    os.set_blocking(terminal, False)
    text = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(terminal, 4096):
            text += more
    return [(number, "typed into the terminal", 1) for number in words_in(text)]


def _wait_for_those_left_behind(life: int) -> None:
    """Wait until no process holds the pipe."""
    while select.select([life], [], [], _CAP_SECONDS)[0] and os.read(life, 4096):
        pass


def _journals() -> list[Any]:
    """What the guard reported of each attempt, in all sessions so far."""
    lines = []
    for path in (box.HOME / ".local" / "state" / "aider-guard" / "sessions").glob(
        "*/journal.jsonl"
    ):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    wanted = ("egress_blocked", "request_refused", "air_gap_chosen")
    return [line for line in lines if isinstance(line, dict) and line.get("event") in wanted]


def run(layer: str, user: str) -> None:
    """Run all ways in this box."""
    stage = Stage(layer, user, 0 if user == "root" else box.USER)
    attacks = _compile()
    _install(stage.uid)
    with _world(stage.uid) as world:
        with contextlib.suppress(OSError):  # only one user is mapped
            _give_to(stage.uid)
            if attacks:
                shutil.copy(attacks, f"{attacks}-of-root")
                Path(f"{attacks}-of-root").chmod(0o4755)
        asides = subprocess.Popen(
            [sys._base_executable, "-I", "-S", str(_HERE / "bystander.py"), str(_WORK), OUTSIDE,  # type: ignore[attr-defined]
             str(BYSTANDERS_PORT)],
            stdout=subprocess.PIPE, preexec_fn=box.become_user if user != "root" else None,  # noqa: PLW1509
        )  # fmt: skip
        assert asides.stdout is not None
        assert asides.stdout.readline() == b"ready\n"
        _tell("before", _seen(world))
        for name in ("session", "keys", "killed"):
            stages = ("session", "end") if name == "session" else (name,)
            ways = [one for one in WAYS if one.way.stage in stages]
            life = os.open(stage.life, os.O_RDONLY | os.O_NONBLOCK)
            own_end = os.open(stage.life, os.O_WRONLY)  # a pipe that never had a writer has no end
            batch = _write_batch(stage, ways, name, attacks)
            with contextlib.suppress(OSError):
                os.chown(batch, stage.uid, stage.uid)
            words = (
                ["--message", "hello"] if name == "keys" else []
            )  # Aider has the user's own terminal then
            shown, typed = _run_as(stage, [*stage.command(), *words], batch)
            _tell("shown", shown)
            _tell("seen", typed)
            os.close(own_end)
            _wait_for_those_left_behind(life)
            os.close(life)
            _tell_seen(_seen(world), {one.number for one in ways})
            results = Path(_WORK / f"{name}.results")
            for line in results.read_text().splitlines() if results.exists() else ():
                _tell("tried", json.loads(line))
        _tell("reports", _journals())
        asides.send_signal(signal.SIGKILL)
        asides.wait()
        asides.stdout.close()


def _compile() -> str:
    """Compile attacks.c; "" without a compiler."""
    compiler = shutil.which("cc")
    program = "/tmp/attacks"
    source = str(_HERE / "attacks.c")
    if compiler is None or not os.path.exists(source):
        return ""
    done = subprocess.run(
        [compiler, "-O1", "-pthread", "-o", program, source], capture_output=True, check=False
    )
    return program if done.returncode == 0 else ""


def main() -> None:
    """See the module's text."""
    layer, user, folder = sys.argv[1:]
    try:
        box.run_in_box(lambda: run(layer, user), Path(folder))
    except box.NoBoxError as error:
        _tell("no_box", str(error))


if __name__ == "__main__":
    main()
