"""The script that tells Aider's next prompt, with a small coder in Aider's place (names: Aider 0.80 and later)."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from aider_guard.launch.inside import next_prompt
from aider_guard.launch.inside.next_prompt import tell_next_prompts

PATIENCE_SECONDS = 20.0


class Chunks:
    """The parts of a request in Aider's order (coders/chat_chunks.py)."""

    def __init__(self, **parts: list[Any]) -> None:
        self.system: list[Any] = parts["system"]
        self.repo: list[Any] = parts["repo"]
        self.done: list[Any] = parts["done"]
        self.chat_files: list[Any] = parts["chat_files"]
        self.cur: list[Any] = parts["cur"]
        self.reminder = [message("system", "Mind the format")]

    def all_messages(self) -> list[Any]:
        """In the order in which they are sent."""
        return [*self.system, *self.repo, *self.done, *self.chat_files, *self.cur, *self.reminder]


class InputOutput:
    """Aider's terminal."""

    def __init__(self) -> None:
        self.prompt_session: Any = object()
        self.printed: list[str] = []

    def tool_output(self, text: str) -> None:
        """Print."""
        self.printed.append(text)

    def read_text(self, name: str) -> str:
        """Read a file."""
        try:
            return Path(name).read_text()
        except OSError:
            self.tool_output("it is gone")
            return ""


class Model:
    """The main model."""

    name = "ollama_chat/small"
    edit_format = "diff"
    reminder = "user"
    extra_params: dict[str, Any] | None = None

    def token_count(self, _messages: Any) -> int:
        """Count, by a library that takes long."""
        raise AssertionError("nothing is counted for it")


@dataclass
class RepoMap:
    """Makes the map; the spinner is the module's."""

    refresh: str = "auto"
    map_processing_time: float = 3.0
    map_cache: dict[str, str] = field(default_factory=dict)
    last_map: str | None = None
    repo_content_prefix: str = ""
    tree_context_cache: dict[str, Any] = field(default_factory=dict)
    io: Any = None

    def get_tags(self, _name: str, relative_name: str) -> list[Any]:
        """Find what a file defines and uses."""
        names = {"till/prices.py": "price_of", "till/__init__.py": "Till"}
        return [
            SimpleNamespace(kind="def", name=names[relative_name]),
            SimpleNamespace(kind="ref", name="total"),
        ]


class Repository:
    """GitPython's."""

    closed = False
    working_dir = "."
    odb = ""

    def __init__(self, _folder: str = "", odbt: type | None = None) -> None:
        pass

    def close(self) -> None:
        """End its processes."""
        self.closed = True


