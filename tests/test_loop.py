"""The loop on real pipes, with a clock that stands still until it is moved."""

from __future__ import annotations

import os
import selectors
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aider_guard.loop import READ, WRITE, Loop

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]


class Clock:  # moved by hand
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected sockets: both ends can be read and written."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_calls_back_when_ready(pair: Pair) -> None:
    """A callback gets the events that came, once for each round in which they did."""
    events: list[int] = []
    with Loop() as loop:
        loop.watch(pair[0].fileno(), READ, events.append)
        loop.run_once(0)
        assert events == []
        pair[1].send(b"x")
        loop.run_once(5)
        loop.change(pair[0].fileno(), READ | WRITE)
        loop.run_once(5)
        pair[0].recv(1)
        loop.run_once(5)

    assert events == [READ, READ | WRITE, WRITE]


def test_zero_events_is_a_pause(pair: Pair) -> None:
    """With no event wanted there is no call, not even at a hang-up; later there is."""
    events: list[int] = []
    with Loop() as loop:
        loop.watch(pair[0].fileno(), 0, events.append)
        pair[1].close()
        loop.run_once(0)
        assert events == []
        loop.change(pair[0].fileno(), READ)
        loop.run_once(5)
        loop.change(pair[0].fileno(), 0)
        loop.run_once(0)

    assert events == [READ]


def test_a_call_after_a_while() -> None:
    """It comes once, and not when it was cancelled or its name was given to another."""
    clock, seen = Clock(), list[str]()
    with Loop(clock) as loop:
        loop.after("once", 1.0, lambda: seen.append("called"))
        loop.after("never", 1.0, lambda: seen.append("wrong"))
        loop.cancel("never")
        loop.after("named", 1.0, lambda: seen.append("wrong"))
        loop.at("named", 100.5, lambda: seen.append("named"))
        loop.run_once(0)
        assert seen == []
        clock.now = 101.0
        loop.run_once(0)
        loop.run_once(0)
        loop.at("once", 100.5, lambda: seen.append("once"))
        loop.run_once(0)

    assert seen == ["named", "called", "once"]


def test_forgotten_in_the_same_round(pair: Pair) -> None:
    """A descriptor that another callback of the round forgot is not called any more."""
    calls: list[str] = []
    fds = {"one": pair[0].fileno(), "other": pair[1].fileno()}
    with Loop() as loop:

        def call(name: str, victim: str) -> None:
            calls.append(name)
            loop.forget(fds[victim])

        loop.watch(fds["one"], WRITE, lambda _events: call("one", "other"))
        loop.watch(fds["other"], WRITE, lambda _events: call("other", "one"))
        loop.run_once(5)
        loop.forget(fds["one"])
        loop.forget(fds["other"])
        loop.forget(fds["other"])

    assert len(calls) == 1


def test_watching_twice_is_a_mistake(pair: Pair) -> None:
    """A second watch of the same descriptor is refused; after ``forget`` it is not."""
    with Loop() as loop:
        loop.watch(pair[0].fileno(), READ, lambda _events: None)
        with pytest.raises(ValueError, match="watched already"):
            loop.watch(pair[0].fileno(), READ, lambda _events: None)
        loop.forget(pair[0].fileno())
        loop.watch(pair[0].fileno(), READ, lambda _events: None)


def test_a_closed_descriptor_is_refused() -> None:
    """What the selector refuses is raised, and the descriptor does not count as watched."""
    with Loop() as loop:
        receiver, sender = os.pipe()
        os.close(receiver)
        os.close(sender)
        for _ in range(2):
            with pytest.raises(OSError, match="Bad file descriptor"):
                loop.watch(receiver, READ, lambda _events: None)


def test_deadlines_fire_in_order() -> None:
    """Deadlines are called back when the clock reaches them, the earliest first, each once."""
    clock, fired = Clock(), list[str]()
    with Loop(clock) as loop:
        for name, when in {"late": 103, "early": 101, "middle": 102, "dropped": 101}.items():
            loop.at(name, when, partial(fired.append, name))
        loop.cancel("dropped")
        loop.cancel("never set")
        loop.run_once(0)
        assert fired == []
        assert loop.deadlines == {"late": 103, "early": 101, "middle": 102}
        clock.now = 102
        loop.run_once()
        assert fired == ["early", "middle"]
        clock.now = 200
        loop.run_once()
        loop.run_once(0)

    assert fired == ["early", "middle", "late"]
    assert loop.deadlines == {}


