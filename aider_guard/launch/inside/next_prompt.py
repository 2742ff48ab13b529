"""Tells the guard, at each main prompt of Aider's, what the next request will hold but for the new message.

Aider makes it itself, by its own ``format_chat_chunks`` on a copy of the coder, in a thread that starts once the prompt
is drawn. The copy shares nothing that the thread could change: what it reads from git comes over a repository object of
its own (two users of GitPython's one ``git cat-file --batch`` wait for each other for ever), it prints nothing, and it
leaves a running summary alone, which ``format_chat_chunks`` of the coder itself would end.

Each prompt is one line of JSON on a pipe, between newlines: a line that an ended Aider left half written is then a line
of its own, which the reader drops.

The line that is typed decides two things about it, and is looked at while it is typed. ``/ask``, ``/code`` and
``/architect`` ask in that mode (commands.py, ``_generic_chat_command``), whose instructions are others. And the map,
which stands in front of the history and the files, follows the message's words unless it is kept (base_coder.py,
``get_repo_map``): a name of a file or of a definition has it made anew. What is made here is not kept for Aider, whose
map would be another one than without the guard.
"""

from __future__ import annotations

import atexit
import copy
import importlib
import json
import os
import re
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

_COMMANDS = ("/", "!")
_IN_A_MODE = re.compile(r"/(ask|code|architect)(?:\s|$)")
_PRINTS = ("tool_output", "tool_warning", "tool_error", "assistant_output", "print", "ai_output")
_LOOK_SECONDS = 1.0
"""How often files of the chat and the line are looked at while the prompt is open."""
_SEND_SECONDS = 1.0
_WAIT_SECONDS = 30.0
_LONGEST_MAP_SECONDS = 2.0
"""Where the prompt takes longer to make than this, it is not made again and again while the line is typed."""


def tell_next_prompts(fd: int) -> None:
    """Tell on the pipe *fd* what each next prompt will hold, from now on; once why not, where this Aider is another."""
    os.set_inheritable(fd, False)
    try:
        Coder = importlib.import_module("aider.coders.base_coder").Coder  # noqa: N806  # a class
        PromptSession = importlib.import_module("prompt_toolkit").PromptSession  # noqa: N806
        plain_input, plain_prompt = Coder.get_input, PromptSession.prompt
        _ = Coder.format_chat_chunks
    except (ImportError, AttributeError) as error:
        _send(fd, {"unknown": f"this Aider is put together otherwise ({type(error).__name__})"})
        return
    teller = _Teller(fd)
    _silence_map(teller)
    atexit.register(teller.end)

    def get_input(self: Any, *arguments: Any, **named: Any) -> Any:
        teller.expect(self)
        line = None
        try:
            line = plain_input(self, *arguments, **named)
            return line
        finally:
            teller.leave(line)

    def prompt(self: Any, *arguments: Any, **named: Any) -> Any:
        if teller.is_expecting():  # else a confirm, or another question
            before = named.get("pre_run")

            def pre_run() -> None:
                if before is not None:
                    before()
                teller.start()

            named["pre_run"] = pre_run
        return plain_prompt(self, *arguments, **named)

    Coder.get_input, PromptSession.prompt = get_input, prompt


