"""The Aider that was started ahead, and the one that was retired: real processes on ptys, in the guard's loop."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import pytest
from session.ptys import CAP_SECONDS, child

from aider_guard.core.events import Event, StandbyLost, StandbyReady
from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError
from aider_guard.launch.environment import LocalEnvironment
from aider_guard.loop import Loop
from aider_guard.session.aider_process import Child
from aider_guard.session.standby import RetiredAider, StandbyAider
from aider_guard.session.start_aider import Started
from aider_guard.session.terminal import Size

FORCED = LocalEnvironment({"NAME": "text"}, ("OTHER",))
SIZE = Size(24, 80)
TALKS = """
import json, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
lines = channel.makefile("rwb")
said = [json.loads(lines.readline())["variables"]]
lines.write(sys.argv[2].encode() + b"\\n"); lines.flush()
said.append(json.loads(lines.readline())["variables"])
lines.write(json.dumps(said).encode() + b"\\n"); lines.flush()
lines.read()
"""
"""Tells that it is ready, and at its turn what the guard has told it."""
READY = '{"standby": {"memory_bytes": 4096}}'


def starts(*command: str) -> Started:
    """Start a program with a channel, as Aider is started."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        argv = [word.format(fd=theirs.fileno()) for word in command]
        running = Child.spawn(argv, size=SIZE, env=os.environ, pass_fds=[theirs.fileno()])
    return Started(running, ours)


def talking(line: str = READY) -> Callable[[], Started]:
    """Start one that says this line when it is ready."""
    line = line.replace("{", "{{").replace("}", "}}")
    program = TALKS.replace("{", "{{").replace("}", "}}")
    return lambda: starts(sys.executable, "-I", "-S", "-c", program, "{fd}", line)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """The guard's loop."""
    with Loop() as made:
        yield made


class Ahead:
    """One that is started ahead; what is posted of it."""

    def __init__(self, loop: Loop, launch: Callable[[], Started]) -> None:
        self.events: list[Event] = []
        self.loop = loop
        self.aider = StandbyAider(loop, launch, lambda: FORCED, self.events.append)

    def event(self) -> Event:
        """The next event."""
        while not self.events:
            self.loop.run_once(CAP_SECONDS)
        return self.events.pop(0)


def test_it_tells_that_it_waits_and_is_handed_over(loop: Loop) -> None:
    """It hears the variables twice: to load its code with, and at its turn."""
    ahead = Ahead(loop, talking())
    with ahead.aider:
        ahead.aider.start()
        ready = ahead.event()
        started = ahead.aider.take()
        assert started is not None
        assert ready == StandbyReady(started.child.pid, 4096)
        assert ahead.aider.take() is None
    with started.child:  # the other ``with`` has left it alone
        started.channel.settimeout(CAP_SECONDS)
        told = {"set": {"NAME": "text"}, "unset": ["OTHER"]}
        assert json.loads(started.channel.recv(65536)) == [told, told]
        started.channel.close()


@pytest.mark.parametrize("line", ["{}", "[]", '{"standby": {"memory_bytes": 0}}', "no JSON"])
def test_memory_that_is_not_told_is_not_known(loop: Loop, line: str) -> None:
    ahead = Ahead(loop, talking(line))
    with ahead.aider:
        ahead.aider.start()
        ready = ahead.event()
    assert isinstance(ready, StandbyReady)
    assert isinstance(ready.memory_bytes, Unavailable)


def test_one_that_ends_is_lost_and_another_can_be_started(loop: Loop) -> None:
    programs = [lambda: starts(*child("exits_with", 3)), talking()]

    def launch() -> Started:
        return programs.pop(0)()

    ahead = Ahead(loop, launch)
    with ahead.aider:
        ahead.aider.start()
        assert ahead.event() == StandbyLost("it ended before its turn")
        assert ahead.aider.take() is None
        ahead.aider.start()
        assert isinstance(ahead.event(), StandbyReady)


def test_one_that_cannot_be_started_is_lost(loop: Loop) -> None:
    def fails() -> Started:
        raise LaunchError("it was not found")

    ahead = Ahead(loop, fails)
    ahead.aider.start()
    assert ahead.events == [StandbyLost("it was not found")]


def test_none_is_left_behind(loop: Loop) -> None:
    """Neither one that waits, nor one that was retired and ignores what it is told."""
    ahead = Ahead(loop, talking())
    stubborn = Child.spawn(
        ["sh", "-c", "trap '' HUP TERM; echo up; sleep 100"], size=SIZE, env=os.environ
    )
    with ahead.aider, RetiredAider(loop) as retired:
        ahead.aider.start()
        ready = ahead.event()
        retired.adopt(stubborn)
        assert retired.reap() is None
    assert isinstance(ready, StandbyReady)
    for pid in (ready.pid, stubborn.pid):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_retired_one_can_write_until_it_ends(loop: Loop) -> None:
    """More than a pty holds; its status is told once."""
    program = "import sys; sys.stdout.write('x' * 300_000); sys.exit(5)"
    writing = Child.spawn([sys.executable, "-I", "-S", "-c", program], size=SIZE, env=os.environ)
    with RetiredAider(loop) as retired:
        retired.adopt(writing)
        while (status := retired.reap()) is None:
            loop.run_once(0.01)
        assert (status, retired.reap()) == (5, None)


def test_a_retired_one_gets_signals(loop: Loop) -> None:
    with RetiredAider(loop) as retired:
        retired.adopt(Child.spawn(["sleep", "100"], size=SIZE, env=os.environ))
        retired.signal(signal.SIGTERM)
        while (status := retired.reap()) is None:
            loop.run_once(0.01)
        assert status == -signal.SIGTERM
