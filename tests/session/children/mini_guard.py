"""The smallest guard: Terminal, Child, Relay, Wakeups and Loop put together, nothing else.

``mini_guard.py [--repeat N] [--crash-on-key] -- COMMAND …`` relays COMMAND, N times one after the
other, and exits as the last one did, 128+signal when a signal killed it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from aider_guard.loop import Loop
from aider_guard.session.aider_process import Child
from aider_guard.session.escape_sequences import OutputModes
from aider_guard.session.relay import Relay
from aider_guard.session.terminal import Terminal
from aider_guard.signals import Wakeups, signals_as_wakeups

SIGNALS = (signal.SIGWINCH, signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)
KILL_AFTER_SECONDS = 0.5
STUCK_SECONDS = 2.0


class MiniGuard:
    """One launch of one child. Its end is known by SIGCHLD, never by the end of its pty alone."""

    def __init__(self, terminal: Terminal, child: Child, relay: Relay, wakeups: Wakeups) -> None:
        self.terminal, self.child, self.relay, self.wakeups = terminal, child, relay, wakeups
        self.modes = OutputModes()
        self.ended_by = 0
        self.status = self.child.poll()
        self.crash_on_key = False
        self.loop = Loop()

    def run(self, in_fd: int, out_fd: int) -> int:
        with self.loop as loop:
            loop.watch(self.child.fd, 0, lambda _events: self.pump_child())
            loop.watch(in_fd, 0, lambda _events: self.pump_keys())
            loop.watch(out_fd, 0, lambda _events: None)
            loop.watch(self.wakeups.fileno(), 1, lambda _events: self.heed_signals())
            while self.status is None:
                self.relay.flush()
                for fd, events in self.relay.wants().items():
                    loop.change(fd, events)
                loop.run_once()
        while data := self.relay.read_child():
            self.show(data)
        status = self.status
        if status < 0:
            self.relay.to_terminal(self.modes.resets())
        self.flush(out_fd)
        self.relay.detach()
        return 128 + self.ended_by if self.ended_by else status if status >= 0 else 128 - status

    def flush(self, out_fd: int) -> None:
        """Bring the last byte to the terminal, unless it is stuck."""
        while pending := self.relay.pending_for_terminal:
            select.select([], [out_fd], [], STUCK_SECONDS)
            self.relay.flush()
            if self.relay.pending_for_terminal == pending:
                return

    def show(self, data: bytes) -> None:
        self.modes.feed(data)
        self.relay.to_terminal(data)

    def pump_child(self) -> None:
        data = self.relay.read_child()
        if data:
            self.show(data)

    def pump_keys(self) -> None:
        data = self.relay.read_terminal()
        if data and self.crash_on_key:
            raise RuntimeError("crash on key")
        if data:
            self.relay.to_child(data)
        elif data == b"":
            self.finish(signal.SIGHUP)

    def heed_signals(self) -> None:
        for signum in self.wakeups.read():
            if signum == signal.SIGCHLD:
                self.status = self.child.poll()
            elif signum == signal.SIGWINCH:
                self.child.resize(self.terminal.size())
            elif signum in (signal.SIGTERM, signal.SIGHUP):
                self.finish(signum)

    def finish(self, signum: int) -> None:
        if not self.ended_by:
            self.ended_by = signum
            self.child.signal(signum)
            self.loop.after("kill", KILL_AFTER_SECONDS, self.child.kill_group)


def launch(argv: list[str], repeat: int, *, crash_on_key: bool) -> int:
    status = 0
    terminal = Terminal()
    with contextlib.ExitStack() as stack:
        wakeups = stack.enter_context(signals_as_wakeups(SIGNALS))
        fds = stack.enter_context(terminal.private_fds())
        stack.enter_context(terminal.raw_mode())
        relay = Relay(*fds)
        for _ in range(repeat):
            size, attributes = terminal.size(), terminal.attributes()
            with Child.spawn(argv, size=size, env=os.environ, attributes=attributes) as child:
                # A resize between the two would be lost: the size is read again after the start.
                child.resize(terminal.size())
                relay.attach(child.fd)
                guard = MiniGuard(terminal, child, relay, wakeups)
                guard.crash_on_key = crash_on_key
                status = guard.run(*fds)
    return status


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--crash-on-key", action="store_true")
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()
    return launch(options.argv, options.repeat, crash_on_key=options.crash_on_key)


if __name__ == "__main__":
    sys.exit(main())
