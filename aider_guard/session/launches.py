"""Starts Aider, each launch with its own files, and hands the chat of one launch over to the next."""

from __future__ import annotations

import codecs
import contextlib
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aider_guard.airgap.served import Sandbox
from aider_guard.config import Config
from aider_guard.core.actions import Handoff, Notice
from aider_guard.core.chatlog import (
    Announced,
    Exchange,
    announcements,
    chat_was_cleared,
    exchanges,
    last_exchanges,
    render_for_restore,
    works_with_git,
)
from aider_guard.core.drop_advice import why_not
from aider_guard.core.fit import Fit, Need
from aider_guard.core.readings import Unavailable
from aider_guard.errors import LaunchError
from aider_guard.launch import command, pins
from aider_guard.launch.aider import Aider
from aider_guard.launch.aider_settings import AiderSettings, decode, ollama_name
from aider_guard.launch.environment import LocalEnvironment
from aider_guard.launch.pins import DEFAULT_WINDOW_TOKENS
from aider_guard.launch.plan import Plan
from aider_guard.session import registry
from aider_guard.session.histories import PrivateHistories
from aider_guard.session.start_aider import NextPromptPipe, Started, start_aider
from aider_guard.session.terminal import Size


@dataclass
class Launch:
    """One run of Aider: its files, and the socket on which it asks before it begins."""

    number: int
    folder: Path
    handoff: Handoff | None
    channel: socket.socket
    received: bytearray = field(default_factory=bytearray)
    settings: AiderSettings | Unavailable = Unavailable("Aider has not said yet what it will use")
    files: command.LaunchFiles | None = None
    window_tokens: int | Unavailable = Unavailable("the window is not fixed yet")
    environment: LocalEnvironment = LocalEnvironment()
    """The variables that it got after every ``.env``."""
    needs: tuple[Need, ...] = ()
    """What each model was computed to need."""

    @property
    def saved_to(self) -> Path:
        """The file that the hidden ``/save`` writes."""
        return self.folder / "chat.commands"

    def read_question(self) -> bytes | None:
        """Read Aider's question: all of it, b"" when it will never come, None when it is not complete yet."""
        try:
            data = self.channel.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self.received += data
        if self.received.endswith(b"\n"):
            return bytes(self.received)
        return None if data else b""

    def tell_variables(self, environment: LocalEnvironment) -> None:
        """Let Aider load its code with these variables while it waits for the answer."""
        with contextlib.suppress(OSError):  # as below
            command.send_variables(self.channel, environment)

    def answer(
        self,
        arguments: Sequence[str],
        environment: LocalEnvironment = LocalEnvironment(),  # noqa: B008  # a frozen value
        next_prompts_fd: int = -1,
    ) -> None:
        """Let Aider begin with these arguments after the user's own, and tell its next prompts on this pipe."""
        self.channel.setblocking(True)
        # Aider may have ended meanwhile, which is noticed by its exit.
        with contextlib.suppress(OSError):
            command.send_answer(self.channel, arguments, environment, next_prompts_fd)


@dataclass(frozen=True)
class Resumed:
    """What a session takes over from one that ended."""

    handoff: Handoff
    exchanges: tuple[Exchange, ...] = ()
    announced: Announced | None = None
    has_git: bool = True
    notice: Notice = Notice("resumed", ())
    """What is said above the first prompt."""


def ollama_names(settings: AiderSettings) -> tuple[str, ...]:
    """Return the names of Aider's models as Ollama knows them, without those that it does not serve."""
    return tuple(name for name in map(ollama_name, settings.models) if name is not None)


