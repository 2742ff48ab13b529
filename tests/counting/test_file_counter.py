"""Counting tokens: the process around it anywhere, the counts where Aider is installed."""

from __future__ import annotations

import os
import queue
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import psutil
import pytest

from aider_guard.core.actions import CountFiles, CountTexts, StopSidecar
from aider_guard.core.codec import WireError
from aider_guard.core.events import FilesCounted, TextsCounted
from aider_guard.core.readings import Unavailable
from aider_guard.core.wire import decode, encode
from aider_guard.counting import files as files_module
from aider_guard.counting.files import (
    ENCODING_FILE,
    MAX_FILE_BYTES,
    FileCounter,
    answer,
    count_file,
    count_text,
    encoding_problem,
    read_regular_file,
    uncounted,
)
from aider_guard.demo.layout import cache_folder, rig_in

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def tokenizers() -> str:
    """The encodings that the private Aider's litellm carries."""
    packages = rig_in(cache_folder()).aider / "lib"
    pattern = "python3*/site-packages/litellm/litellm_core_utils/tokenizers"
    for folder in packages.glob(pattern):
        return str(folder)
    pytest.skip("the private Aider is not installed (make rig)")


@pytest.fixture
def counter(tokenizers: str) -> Iterator[FileCounter]:
    """A counter on them."""
    counter = FileCounter(tokenizers)
    yield counter
    counter.close()


def test_counts_texts(counter: FileCounter) -> None:
    """The numbers of litellm.token_counter; markers of special tokens are plain text to both."""
    texts = ("hello world", "", "<|endoftext|>", "héllo \udc80", "def f():\n    return 1\n")
    assert counter.count(CountTexts(3, texts)) == TextsCounted(3, (2, 0, 7, 4, 8))


def test_counts_files_as_they_are_now(counter: FileCounter, tmp_path: Path) -> None:
    """Each path has its count or its reason; a changed file has another count."""
    (tmp_path / "a b.py").write_text("hello world")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 hello")
    (tmp_path / "empty").touch()
    absolute = str(tmp_path / "a b.py")
    request = CountFiles(str(tmp_path), ("a b.py", "latin.txt", "empty", "gone", ".", absolute))
    assert counter.count(request) == FilesCounted(
        {
            "a b.py": 2,
            "latin.txt": 3,
            "empty": 0,
            "gone": Unavailable("No such file or directory"),
            ".": Unavailable("Is a directory"),
            absolute: 2,
        }
    )
    (tmp_path / "a b.py").write_text("hello world " * 10)
    assert counter.count(CountFiles(str(tmp_path), ("a b.py",))) != FilesCounted({"a b.py": 2})


def test_the_counter_ends_when_idle(tokenizers: str) -> None:
    """Its 60 MB are given back; the next request starts it again."""
    counter = FileCounter(tokenizers)
    requests: queue.SimpleQueue[CountFiles | CountTexts] = queue.SimpleQueue()
    answers: queue.SimpleQueue[FilesCounted | TextsCounted] = queue.SimpleQueue()
    threading.Thread(target=counter.run, args=(requests, answers.put, 0.05), daemon=True).start()
    for number in (1, 2):
        requests.put(CountTexts(number, ("hello world",)))
        assert answers.get(timeout=30) == TextsCounted(number, (2,))
        own = [p for p in psutil.Process().children() if "counting.files" in " ".join(_command(p))]
        assert psutil.wait_procs(own, timeout=5)[1] == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_counting_that_takes_too_long_is_given_up(tokenizers: str, tmp_path: Path) -> None:
    """The reader gets a reason in time, and the next request a new counter."""
    counter = FileCounter(tokenizers, count_seconds=0.0)
    why = Unavailable("counting took too long")
    assert counter.count(CountFiles(str(tmp_path), ("a", "b"))) == FilesCounted(
        {"a": why, "b": why}
    )
    assert counter.count(CountTexts(1, ("a",))) == TextsCounted(1, why)


def test_a_counter_that_dies_is_replaced(counter: FileCounter) -> None:
    """A killed counter costs one answer."""
    request = CountTexts(1, ("hello world",))
    counter.count(request)
    (process,) = (
        p for p in psutil.Process().children() if "counting.files" in " ".join(_command(p))
    )
    process.kill()
    psutil.wait_procs([process], timeout=5)
    assert counter.count(request) == TextsCounted(1, Unavailable("the counter died"))
    assert counter.count(request) == TextsCounted(1, (2,))


def test_a_damaged_encoding_is_refused_and_left_alone(tokenizers: str, tmp_path: Path) -> None:
    """tiktoken itself would delete the file in Aider's installation and download another."""
    damaged = tmp_path / ENCODING_FILE
    shutil.copy(Path(tokenizers) / ENCODING_FILE, damaged)
    with damaged.open("ab") as file:
        file.write(b"\n")
    size = damaged.stat().st_size
    counter = FileCounter(str(tmp_path))
    why = Unavailable("Aider's token encoding is damaged")
    assert counter.count(CountTexts(1, ("a",))) == TextsCounted(1, why)
    counter.close()
    assert damaged.stat().st_size == size