def message(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


class Coder:
    """As much of Aider's as is used."""

    get_input: Callable[..., Any]
    edit_format: str | None = None
    gpt_prompts = SimpleNamespace(instructions="Act", repo_content_prefix="Here is ")

    def __init__(self, names: list[str]) -> None:
        self.io, self.main_model = InputOutput(), Model()
        self.abs_fnames, self.abs_read_only_fnames = set(names), set[str]()
        self.cur_messages: list[Any] = []
        self.done_messages: list[Any] = []
        self.summarizer_thread: Any = None
        self.summarizing_messages: Any = None
        self.summarized_done_messages: list[Any] = []
        self.repo: Any = SimpleNamespace(io=self.io, repo=Repository(), ignore_file_cache={})
        self.repo_map: Any = RepoMap()
        self.map_times: list[float] = []
        self.map_follows = False
        self.map_waits: threading.Event | None = None
        self.map_begun = threading.Event()
        self.raises: Exception | None = None
        self.plain_line: Callable[[], str] = lambda: ""

    def summarize_end(self) -> None:
        """Wait for the summary, and take it over."""
        raise AssertionError("the summary is Aider's own")

    def format_chat_chunks(self) -> Chunks:
        """Make the next request."""
        if self.raises is not None:
            raise self.raises
        self.summarize_end()
        self.map_begun.set()
        if self.map_waits is not None:
            assert self.map_waits.wait(PATIENCE_SECONDS)
        self.main_model.token_count([])
        for name in ("till/prices.py", "till/__init__.py"):
            assert len(self.repo_map.get_tags("/" + name, name)) == 2
        module = sys.modules["aider.repomap"]
        module.Spinner("Updating").step()
        self.map_times.append(self.repo_map.map_processing_time)
        self.repo_map.map_cache["files"] = "a map of these words"
        words = self.cur_messages[-1]["content"] if self.map_follows and self.cur_messages else ""
        assert list(module.tqdm([1], desc="Scanning")) == [1]
        texts = [self.io.read_text(name) for name in list(self.abs_fnames)]
        self.abs_fnames.clear()
        return Chunks(
            system=[message("system", self.gpt_prompts.instructions)],
            repo=[
                message(
                    "user",
                    self.repo_map.repo_content_prefix
                    + (self.repo_map.last_map or "the map")
                    + (f" of {words}" if words else ""),
                )
            ],
            done=list(self.done_messages),
            chat_files=[message("user", text) for text in texts],
            cur=list(self.cur_messages),
        )


class AskCoder(Coder):
    """Answers questions."""

    edit_format = "ask"
    gpt_prompts = SimpleNamespace(instructions="Answer", repo_content_prefix="I work on ")


class DiffCoder(Coder):
    """Edits."""

    edit_format = "diff"


@dataclass
class Desk:
    """A coder that is asked for its next message, and the pipe that its prompts are told on."""

    coder: Coder
    read_fd: int
    drawn: list[str]
    pieces: bytearray = field(default_factory=bytearray)
    at_exit: list[Callable[[], object]] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """The next line; it comes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            line, newline, rest = bytes(self.pieces).partition(b"\n")
            if newline:
                self.pieces[:] = rest
                if line:
                    found: dict[str, Any] = json.loads(line)
                    return found
                continue
            left = deadline - time.monotonic()
            assert select.select([self.read_fd], [], [], left)[0], "nothing was told"
            self.pieces += os.read(self.read_fd, 65536)

    def contents(self) -> list[str]:
        """The texts of the messages of the next line."""
        return [one["content"] for one in self.told()["messages"]]

    def prompt(self, while_open: Callable[[], Any], line: str = "/ls") -> Any:
        """Open the main prompt, and answer it with a line after something."""
        self.coder.io.prompt_session = SimpleNamespace(while_open=while_open, line=line)
        return self.coder.get_input()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Aider's modules with these classes, and one file in the chat."""
    drawn: list[str] = []

    class PromptSession:
        def prompt(self, io: InputOutput, pre_run: Any = None) -> str:
            assert not drawn, "nothing is drawn before the prompt is"
            if pre_run is not None:
                pre_run()
            io.prompt_session.while_open()
            line: str = io.prompt_session.line
            return line

    class Spinner:
        def __init__(self, text: str) -> None:
            drawn.append(text)

    def bar(items: Any, **_named: Any) -> Any:
        drawn.append("bar")
        return items

    def get_input(self: Coder) -> str:
        if self.io.prompt_session is None:
            self.io.printed.append("> ")
            return self.plain_line()
        return PromptSession().prompt(self.io)

    monkeypatch.setattr(Coder, "get_input", get_input, raising=False)
    at_exit: list[Callable[[], object]] = []
    monkeypatch.setattr(next_prompt, "atexit", SimpleNamespace(register=at_exit.append))
    monkeypatch.setattr(next_prompt, "_LOOK_SECONDS", 0.01)
    modules: dict[str, dict[str, Any]] = {
        "aider": {},
        "aider.coders": {"__all__": [Coder, AskCoder, DiffCoder]},
        "aider.coders.base_coder": {"Coder": Coder},
        "aider.repomap": {"Spinner": Spinner, "tqdm": bar},
        "prompt_toolkit": {"PromptSession": PromptSession},
    }
    for name, values in modules.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "a.py").write_text("one")
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    tell_next_prompts(write_fd)
    try:
        coder = Coder([str(tmp_path / "a.py")])
        yield Desk(coder, read_fd, drawn, at_exit=at_exit)
    finally:
        for call in at_exit:
            call()
        os.close(read_fd)


def test_each_main_prompt_tells_the_next_one(desk: Desk) -> None:
    """All but what stands behind the message, and nothing of it is drawn, counted, changed or summarised."""
    before = dict(vars(desk.coder))
    seen: list[Any] = []
    assert desk.prompt(lambda: seen.append(desk.told())) == "/ls"
    assert seen[0]["model"] == "ollama_chat/small"
    assert [one["content"] for one in seen[0]["messages"]] == ["Act", "the map", "one"]
    desk.coder.cur_messages += [message("user", "hello"), message("assistant", "hi")]
    desk.prompt(lambda: seen.append(desk.contents()))
    assert seen[1] == ["Act", "the map", "one", "hello", "hi"]
    assert not desk.drawn
    assert not desk.coder.io.printed
    assert len(desk.coder.abs_fnames) == 1
    assert set(vars(desk.coder)) == set(before)
    # A map of the last message's words, kept for long, is not what the next message will have.
    assert desk.coder.map_times == [0, 0]
    assert desk.coder.repo_map.map_processing_time == 3.0
    # With --map-refresh files Aider would send a map that it did not make.
    assert desk.coder.repo_map.map_cache == {}


