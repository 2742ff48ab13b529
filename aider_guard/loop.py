"""The guard's event loop: waits for file descriptors and deadlines, sleeping until the next of them is due."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

Callback = Callable[[int], None]
"""Called with the events that came: ``READ``, ``WRITE`` or both."""


class _Watch(NamedTuple):
    events: int
    callback: Callback


class _Deadline(NamedTuple):
    when: float
    callback: Callable[[], None]


class Loop:
    """Waits for file descriptors and for named deadlines of ``clock``, and calls back.

    An exception of a callback ends the round and reaches the caller. A hang-up or an error of a
    descriptor counts as every event that is waited for on it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        selector: selectors.BaseSelector | None = None,
    ) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector() if selector is None else selector
        self._watches: dict[int, _Watch] = {}
        self._deadlines: dict[str, _Deadline] = {}

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the selector and forget every watch; the watched descriptors stay open."""
        self._watches.clear()
        self._selector.close()

    @property
    def deadlines(self) -> Mapping[str, float]:
        """When each deadline that is set is due, by name."""
        return {name: deadline.when for name, deadline in self._deadlines.items()}

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

    def at(self, name: str, when: float, callback: Callable[[], None]) -> None:
        """Call back once ``clock()`` is at ``when``; another deadline of this name is replaced."""
        self._deadlines[name] = _Deadline(when, callback)

    def after(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        """Call back in so many seconds; another deadline of this name is replaced."""
        self.at(name, self._clock() + seconds, callback)

    def cancel(self, name: str) -> None:
        """Forget this deadline, whether it is set or not."""
        self._deadlines.pop(name, None)

    def postpone(self, seconds: float) -> None:
        """Move every deadline by so many seconds, in which this process was stopped."""
        self._deadlines = {
            name: deadline._replace(when=deadline.when + seconds)
            for name, deadline in self._deadlines.items()
        }

    def run(self, until: Callable[[], bool]) -> None:
        """Run rounds until ``until()`` is true; it is called before each of them."""
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
            waits.append(min(self.deadlines.values()) - self._clock())
        return max(0.0, min(waits)) if waits else None

    def _fire(self) -> None:
        """Call back for what is due, earliest first; what that sets waits for the next round."""
        now = self._clock()
        due = sorted(
            (deadline.when, name)
            for name, deadline in self._deadlines.items()
            if deadline.when <= now
        )
        for when, name in due:
            deadline = self._deadlines.get(name)
            # An earlier callback may have cancelled it, or set it to another instant.
            if deadline is not None and deadline.when == when:
                del self._deadlines[name]
                deadline.callback()

    def _register(self, fd: int, events: int) -> None:
        callback = self._watches[fd].callback
        try:
            self._selector.register(fd, events, callback)
        except PermissionError:
            # epoll refuses regular files and /dev/null, which are always ready; select takes them.
            self._selector.close()
            self._selector = selectors.SelectSelector()
            for other, watch in self._watches.items():
                if watch.events:
                    self._selector.register(other, watch.events, watch.callback)
            self._selector.register(fd, events, callback)
