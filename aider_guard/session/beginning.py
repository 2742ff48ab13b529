"""From Aider's first question to its beginning: what it will use, which window that gives, and then its files."""

from __future__ import annotations

from collections.abc import Callable

from aider_guard.core import requests
from aider_guard.core.events import Event, ModelDescribed, ModelsChosen
from aider_guard.core.readings import Unavailable
from aider_guard.launch.settings import AiderSettings, ollama_name
from aider_guard.session.launches import Launches
from aider_guard.session.loop import READ, Loop
from aider_guard.session.running import Running
from aider_guard.session.watcher import Watcher

DEADLINE = "models_described"
# Ollama answers /api/show in milliseconds; Aider needs seconds to start. More than this is not waited for.
_WAIT_SECONDS = 0.5


class Beginning:
    """Answers Aider's question as soon as Ollama has said what its models were trained for, or did not say it."""

    def __init__(
        self,
        launches: Launches,
        running: Running,
        watcher: Watcher,
        loop: Loop,
        *,
        server: Callable[[AiderSettings], str],
        post: Callable[[Event], None],
        warn: Callable[[str, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._launches = launches
        self._running = running
        self._watcher = watcher
        self._loop = loop
        self._server = server
        self._post = post
        self._warn = warn
        self._clock = clock
        self._expected: set[str] = set()
        self._trained: dict[str, int | Unavailable] = {}

    def expect(self) -> None:
        """A new Aider was started and will ask."""
        launch = self._launches.current
        if launch is not None:
            self._loop.watch(launch.channel.fileno(), READ, lambda _events: self._question())

    def heard(self, event: Event) -> None:
        """Take note of what Ollama says of a model."""
        if isinstance(event, ModelDescribed) and event.name in self._expected:
            self._trained[event.name] = event.trained_tokens
            if self._expected <= set(self._trained):
                self.answer()

    def forget(self) -> None:
        """Aider ended before it began."""
        launch = self._launches.current
        self._expected = set()
        self._loop.cancel(DEADLINE)
        if launch is not None and launch.channel.fileno() >= 0:
            self._loop.forget(launch.channel.fileno())
            launch.channel.close()

    def _question(self) -> None:
        launch = self._launches.current
        question = launch.read_question() if launch is not None else b""
        if question is None or launch is None:
            return
        self._loop.forget(launch.channel.fileno())
        if not question:
            launch.channel.close()
            return
        names = self._launches.understand(question)
        if isinstance(launch.settings, AiderSettings):
            self._watcher.watch_server(self._server(launch.settings), launch.settings.tokenizers)
        self._expected = set(names)
        self._trained = {}
        if not names or not self._watcher.send(requests.DescribeModels(names)):
            self.answer()
        else:
            self._loop.at(DEADLINE, self._clock() + _WAIT_SECONDS)

    def answer(self) -> None:
        """Let Aider begin with what is known now."""
        self._loop.cancel(DEADLINE)
        self._expected = set()
        self._launches.let_begin(self._trained)
        self._running.has_begun()
        for name in self._launches.not_handed_over:
            self._warn(
                "not_handed_over", f"no command of Aider's can name {name!r}: add it again by hand"
            )
        launch = self._launches.current
        if launch is not None:
            launch.channel.close()
            self._post(models_chosen(launch.settings, launch.window_tokens, self._launches.root))


def models_chosen(
    settings: AiderSettings | Unavailable, window: int | Unavailable, root: str
) -> ModelsChosen:
    """The session's models by Ollama's names."""
    if isinstance(settings, Unavailable):
        return ModelsChosen("", (), Unavailable(settings.reason))
    names = tuple(name for name in map(ollama_name, settings.models) if name is not None)
    main = (ollama_name(settings.model) or "") if settings.model else ""
    return ModelsChosen(main, names, window, root)