def test_a_file_that_is_written_while_the_prompt_is_open_is_told(desk: Desk) -> None:
    """By an editor beside it; the same prompt is not told twice."""
    name = next(iter(desk.coder.abs_fnames))
    seen: list[Any] = []

    def work() -> None:
        seen.append(desk.contents())
        written = Path(name).with_suffix(".new")
        written.write_text("and more")
        written.replace(name)  # at once: an empty file in between would be told as well
        seen.append(desk.contents())
        Path(name).unlink()
        seen.append(desk.contents())

    desk.prompt(work)
    assert [texts[2:] for texts in seen] == [["one"], ["and more"], [""]]


@pytest.mark.parametrize("line", ["/ask Why?", "/ask", "/ask\tWhy?"])
def test_a_question_in_another_mode_is_told_while_it_is_typed(desk: Desk, line: str) -> None:
    """As Aider will make it: with that mode's instructions, a map made anew, and no summary; then as before."""
    coder, seen = desk.coder, list[Any]()
    coder.repo_map.last_map = "the map of the last message"
    coder.done_messages = coder.summarizing_messages = [message("user", "a long talk")]
    coder.summarizer_thread = threading.Thread(target=lambda: None)
    coder.summarizer_thread.start()
    coder.summarizer_thread.join()
    coder.summarized_done_messages = [message("user", "in short")]
    own = ["Act", "the map of the last message", "in short", "one"]

    def work() -> None:
        seen.append(desk.contents())
        for typed in ("/as", line, "", "What is it?", "/code Do it"):
            coder.io.prompt_session.default_buffer = SimpleNamespace(text=typed)
            if typed not in ("/as", "What is it?"):
                seen.append(desk.contents())

    desk.prompt(work)
    assert seen == [
        own,
        ["Answer", "I work on the map", "a long talk", "one"],
        own,
        ["Act", "Here is the map", "a long talk", "one"],
    ]
    assert type(coder) is Coder
    assert coder.repo_map.last_map == "the map of the last message"
    assert coder.done_messages == [message("user", "a long talk")]


def type_lines(desk: Desk, *lines: str) -> list[str]:
    """The maps that are told while these lines stand at the prompt, one after the other; the first of an empty one."""
    seen: list[str] = []

    def work() -> None:
        seen.append(desk.contents()[1])
        for line in lines:
            desk.coder.io.prompt_session.default_buffer = SimpleNamespace(text=line)
            seen.append(desk.contents()[1])

    desk.prompt(work)
    return seen


@pytest.mark.parametrize(
    ("line", "words"),
    [("fix pri", "fix "), ("fix ", "fix "), ("fix", ""), ("", ""), ("a\nb c", "a\nb ")],
)
def test_the_word_that_is_being_typed_is_left_out(line: str, words: str) -> None:
    """It may become another one."""
    assert next_prompt._whole_words(line) == words


def test_the_map_follows_the_words_that_are_typed(desk: Desk) -> None:
    """Names of files, folders and definitions, the last word once it stands still; they are for the map alone."""
    desk.coder.map_follows = True
    desk.coder.cur_messages = [message("user", "hello")]
    maps = {
        "Is it in till": "the map of till",
        "Does price_of work": "the map of price_of",
        "Is `till/prices.py`, or Prices. right": "the map of Prices prices till till/prices.py",
        "Does it": "the map of hello",
        "/ask What is a Till for": "I work on the map of Till",
    }
    assert type_lines(desk, *maps) == ["the map of hello", *maps.values()]
    assert desk.coder.cur_messages == [message("user", "hello")]