def test_a_machine_that_starts_no_process_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of processes or memory, the answer has the reason."""

    def start(_tokenizers: str) -> NoReturn:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(files_module, "start_counter", start)
    why = Unavailable("no process can be started (Resource temporarily unavailable)")
    assert FileCounter("").count(CountTexts(1, ("a",))) == TextsCounted(1, why)


def test_another_file_in_the_encodings_place_is_damaged(tmp_path: Path) -> None:
    """It is known by its hash, without tiktoken."""
    (tmp_path / ENCODING_FILE).write_text("IQ== 0")
    assert encoding_problem(str(tmp_path)) == Unavailable("Aider's token encoding is damaged")


def test_without_encodings_nothing_is_counted(tmp_path: Path) -> None:
    """A missing folder and a folder without the file are reasons, not downloads."""
    for folder, reason in (("", "not found"), (str(tmp_path), "No such file")):
        problem = encoding_problem(folder)
        assert problem is not None
        assert reason in problem.reason
        counter = FileCounter(folder)
        assert counter.count(CountFiles("/", ("a",))) == FilesCounted({"a": problem})
        counter.close()


@pytest.mark.timeout(20)
def test_only_regular_files_of_some_size_are_read(tmp_path: Path) -> None:
    """Pipes, devices, sockets and huge files are refused without reading their content."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        expected = {
            "pipe": "not a file",
            "huge": "larger than 5 MB",
            "/dev/zero": "not a file",
            "socket": "No such device or address",
            "nul\0": "not a path",
            "x" * 5000: "File name too long",
        }
        found = {name: read_regular_file(str(tmp_path / name)) for name in expected}
    assert found == {name: Unavailable(reason) for name, reason in expected.items()}


@pytest.mark.parametrize(
    ("size", "found"),
    [(4_999_999, 4_999_999), (5_000_000, 5_000_000), (5_000_001, "larger than 5 MB")],
)
def test_a_file_of_five_megabytes_is_read(size: int, found: int | str, tmp_path: Path) -> None:
    """And none that is larger by a byte."""
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    content = read_regular_file(str(tmp_path / "file"))
    assert (content.reason if isinstance(content, Unavailable) else len(content)) == found


def refuses_q(text: str) -> int:
    """An encoding with a token for each character, and none for a q."""
    if "q" in text:
        raise ValueError("q")
    return len(text)


Q = Unavailable("the text cannot be counted (ValueError)")


@pytest.mark.parametrize(
    ("request_", "event"),
    [
        (CountTexts(3, ("a", "", "bc")), TextsCounted(3, (1, 0, 2))),
        (CountTexts(3, ()), TextsCounted(3, ())),
        (CountTexts(3, ("a", "q")), TextsCounted(3, Unavailable("a text cannot be counted"))),
        (
            CountFiles("ROOT", ("a", "q", "gone")),
            FilesCounted({"a": 2, "q": Q, "gone": Unavailable("No such file or directory")}),
        ),
        (CountFiles("ROOT", ()), FilesCounted({})),
    ],
)
def test_each_request_has_its_answer(
    request_: CountFiles | CountTexts,
    event: FilesCounted | TextsCounted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files each by itself, texts all or none."""
    (tmp_path / "a").write_text("aa")
    (tmp_path / "q").write_text("qq")
    if isinstance(request_, CountFiles):
        request_ = CountFiles(str(tmp_path), request_.paths)
    monkeypatch.setattr(files_module, "load_counter", lambda _folder: refuses_q)
    assert decode(answer("", encode(request_))) == event
    why = Unavailable("no encoding")
    monkeypatch.setattr(files_module, "load_counter", lambda _folder: why)
    assert decode(answer("", encode(request_))) == uncounted(request_, why)


def test_a_line_that_is_no_request_ends_the_process() -> None:
    """The guard sends no such line."""
    with pytest.raises(WireError, match="StopSidecar is nothing to count"):
        answer("", encode(StopSidecar()))


class NoProcess:
    """Answers at once, and notes how long it would have been waited for."""

    def __init__(self, *_arguments: object) -> None:
        self.is_running = False
        self.limits: list[float] = []

    def ask(self, _line: bytes, seconds: float) -> Unavailable:
        self.is_running = True
        self.limits.append(seconds)
        return Unavailable("no process")

    def close(self) -> None:
        self.is_running = False


class Requests(queue.SimpleQueue[CountFiles | CountTexts]):
    """Requests that are there at once or never; after the last, StopIteration ends the reader."""

    def __init__(self, *requests: CountFiles | CountTexts | None) -> None:
        super().__init__()
        self._requests = iter(requests)
        self.waits: list[float | None] = []

    def get(
        self,
        block: bool = True,  # noqa: ARG002  # the base class's
        timeout: float | None = None,
    ) -> CountFiles | CountTexts:
        """Return the next request, or say that none came in time."""
        self.waits.append(timeout)
        request = next(self._requests)
        if request is None:
            raise queue.Empty
        return request


def test_how_long_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute for an answer; ten seconds for the next request, and then the process is ended."""
    processes: list[NoProcess] = []

    def made(*arguments: object) -> NoProcess:
        processes.append(NoProcess(*arguments))
        return processes[-1]

    monkeypatch.setattr(files_module, "OnDemandProcess", made)
    requests = Requests(CountTexts(1, ()), CountTexts(2, ()), None)
    answers: list[FilesCounted | TextsCounted] = []
    with pytest.raises(StopIteration):
        FileCounter("").run(requests, answers.append)
    why = Unavailable("no process")
    assert answers == [TextsCounted(1, why), TextsCounted(2, why)]
    assert requests.waits == [None, 10.0, 10.0, None]
    assert (processes[0].limits, len(processes)) == ([30.0, 30.0], 1)


def test_text_that_the_encoding_cannot_take_is_unavailable() -> None:
    """A fault of the tokeniser's is one count that is missing."""

    def broken(_text: str) -> int:
        raise ValueError("stack")

    assert isinstance(count_text(broken, "a"), Unavailable)
    assert isinstance(count_file(broken, __file__), Unavailable)
    assert count_text(len, "a\udc80") == 2