class _Teller:
    """The thread that makes and tells the next prompt, and what the main thread lets it know."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._coder: Any = None
        self._expected: Any = None
        self._prompt_number = 0
        self._is_making = self._is_over = False
        self._repo: tuple[Any, Any] = (None, None)
        self._tree_contexts: dict[Any, Any] = {}
        self._names: set[str] = set()
        self._seconds = 0.0
        self._number = 0

    # In Aider's main thread

    def expect(self, coder: Any) -> None:
        """Expect the main prompt of *coder*; a prompt without prompt_toolkit is drawn at once."""
        self._expected = coder
        if getattr(coder.io, "prompt_session", None) is None:
            self.start()

    def is_expecting(self) -> bool:
        """Return whether the main prompt is expected, in this thread."""
        is_main = threading.current_thread() is threading.main_thread()
        return self._expected is not None and is_main

    def start(self) -> None:
        """Begin: the prompt is drawn."""
        with self._changed:
            self._coder = self._expected
            self._prompt_number += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="next-prompt", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def leave(self, line: Any) -> None:
        """End: the prompt was answered with *line*, or left.

        A message, or a question in another mode, has Aider make a map, and two at once take twice as long: it waits
        until the one that is being made is given up (``go_on``). Other commands do not.
        """
        is_message = isinstance(line, str) and _is_message(line)
        with self._changed:
            self._expected = self._coder = None
            self._prompt_number += 1
            self._changed.notify_all()
            if is_message:
                self._changed.wait_for(lambda: not self._is_making, _WAIT_SECONDS)

    def end(self) -> None:
        """End the thread before Python ends: one that is in a library of C++ then is killed with its process (SIGABRT).

        A map that is being made is given up (``go_on``), and that is waited for.
        """
        with self._changed:
            self._is_over = True
            self._expected = self._coder = None
            self._prompt_number += 1
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_WAIT_SECONDS)

    # In the thread

    def is_here(self) -> bool:
        """Return whether this is the teller's own thread."""
        return threading.current_thread() is self._thread

    def go_on(self) -> None:
        """Raise ``_LeftError`` where the prompt was left for which a map is being made."""
        if self._is_over or self._prompt_number != self._number:
            raise _LeftError

    def _run(self) -> None:
        told: Any = None
        seen: Any = None
        line = ""
        number = 0
        while True:
            with self._changed:
                is_new = self._changed.wait_for(
                    lambda: (
                        self._is_over or (self._coder is not None and self._prompt_number != number)  # noqa: B023  # called here only
                    ),
                    _LOOK_SECONDS if self._coder is not None else None,
                )
                coder = self._coder
                if self._is_over:
                    return
                if coder is None:
                    continue
                self._number = number = self._prompt_number
                self._is_making = True
            line_before, line = line, _line_being_typed(coder)
            mode = _mode_of(line, coder)
            mentions = self._mentions(line if line == line_before else _whole_words(line))
            before, seen = seen, [mode, mentions, *_files_now(coder)]
            message = self._make(coder, mode, mentions) if is_new or before != seen else None
            with self._changed:
                self._is_making = False
                self._changed.notify_all()
            # A prompt that was told already is told again only where a message may have come between.
            if message is not None and (is_new or message != told):
                told = message
                _send(self._fd, message, lambda: self._prompt_number == number)  # noqa: B023  # called here only

    def _mentions(self, line: str) -> str:
        """Return the words of a line that the map follows, in the order of the alphabet; "" for none."""
        if self._seconds > _LONGEST_MAP_SECONDS or not _is_message(line):
            return ""
        text = _IN_A_MODE.sub("", line)
        # As get_ident_mentions and get_file_mentions of base_coder.py take words from a message.
        words = {word.rstrip(",.!;:?").strip("\"'`*_") for word in text.split()}
        words |= set(re.split(r"\W+", text))
        return " ".join(sorted(word for word in words if {word, word.lower()} & self._names))

    def _make(self, coder: Any, mode: str, mentions: str) -> dict[str, Any] | None:
        """Return what is to be told; None where the prompt was left meanwhile."""
        began_at = time.monotonic()
        try:
            snapshot = self._snapshot(coder)
            if mode:
                _change_mode(snapshot, coder, mode)
            if mentions:
                snapshot.cur_messages.append({"role": "user", "content": mentions})
            chunks = snapshot.format_chat_chunks()
            self._seconds = time.monotonic() - began_at
            chunks.reminder = []
            if mentions:
                chunks.cur = chunks.cur[:-1]
            # What follows the map is not known before a summary ends; a question in another mode takes none over.
            if not mode and _awaits_summary(coder):
                chunks.done = chunks.chat_files = chunks.cur = []
            messages = _as_sent(coder.main_model, chunks.all_messages())
            model = coder.main_model.name
            return {"model": model, "messages": messages, **_thinking(coder.main_model)}
        except _LeftError:
            return None
        except Exception as error:  # noqa: BLE001  # another Aider, a file that is just being written
            return {"unknown": f"it could not be made ({type(error).__name__})"}

    def _snapshot(self, coder: Any) -> Any:
        """Return a copy of the coder that reads what the coder would, and changes and prints nothing."""
        made = copy.copy(coder)
        made.io = _silent(coder.io)
        made.cur_messages, made.done_messages = list(coder.cur_messages), _history(coder)
        # In their own order, in which Aider sends the files; a copy of a set may have another.
        made.abs_fnames = list(coder.abs_fnames)
        made.abs_read_only_fnames = list(coder.abs_read_only_fnames)
        made.summarize_start = made.summarize_end = lambda: None
        made.main_model = copy.copy(coder.main_model)
        # Only whether there is room for a reminder is decided by it, which is behind the message.
        made.main_model.token_count = lambda _messages: 0
        made.main_model.reminder = None
        if coder.repo is not None:
            made.repo = copy.copy(coder.repo)
            made.repo.io, made.repo.repo = made.io, self._own_repo(coder.repo.repo)
            made.repo.ignore_file_cache = dict(coder.repo.ignore_file_cache)
        if coder.repo_map is not None:
            made.repo_map = copy.copy(coder.repo_map)
            made.repo_map.io, made.repo_map.tree_context_cache = made.io, self._tree_contexts
            made.repo_map.map_cache = dict(coder.repo_map.map_cache)
            made.repo_map.get_tags = self._noting_names(made.repo_map.get_tags)
            if made.repo_map.refresh == "auto":
                # Aider's own map is kept under the words of its message: this one is made anew, too.
                made.repo_map.map_processing_time = 0
        return made

    def _noting_names(self, get_tags: Any) -> Any:
        """Return Aider's ``get_tags``, made to note which words the map follows (repomap.py, ``get_ranked_tags``)."""

        def noting(name: str, relative_name: str) -> Any:
            tags = list(get_tags(name, relative_name))
            if relative_name not in self._names:
                stem, _ = os.path.splitext(os.path.basename(relative_name))
                self._names.update(
                    [relative_name, stem, stem.lower(), *re.split(r"[/\\]", relative_name)]
                )
            self._names.update(tag.name for tag in tags if tag.kind == "def")
            return tags

        return noting

    def _own_repo(self, theirs: Any) -> Any:
        """Return a repository object of the thread's own for the one of the coder's."""
        of, own = self._repo
        if of is not theirs:
            if own is not None:
                own.close()
            own = (
                None if theirs is None else type(theirs)(theirs.working_dir, odbt=type(theirs.odb))
            )
            self._repo = (theirs, own)
        return own