@pytest.mark.parametrize(
    ("slowest", "lines"),
    [
        (-1.0, ["price_of it"]),
        (1.0, ["/add till/prices.py", "!cat till/prices.py", "total it"]),
    ],
)
def test_the_map_does_not_follow(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, slowest: float, lines: list[str]
) -> None:
    """One that takes long, and commands, and words that it does not know."""
    monkeypatch.setattr(next_prompt, "_LONGEST_MAP_SECONDS", slowest)
    coder = desk.coder
    coder.map_follows = True

    name = next(iter(coder.abs_fnames))

    def work() -> None:
        assert desk.contents()[1:] == ["the map", "one"]
        for line in lines:
            coder.io.prompt_session.default_buffer = SimpleNamespace(text=line)
            written = Path(name).with_suffix(".new")
            written.write_text(line)
            written.replace(name)  # a look that sees it has seen the line as well
            assert desk.contents()[1:] == ["the map", line]

    desk.prompt(work)


def test_a_question_in_a_mode_that_this_aider_has_not(desk: Desk) -> None:
    """It is told by the error's kind, and the next line as ever."""
    seen: list[Any] = []

    def work() -> None:
        seen.append(desk.contents()[0])
        desk.coder.io.prompt_session.default_buffer = SimpleNamespace(text="/architect Plan it")
        seen.append(desk.told())
        desk.coder.io.prompt_session.default_buffer.text = ""
        seen.append(desk.contents()[0])

    desk.prompt(work)
    assert seen == ["Act", {"unknown": "it could not be made (StopIteration)"}, "Act"]


def test_a_running_summary_is_not_waited_for(desk: Desk) -> None:
    """Up to the map the next prompt is known; the rest when the summary came, as Aider will take it over."""
    over = threading.Event()
    coder, seen = desk.coder, list[Any]()
    coder.done_messages = [message("user", "a long talk")]
    coder.summarizing_messages = list(coder.done_messages)
    coder.summarizer_thread = threading.Thread(target=lambda: over.wait(PATIENCE_SECONDS))
    coder.summarizer_thread.start()

    def work() -> None:
        seen.append(desk.contents())
        coder.summarized_done_messages = [message("user", "in short")]
        over.set()
        seen.append(desk.contents())

    desk.prompt(work)
    assert seen == [["Act", "the map"], ["Act", "the map", "in short", "one"]]
    assert coder.done_messages == [message("user", "a long talk")]


def test_a_summary_that_aider_will_drop_is_not_waited_for(desk: Desk) -> None:
    """It was begun before the note of the commit, and the history is another one since."""
    over = threading.Event()
    coder, seen = desk.coder, list[Any]()
    coder.summarizing_messages = [message("user", "a long talk")]
    coder.done_messages = [*coder.summarizing_messages, message("user", "I committed")]
    coder.summarizer_thread = threading.Thread(target=lambda: over.wait(PATIENCE_SECONDS))
    coder.summarizer_thread.start()
    desk.prompt(lambda: seen.append(desk.contents()))
    over.set()
    assert seen == [["Act", "the map", "a long talk", "I committed", "one"]]


@pytest.mark.parametrize("line", ["What is it?", "/ask What is it?"])
def test_a_message_waits_for_the_map_and_a_command_does_not(desk: Desk, line: str) -> None:
    """The message's own prompt needs the map, and would make it a second time beside the first."""
    desk.coder.map_waits = waits = threading.Event()
    assert desk.prompt(lambda: None, "/drop") == "/drop"
    done: list[bool] = []

    def let_go() -> None:
        done.append(True)
        waits.set()

    timer = threading.Timer(0.2, let_go)

    def read_the_screen() -> None:
        assert desk.coder.map_begun.wait(PATIENCE_SECONDS)
        timer.start()

    desk.prompt(read_the_screen, line)
    assert done
    timer.join()


def test_a_map_is_not_made_to_its_end_once_the_prompt_is_left(desk: Desk) -> None:
    """Aider makes its own, of all words of the message."""
    coder = desk.coder
    coder.map_waits = threading.Event()
    timer = threading.Timer(0.2, coder.map_waits.set)

    def leave() -> None:
        assert coder.map_begun.wait(PATIENCE_SECONDS)
        timer.start()

    desk.prompt(leave, "What is it?")
    assert coder.map_waits.is_set()
    assert not coder.map_times
    timer.join()
    coder.map_waits = None
    seen: list[Any] = []
    desk.prompt(lambda: seen.append(desk.contents()[0]))
    assert seen == ["Act"]