def parse_saved(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the editable and the read-only files from what ``/save`` wrote: a fixed prefix, then the name as it is."""
    editable, read_only = "/add       ", "/read-only "
    lines = text.split("\n")
    return (
        tuple(line.removeprefix(editable) for line in lines if line.startswith(editable)),
        tuple(line.removeprefix(read_only) for line in lines if line.startswith(read_only)),
    )


def limit_tokens(keep: float, window_tokens: int | None) -> int:
    """Return how many tokens of the chat may go to the next launch: *keep* of the window at most.

    It is less than what Aider would summarise with a request of its own at its start; the limit for that is a sixteenth
    of the window, from 1,024 to 8,192 (aider/models.py).
    """
    window = window_tokens or DEFAULT_WINDOW_TOKENS
    return int(min(keep * window, 0.9 * min(max(window / 16, 1024), 8192)))


def estimate_tokens(exchange: Exchange) -> int:
    """Estimate an exchange's cl100k tokens on the high side, two bytes each, for when the sidecar cannot count."""
    return (len(exchange.user.encode()) + len(exchange.assistant.encode())) // 2 + 8


_NOT_ANNOUNCED = Announced("", "", "")


class Launches:
    """Makes the launches of one session, and keeps what the next one takes over."""

    def __init__(
        self,
        folder: Path,
        aider: Aider,
        config: Config,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        sandbox: Sandbox,
        next_prompts: NextPromptPipe = NextPromptPipe(),  # noqa: B008  # a frozen value
    ) -> None:
        self._sandbox, self._next_prompts = sandbox, next_prompts
        self._folder = folder
        self._aider = aider
        self._config = config
        self._arguments = list(arguments)
        self._environment = environment
        self._first: Announced | None = None
        self._seed = ""
        self._models: frozenset[str] = frozenset()
        self._last: Announced = _NOT_ANNOUNCED
        self._has_git = True
        self.histories: PrivateHistories | None = None
        self.current: Launch | None = None
        self.count = 0
        self.unnameable_files: tuple[str, ...] = ()
        """The files that were not handed over, because no command of Aider's can name them."""

    def start(self, size: Size, attributes: list[Any] | None, *, ahead: bool = False) -> Started:
        """Start Aider again, *ahead* of its turn or for now. Raises LaunchError when it cannot be started."""
        return start_aider(
            *(self._aider, self._arguments, self._environment, size, attributes),
            sandbox=self._sandbox,
            ahead=ahead,
            next_prompts=self._next_prompts,
        )

    def adopt(self, started: Started, handoff: Handoff | None = None) -> None:
        """Make the Aider that was started this session's next launch. Raises LaunchError, and ends it then."""
        self.count += 1
        folder = self._folder / f"launch-{self.count}"
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            started.channel.close()
            started.child.end()
            raise LaunchError(f"{folder} cannot be made: {error.strerror}") from error
        self.current = Launch(self.count, folder, handoff, started.channel)

    def understand(self, question: bytes) -> tuple[str, ...]:
        """Read the settings out of Aider's question, and return the names of its models as Ollama knows them."""
        assert self.current is not None
        settings = self.current.settings = decode(question)
        return () if isinstance(settings, Unavailable) else ollama_names(settings)

    def let_begin(self, plan: Plan) -> None:
        """Write this launch's files and answer Aider's question. Raises LaunchError when they cannot be written."""
        launch = self.current
        assert launch is not None
        settings = launch.settings
        if isinstance(settings, Unavailable) or plan.pins is None:
            # The descriptor goes along, so that Aider keeps it from its programs.
            launch.answer([], next_prompts_fd=self._next_prompts.write_fd)
            return
        launch.window_tokens = plan.window_tokens
        launch.needs = plan.fit.needs if isinstance(plan.fit, Fit) else ()
        launch.environment = plan.environment
        model_settings, metadata = pins.write_pins(plan.pins, launch.folder)
        launch.files = self._files(launch, settings, model_settings, metadata)
        arguments = command.session_arguments(launch.files, settings)
        if launch.handoff is not None:
            commands = self._load_commands(launch.handoff, settings)
            launch.files.commands.write_text(commands, encoding=launch.files.encoding)
            arguments += command.handoff_arguments(
                launch.files,
                launch.handoff,
                self._first or _NOT_ANNOUNCED,
                self._last,
                has_git=self._has_git,
            )
        elif settings.restore_chat_history:
            arguments.append("--restore-chat-history")
        launch.answer(arguments, plan.environment, self._next_prompts.write_fd)

    def _files(
        self, launch: Launch, settings: AiderSettings, model_settings: Path, metadata: Path
    ) -> command.LaunchFiles:
        users_chat, encoding = _path(settings.chat_history_file), encoding_of(settings)
        if self.histories is None:
            users_input = _path(settings.input_history_file)
            self.histories = PrivateHistories(self._folder, users_chat, users_input)
        seed = self._seed
        # Aider does not read the user's own chat history: what it shall restore of it is in the private one.
        restores = launch.handoff is None and settings.restore_chat_history
        if restores and users_chat is not None and users_chat.is_file():
            seed = users_chat.read_text(encoding=encoding, errors="replace")
        private = self.histories.begin_launch(launch.number, seed, encoding)
        return command.LaunchFiles(
            chat_history=private.chat,
            input_history=private.input,
            analytics_log=_path(settings.analytics_log) or launch.folder / "analytics.jsonl",
            bell=launch.folder / "bell",
            commands=launch.folder / "load.commands",
            model_settings=model_settings,
            model_metadata=metadata,
            encoding=encoding,
        )

    def _load_commands(self, handoff: Handoff, settings: AiderSettings) -> str:
        root = self.root
        # Aider asks whether to create a file that is gone, and its default is Yes.
        existing = tuple(
            name for name in handoff.editable if os.path.exists(os.path.join(root, name))
        )
        launched = [os.path.relpath(name, root) for name in settings.read or ()]
        encoding = encoding_of(settings)

        def is_nameable(name: str) -> bool:
            return not why_not(name) and name.encode(encoding, "replace").decode(encoding) == name

        names = (*existing, *handoff.read_only)
        self.unnameable_files = tuple(name for name in names if not is_nameable(name))
        handoff = replace(
            handoff,
            editable=tuple(filter(is_nameable, existing)),
            read_only=tuple(filter(is_nameable, handoff.read_only)),
        )
        return command.load_commands(handoff, launched)

    def forget_cleared_chat(self, text: str) -> None:
        """Keep a chat that was cleared in *text* from coming back with the next switch of the mode.

        Aider reads the history file again at each switch, if it restored it at the start (base_coder.py).
        """
        restored = self.current is not None and self.current.handoff is not None
        if restored and self.histories is not None and chat_was_cleared(text):
            self.histories.forget_chat()

    @property
    def root(self) -> str:
        """The folder that the names of files in the chat are relative to."""
        settings = self.current.settings if self.current is not None else None
        named = settings.git_root if isinstance(settings, AiderSettings) else None
        return os.path.realpath(named or os.getcwd())

    def note_models(self, models: Iterable[str]) -> None:
        """Add to the models that this session works with, and let other sessions know of them."""
        known, self._models = self._models, self._models.union(models)
        if self._models == known:
            return
        # When it fails, another session may unload one of them, and it is loaded again.
        with contextlib.suppress(OSError):
            registry.note_models(self._folder, self._models, self._pinned_tokens())

    def _pinned_tokens(self) -> int:
        """Return the window that is fixed for Ollama's models; 0 where it is not known, or of another server's."""
        launch = self.current
        settings = launch.settings if launch is not None else None
        if launch is None or not isinstance(settings, AiderSettings) or not settings.models:
            return 0
        is_ollamas = ollama_name(settings.models[0]) is not None
        return launch.window_tokens if is_ollamas and isinstance(launch.window_tokens, int) else 0

    def models_of_others(self) -> frozenset[str]:
        """Return the models that other running sessions work with."""
        return registry.models_of_others(self._folder)

    # What the next launch takes over

    def take_over(self, resumed: Resumed) -> None:
        """Begin the first launch, which was adopted already, with the chat of an earlier session.

        Its models are named at each launch of this session, as what the user's own settings name may be others by now.
        """
        self._first, self._last = _NOT_ANNOUNCED, resumed.announced or _NOT_ANNOUNCED
        self._has_git = resumed.has_git
        self._seed = render_for_restore(resumed.exchanges)
        assert self.current is not None
        self.current.handoff = resumed.handoff

    def chat_text(self) -> str:
        """Return the private chat history of this launch so far."""
        if self.current is None or self.current.files is None:
            return ""
        files = self.current.files
        try:
            return files.chat_history.read_text(encoding=files.encoding, errors="replace")
        except OSError:
            return ""

    def snapshot_chat(self) -> tuple[Exchange, ...]:
        """Keep the models and the mode in use, and return the exchanges of the chat, oldest first."""
        text = self.chat_text()
        announced = announcements(text)
        if announced is not None:
            self._last = announced
        self._has_git = works_with_git(text)
        return exchanges(text)

    def note_first_announcement(self) -> None:
        """Remember the models Aider began with: only what is switched later is named at the next launch."""
        if self._first is None:
            self._first = announcements(self.chat_text())

    def select_exchanges(self, chat: Sequence[Exchange], tokens: Sequence[int]) -> int:
        """Choose the exchanges that the next launch begins with, and return how many they are."""
        window = self.current.window_tokens if self.current is not None else None
        limit = limit_tokens(self._config.keep, window if isinstance(window, int) else None)
        selected = last_exchanges(chat, tokens, limit)
        self._seed = render_for_restore(selected)
        return len(selected)


def _path(name: str | None) -> Path | None:
    return Path(name).absolute() if name else None


def encoding_of(settings: AiderSettings) -> str:
    """Return the encoding of Aider's files; an unknown one is refused by Aider itself."""
    try:
        return codecs.lookup(settings.encoding).name
    except LookupError:
        return "utf-8"