def _is_message(line: str) -> bool:
    """Whether Aider sends something for this line: a message, or a question in another mode."""
    if _IN_A_MODE.match(line):
        return len(line.split()) > 1
    return bool(line.strip()) and not line.startswith(_COMMANDS)


def _line_being_typed(coder: Any) -> str:
    """Return what stands at the prompt; "" where it is not drawn by prompt_toolkit."""
    session = getattr(coder.io, "prompt_session", None)
    return str(getattr(getattr(session, "default_buffer", None), "text", ""))


def _whole_words(line: str) -> str:
    """Return a line without its last word, which may not be all of a word yet."""
    return line[: len(line) - len(re.split(r"\s", line)[-1])]


def _mode_of(line: str, coder: Any) -> str:
    """Return the edit format for which a line asks, "" where it asks for none."""
    found = _IN_A_MODE.match(line)
    if found is None:
        return ""
    return str(getattr(coder.main_model, "edit_format", "")) if found[1] == "code" else found[1]


def _change_mode(snapshot: Any, coder: Any, mode: str) -> None:
    """Make a snapshot the coder that Aider makes for one question (``Coder.create`` with ``from_coder``).

    It has the mode's class, sets built anew, a map of its own, and the history without a summary that is being made.
    """
    coders = importlib.import_module("aider.coders").__all__
    snapshot.__class__ = next(one for one in coders if one.edit_format == mode)
    snapshot.done_messages = list(coder.done_messages)
    # ``Coder.__init__`` builds its sets from these lists: names that collide stand in the order in which they came.
    snapshot.abs_fnames = list(set(snapshot.abs_fnames))
    snapshot.abs_read_only_fnames = list(set(snapshot.abs_read_only_fnames))
    if snapshot.repo_map is not None:
        made = snapshot.repo_map
        made.map_cache, made.last_map, made.map_processing_time = {}, None, 0
        made.repo_content_prefix = snapshot.gpt_prompts.repo_content_prefix


