"""Signals as bytes to read, and the dispositions a child must start with."""

from __future__ import annotations

import select
import signal
import subprocess
import sys

from aider_guard.signals import Dispositions, all_blocked, signals_as_wakeups


def test_signals_are_read_in_order() -> None:
    """Each signal is one byte, in the order of arrival, and reading never blocks."""
    with signals_as_wakeups([signal.SIGUSR1, signal.SIGWINCH]) as wakeups:
        assert wakeups.read() == ()
        for signum in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGUSR1):
            signal.raise_signal(signum)
        assert select.select([wakeups], [], [], 5)[0]
        assert wakeups.read() == (signal.SIGUSR1, signal.SIGWINCH, signal.SIGUSR1)
        assert wakeups.read() == ()


def test_a_signal_wakes_a_wait() -> None:
    """A wait on the descriptor ends when a signal comes, though Python starts the wait again."""
    command = [sys.executable, "-ISc", ""]
    with signals_as_wakeups([signal.SIGCHLD]) as wakeups, subprocess.Popen(command):
        assert select.select([wakeups], [], [], 20)[0]
        assert signal.SIGCHLD in wakeups.read()


def test_everything_is_as_before() -> None:
    """Handlers and the wakeup descriptor are those of before, nested uses included."""
    before = signal.getsignal(signal.SIGUSR1)
    with signals_as_wakeups([signal.SIGUSR1]) as outer:
        handler = signal.getsignal(signal.SIGUSR1)
        with signals_as_wakeups([signal.SIGUSR1]) as inner:
            signal.raise_signal(signal.SIGUSR1)
            assert inner.read() == (signal.SIGUSR1,)
        assert signal.getsignal(signal.SIGUSR1) is handler
        signal.raise_signal(signal.SIGUSR1)
        assert outer.read() == (signal.SIGUSR1,)

    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_flood_neither_blocks_nor_warns() -> None:
    """More signals than the socket holds are merged, without a word on the terminal."""
    with signals_as_wakeups([signal.SIGUSR1]) as wakeups:
        for _ in range(5000):
            signal.raise_signal(signal.SIGUSR1)
        read = len(wakeups.read())
        assert read
        while wakeups.read():
            pass


def test_ignored_at_the_start_stays_ignored() -> None:
    """Under ``nohup`` a hang-up is not heeded; a resize, ignored or not, is."""
    program = """
import signal
from aider_guard.signals import signals_as_wakeups
with signals_as_wakeups([signal.SIGHUP, signal.SIGWINCH]) as wakeups:
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGWINCH)
    print(*wakeups.read())
print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
"""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=ignore,  # one thread
        capture_output=True,
        check=True,
        text=True,
    )

    assert done.stdout.split() == [str(int(signal.SIGWINCH)), "True"]


def test_held_back_signals_come_after() -> None:
    """Inside the block no signal is delivered; those that came are delivered when it ends."""
    with signals_as_wakeups([signal.SIGUSR1]) as wakeups:
        with all_blocked():
            signal.raise_signal(signal.SIGUSR1)
            assert wakeups.read() == ()
        assert wakeups.read() == (signal.SIGUSR1,)


def test_dispositions_leave_out_what_python_set() -> None:
    """SIGPIPE, which Python ignores by itself, is not passed on as ignored."""
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN

    assert signal.SIGPIPE not in Dispositions.now().ignored