@pytest.mark.parametrize(
    ("line", "is_message"),
    [
        ("What is it?", True),
        ("/ask Why?", True),
        ("/ask", False),
        ("/ask ", False),
        ("/asking Why?", False),
        ("/drop", False),
        ("!ls", False),
        (" ", False),
    ],
)
def test_what_aider_sends_something_for(line: str, is_message: bool) -> None:
    """A mode without a question is a command, which waits for no map."""
    assert next_prompt._is_message(line) == is_message


def test_the_thread_has_ended_before_python_ends(desk: Desk) -> None:
    """One that is in a library of C++ then would end the process by a signal (SIGABRT); a map is waited for."""
    desk.coder.map_waits = waits = threading.Event()
    ended: list[bool] = []

    def leave() -> None:
        assert desk.coder.map_begun.wait(PATIENCE_SECONDS)

    desk.prompt(leave, "/exit")
    timer = threading.Timer(0.1, waits.set)
    timer.start()
    before = set(threading.enumerate())
    for call in desk.at_exit:
        call()
        ended.append(waits.is_set())
    assert ended == [True]
    assert not [one for one in before if one.name == "next-prompt" and one.is_alive()]
    timer.join()


def test_other_questions_tell_nothing(desk: Desk) -> None:
    """A confirm comes while Aider works, and its prompt is no main prompt."""
    session = sys.modules["prompt_toolkit"].PromptSession()
    desk.coder.io.prompt_session = SimpleNamespace(while_open=lambda: None, line="y")
    assert session.prompt(desk.coder.io) == "y"
    assert not select.select([desk.read_fd], [], [], 0)[0]


def test_without_prompt_toolkit_it_is_told_as_well(desk: Desk) -> None:
    """With --no-fancy-input, or on a dumb terminal."""
    desk.coder.io.prompt_session = None
    desk.coder.plain_line = lambda: desk.contents()[0]
    assert desk.coder.get_input() == "Act"


def test_an_error_is_told_by_its_kind_alone(desk: Desk) -> None:
    """Its words may hold the name of a file, or what is in it."""
    desk.coder.raises = ValueError("secret.py: line 3")
    seen: list[Any] = []
    desk.prompt(lambda: seen.append(desk.told()))
    assert seen == [{"unknown": "it could not be made (ValueError)"}]


def test_messages_are_told_as_aider_sends_them_to_this_model(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For DeepSeek-R1, Aider puts empty messages between neighbours of one role (sendchat.py)."""

    def alternating(messages: list[Any]) -> list[Any]:
        return [*messages[:1], message("assistant", ""), *messages[1:]]

    module = ModuleType("aider.sendchat")
    vars(module).update(ensure_alternating_roles=alternating)
    monkeypatch.setitem(sys.modules, "aider.sendchat", module)
    model: Any = desk.coder.main_model
    model.is_deepseek_r1 = lambda: True
    seen: list[Any] = []
    desk.prompt(lambda: seen.append(desk.contents()))
    assert seen == [["Act", "", "the map", "one"]]


@pytest.mark.parametrize(
    ("name", "extra", "think"),
    [
        ("ollama_chat/qwen3", None, {}),
        ("ollama_chat/qwen3", {"think": False}, {"think": False}),
        ("ollama_chat/qwen3", {"reasoning_effort": "low"}, {"think": True}),
        ("ollama_chat/qwen3", {"reasoning_effort": "none"}, {"think": False}),
        ("ollama_chat/gpt-oss", {"reasoning_effort": "low"}, {"think": "low"}),
    ],
)
def test_how_it_thinks_is_told(name: str, extra: Any, think: dict[str, Any]) -> None:
    """It is part of some models' prompts."""
    assert next_prompt._thinking(SimpleNamespace(name=name, extra_params=extra)) == think


def test_another_aider_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is put together otherwise runs as it is."""
    module = ModuleType("aider.coders.base_coder")
    monkeypatch.setitem(sys.modules, "aider.coders.base_coder", module)
    read_fd, write_fd = os.pipe()
    tell_next_prompts(write_fd)
    os.close(write_fd)
    with open(read_fd, "rb") as lines:
        (told,) = (json.loads(line) for line in lines if line.strip())
    assert told["unknown"].startswith("this Aider is put together otherwise")


def test_a_reader_that_is_gone_harms_nothing(desk: Desk) -> None:
    """The guard ended; Aider goes on."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), desk.read_fd)
    assert desk.prompt(lambda: None) == "/ls"
    assert desk.prompt(lambda: None, "hello") == "hello"
