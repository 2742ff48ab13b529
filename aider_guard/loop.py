"""One loop: file descriptors and deadlines. It sleeps until the next of them, and no less."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import NamedTuple

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

Callback = Callable[[int], None]
"""Called with the events that came: ``READ``, ``WRITE`` or both."""


class _Watch(NamedTuple):
    events: int
    callback: Callback


class Loop:
    """Waits for file descriptors and named instants of ``clock``, and calls back.

    What a callback raises, passes. A hang-up or an error of a descriptor counts as every event that
    is waited for on it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_deadline: Callable[[str], None] = lambda _name: None,
        selector: selectors.BaseSelector | None = None,
    ) -> None:
        self.on_deadline = on_deadline
        self._clock = clock
        self._selector = selectors.DefaultSelector() if selector is None else selector
        self._watches: dict[int, _Watch] = {}
        self._deadlines: dict[str, float] = {}
        self._calls: dict[str, Callable[[], None]] = {}

    def __enter__(self) -> Loop:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the kernel's object and forget everything; the watched descriptors stay open."""
        self._watches.clear()
        self._selector.close()

    @property
    def deadlines(self) -> Mapping[str, float]:
        """The instants that are waited for, by name."""
        return MappingProxyType(self._deadlines)

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call ``callback`` when ``fd`` is ready for ``events``; 0: for none until ``change``."""
        if fd in self._watches:
            raise ValueError(f"fd {fd} is watched already")
        self._watches[fd] = _Watch(0, callback)
        try:
            self.change(fd, events)
        except OSError:
            del self._watches[fd]
            raise

    def change(self, fd: int, events: int) -> None:
        """Wait for other events on a watched ``fd``; 0 for none, not even a hang-up."""
        events_before, callback = self._watches[fd]
        if events == events_before:
            return
        if events_before == 0:
            self._register(fd, events)
        elif events == 0:
            self._selector.unregister(fd)
        else:
            self._selector.modify(fd, events, callback)
        self._watches[fd] = _Watch(events, callback)

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``, before it is closed. One that is not watched is no error."""
        if fd in self._watches:
            self.change(fd, 0)
            del self._watches[fd]

    def at(self, name: str, when: float) -> None:
        """Call ``on_deadline(name)`` once ``clock()`` is at ``when``; one instant for each name."""
        self._deadlines[name] = when
        self._calls.pop(name, None)

    def after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call ``call`` in so many seconds, instead of ``on_deadline``; ``cancel(name)`` forgets it."""
        self._deadlines[name] = self._clock() + seconds
        self._calls[name] = call

    def cancel(self, name: str) -> None:
        """Forget this deadline, whether it is set or not."""
        self._deadlines.pop(name, None)
        self._calls.pop(name, None)

    def run(self, until: Callable[[], bool]) -> None:
        """Go on until ``until()`` holds; it is asked before each wait."""
        while not until():
            self.run_once()

    def run_once(self, max_wait: float | None = None) -> None:
        """Wait for the next event or deadline, ``max_wait`` seconds at most, and call back.

        Raises:
            RuntimeError: nothing is watched, no deadline and no ``max_wait`` is set: it would sleep
                for ever.
        """
        timeout = self._timeout(max_wait)
        if timeout is None and not self._selector.get_map():
            raise RuntimeError("The loop has nothing to wait for.")
        for key, events in self._selector.select(timeout):
            watch = self._watches.get(key.fd)
            # An earlier callback may have forgotten it, or given its number to another file.
            if watch is not None and watch.callback is key.data and watch.events & events:
                watch.callback(watch.events & events)
        if self._deadlines:
            self._fire()

    def _timeout(self, max_wait: float | None) -> float | None:
        waits = [] if max_wait is None else [max_wait]
        if self._deadlines:
            waits.append(min(self._deadlines.values()) - self._clock())
        return max(0.0, min(waits)) if waits else None

    def _fire(self) -> None:
        """Call back for what is due, earliest first; what that sets waits for the next round."""
        now = self._clock()
        due = sorted((when, name) for name, when in self._deadlines.items() if when <= now)
        for when, name in due:
            if self._deadlines.get(name) == when:
                del self._deadlines[name]
                call = self._calls.pop(name, None)
                if call is None:
                    self.on_deadline(name)
                else:
                    call()

    def _register(self, fd: int, events: int) -> None:
        callback = self._watches[fd].callback
        try:
            self._selector.register(fd, events, callback)
        except PermissionError:
            # epoll refuses regular files and /dev/null, which are always ready; select takes them.
            self._replace_selector()
            self._selector.register(fd, events, callback)

    def _replace_selector(self) -> None:
        self._selector.close()
        self._selector = selectors.SelectSelector()
        for fd, watch in self._watches.items():
            if watch.events:
                self._selector.register(fd, watch.events, watch.callback)