class _LeftError(Exception):
    """The prompt was left for which a map is being made."""


class _NoSpinner:
    """Replaces what Aider draws while it makes the map: prints nothing, and ends a map that is not wanted any more."""

    def __init__(self, teller: _Teller) -> None:
        self.step = lambda *_words, **_named: teller.go_on()

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments, **_named: None


def _silence_map(teller: _Teller) -> None:
    """Make the map's spinner and progress bar draw nothing in the teller's thread: the prompt is on the screen."""
    module = sys.modules.get("aider.repomap")
    spinner, bar = getattr(module, "Spinner", None), getattr(module, "tqdm", None)

    def going_on(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            teller.go_on()
            yield item

    if spinner is not None:
        silent = _NoSpinner(teller)
        module.Spinner = lambda *words, **named: (  # type: ignore[union-attr]
            silent if teller.is_here() else spinner(*words, **named)
        )
    if bar is not None:
        module.tqdm = lambda items, **named: (  # type: ignore[union-attr]
            going_on(items) if teller.is_here() else bar(items, **named)
        )


def _silent(io: Any) -> Any:
    """Return a copy of Aider's InputOutput that prints nothing, asks nothing, and notes no error."""
    quiet = copy.copy(io)
    for name in _PRINTS:
        setattr(quiet, name, lambda *_words, **_named: None)
    quiet.confirm_ask = lambda *_words, **_named: False
    return quiet


def _is_summarising(coder: Any) -> bool:
    thread = coder.summarizer_thread
    return thread is not None and bool(thread.is_alive())


def _awaits_summary(coder: Any) -> bool:
    """Return whether a summary is being made that the next message will take over.

    One that was begun before Aider noted its commit is dropped (base_coder.py, ``move_back_cur_messages``).
    """
    of = coder.summarizing_messages
    return _is_summarising(coder) and (of is None or of == list(coder.done_messages))


def _history(coder: Any) -> list[Any]:
    """Return the history as the next message will find it: Aider takes a summary over then (``summarize_end``)."""
    done = list(coder.done_messages)
    ended = coder.summarizer_thread is not None and not _is_summarising(coder)
    if ended and coder.summarizing_messages == done:
        return list(coder.summarized_done_messages)
    return done


def _as_sent(model: Any, messages: list[Any]) -> list[Any]:
    """Return the messages as Aider sends them to this model (models.py, ``send_completion``)."""
    check = getattr(model, "is_deepseek_r1", None)
    if check is None or not check():
        return messages
    from aider.sendchat import ensure_alternating_roles

    fixed: list[Any] = ensure_alternating_roles([*messages, {"role": "user", "content": ""}])
    return fixed[:-1]


def _thinking(model: Any) -> dict[str, Any]:
    """Return how litellm tells Ollama whether to think (its llms/ollama/chat/transformation.py, 1.81)."""
    extra = model.extra_params or {}
    effort = extra.get("reasoning_effort")
    if extra.get("think") is not None:
        return {"think": extra["think"]}
    if effort is None:
        return {}
    return {"think": effort if "gpt-oss" in model.name else effort in ("low", "medium", "high")}


def _files_now(coder: Any) -> Any:
    """Return what shows that a file of the chat was written, or that a summary came."""
    names = (*coder.abs_fnames, *coder.abs_read_only_fnames)
    return [_is_summarising(coder), *((name, _written(name)) for name in names)]


def _written(name: str) -> Any:
    try:
        facts = os.stat(name)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


def _send(fd: int, message: dict[str, Any], is_current: Any = lambda: True) -> None:
    """Write a message; what does not get through while it is current is left out."""
    data = memoryview(b"\n" + json.dumps(message, default=str).encode() + b"\n")
    try:
        while data and is_current():
            if select.select([], [fd], [], _SEND_SECONDS)[1]:
                data = data[os.write(fd, data[: select.PIPE_BUF]) :]
    except OSError:  # the guard is gone
        pass
