"""Work for nobody in particular: one errand at a time, and it ends when somebody comes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aider_guard.ollama.names import canonical_name


@dataclass
class Errands:
    """Tasks on the door's event loop."""

    joined: bool = False
    """Whether a request waits for the same model that the errand has loaded."""
    _task: asyncio.Task[None] | None = None
    _loading: tuple[str, Mapping[str, Any]] | None = None
    _besides: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return self._task is not None and not self._task.done()

    def send(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin an errand. Only when none is under way."""
        self.joined = False
        self._task = self.besides(work)

    def besides(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin something that is in nobody's way. What it raises is a bug, and told as one."""
        task = asyncio.get_running_loop().create_task(work)
        self._besides.add(task)
        task.add_done_callback(self._over)
        return task

    @contextmanager
    def loading(self, model: str, options: Mapping[str, Any]) -> Iterator[None]:
        """While Ollama loads this model with these options for the errand."""
        self._loading = (canonical_name(model), dict(options))
        try:
            yield
        finally:
            self._loading = None

    def is_loading(self, model: str, options: Mapping[str, Any] | None = None) -> bool:
        """Whether a model is being loaded, with these options if they matter."""
        if self._loading is None:
            return False
        name, with_options = self._loading
        return name == canonical_name(model) and options in (None, with_options)

    async def drop(self) -> None:
        """End what is under way; back when its connection is closed."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _over(self, task: asyncio.Task[None]) -> None:
        self._besides.discard(task)
        if not task.cancelled():
            task.result()  # raises in the loop's own handler, which prints it