def test_a_deadline_set_again_replaces_the_first() -> None:
    """One name has one instant: the one set last."""
    clock, fired = Clock(), list[str]()
    with Loop(clock) as loop:
        loop.at("it", 101, lambda: fired.append("it"))
        loop.at("it", 105, lambda: fired.append("it"))
        clock.now = 104
        loop.run_once(0)
        assert fired == []
        clock.now = 105
        loop.run_once(0)

    assert fired == ["it"]


def test_a_postponed_deadline_has_the_time_left_that_it_had() -> None:
    """Also when it was due in the time in which the process was stopped."""
    clock, fired = Clock(), list[str]()
    with Loop(clock) as loop:
        loop.at("it", 130, lambda: fired.append("it"))
        clock.now = 162
        loop.postpone(60)
        loop.run_once(0)
        assert fired == []
        assert loop.deadlines == {"it": 190}
        clock.now = 190
        loop.run_once(0)

    assert fired == ["it"]


def test_a_deadline_that_sets_itself_again_waits_for_the_next_round() -> None:
    """A callback that asks for an instant in the past does not keep the round from ending."""
    fired: list[str] = []
    with Loop(Clock()) as loop:

        def again() -> None:
            fired.append("it")
            loop.at("it", 0, again)

        loop.at("it", 0, again)
        loop.run_once()
        loop.run_once()

    assert fired == ["it", "it"]


def test_a_deadline_may_cancel_another_that_is_due() -> None:
    """What an earlier deadline of the round cancels is not called back."""
    fired: list[str] = []
    with Loop(Clock()) as loop:

        def first_only() -> None:
            fired.append("first")
            loop.cancel("second")

        loop.at("first", 1, first_only)
        loop.at("second", 2, lambda: fired.append("second"))
        loop.run_once()

    assert fired == ["first"]


class Recorder(selectors.SelectSelector):
    """A selector that notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float | None] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.timeouts.append(timeout)
        return super().select(0)


def test_waits_until_the_next_deadline_and_no_less(pair: Pair) -> None:
    """The wait is the time to the next deadline, endless without one, never negative."""
    clock, recorder = Clock(), Recorder()
    with Loop(clock, selector=recorder) as loop:
        loop.watch(pair[0].fileno(), READ, lambda _events: None)
        loop.run_once()
        loop.at("soon", 107, lambda: None)
        loop.at("later", 150, lambda: None)
        loop.run_once()
        loop.run_once(3)
        clock.now = 108
        loop.run_once()

    assert recorder.timeouts == [None, 7, 3, 0]


def test_nothing_to_wait_for_is_a_mistake() -> None:
    """A wait that could never end is an error, not a hang."""
    with Loop() as loop, pytest.raises(RuntimeError, match="nothing to wait for"):
        loop.run_once()


def test_run_until(pair: Pair) -> None:
    """``run`` goes on until the condition holds, and not once when it does already."""
    received = bytearray()
    with Loop() as loop:
        loop.run(lambda: True)
        pair[0].setblocking(False)
        loop.watch(pair[0].fileno(), READ, lambda _events: received.extend(pair[0].recv(1)))
        pair[1].send(b"four")
        loop.run(lambda: received == b"four")

    assert received == b"four"


def test_what_a_callback_raises_passes(pair: Pair) -> None:
    """An error in a callback is not swallowed: it reaches the caller of the loop."""
    with Loop() as loop:
        loop.watch(pair[0].fileno(), WRITE, lambda _events: [].pop())
        with pytest.raises(IndexError):
            loop.run_once(5)


def test_files_that_epoll_refuses(pair: Pair) -> None:
    """/dev/null, which epoll refuses, is always ready, beside what was watched before."""
    seen: list[str] = []
    with Path(os.devnull).open("rb") as nothing, Loop() as loop:
        loop.watch(pair[0].fileno(), READ, lambda _events: seen.append("socket"))
        loop.watch(nothing.fileno(), READ, lambda _events: seen.append("file"))
        pair[1].send(b"x")
        loop.run_once(5)
        loop.forget(nothing.fileno())
        loop.run_once(5)

    assert sorted(seen) == ["file", "socket", "socket"]


def test_a_closed_loop_has_forgotten_everything() -> None:
    """Cleaning up afterwards may still forget what was watched."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with Loop() as loop:
            loop.watch(ours.fileno(), READ, lambda _events: None)
        loop.forget(ours.fileno())
