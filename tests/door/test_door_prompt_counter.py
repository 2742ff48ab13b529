"""The door's counts: a process of their own beside the loop, asked in time, learning from answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil
import pytest
from fakes.ollama_server import FakeModel, FakeOllama, Hang, Json
from fakes.vocabulary import tiny

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.chat.types import Count, DoorRole, DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.counting.learned import FILE
from aider_guard.door import prompt_counter as counts_module
from aider_guard.door.prompt_counter import CounterProcess
from aider_guard.line_process import LineProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

CHATML = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
LLAMA = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": None}


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    """One model with a vocabulary, one without."""
    exact = FakeModel("exact:latest", vocabulary=tiny(), template=CHATML, blob="e" * 64)
    guessed = FakeModel("guessed:latest", template=CHATML, verbose_facts=LLAMA, blob="f" * 64)
    with FakeOllama(models=(exact, guessed)) as ollama:
        yield ollama


@pytest.fixture
def settings(ollama: FakeOllama, tmp_path: Path) -> DoorSettings:
    """A door to them, and to a server of another kind."""
    upstreams = (Upstream("", ollama.url, "ollama"), Upstream("vllm", "http://x/v1", "openai"))
    roles = (DoorRole("main", "exact"), DoorRole("weak", "other", "vllm"))
    return DoorSettings("t", upstreams, roles, 4096, learned_dir=str(tmp_path / "learned"))


@pytest.fixture
def counts(settings: DoorSettings, tmp_path: Path) -> Iterator[CounterProcess]:
    """Counts that are served."""
    counts = CounterProcess(vocabularies=str(tmp_path / "vocabularies"), wait_seconds=20)
    counts.serve(settings)
    yield counts
    counts.close()


def asked(*contents: str, model: str = "exact", **more: Any) -> ChatRequest:
    """A chat that the user begins."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[n % 2], text) for n, text in enumerate(contents))
    return ChatRequest(more.pop("form", "chat"), model, messages, stream=True, **more)


def chatml(*contents: str) -> int:
    """The tokens of such a chat."""
    roles = ("user", "assistant")
    text = "".join(
        f"<|im_start|>{roles[n % 2]}\n{one}<|im_end|>\n" for n, one in enumerate(contents)
    )
    return len(tiny().encode(text + "<|im_start|>assistant\n"))


def own_processes() -> list[psutil.Process]:
    """The counters that run now."""
    return [one for one in psutil.Process().children() if "tokenizing" in " ".join(_command(one))]


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def test_a_prompt_is_counted_before_it_is_sent(counts: CounterProcess) -> None:
    """To the token, by the model's own vocabulary and template; texts without it."""

    async def both() -> tuple[object, object]:
        return (
            await counts.count(asked("def f():", "the log", "中文")),
            await counts.count_texts("exact", ("the lazy dog", "")),
        )

    assert asyncio.run(both()) == (
        Count(chatml("def f():", "the log", "中文"), exact=True),
        (len(tiny().encode("the lazy dog")), 0),
    )


def test_what_was_counted_is_not_counted_again(counts: CounterProcess) -> None:
    """The next turn's prompt is known to fit by its new text alone."""
    file, system = "def price(item, count):\n" * 400, Message("system", "You are a log.")

    def turn(*said: str) -> ChatRequest:
        users = (
            Message("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(said)
        )
        return ChatRequest("chat", "exact", (system, *users), stream=True)

    async def count(*texts: str) -> int:
        counted = await counts.count(turn(*texts))
        assert isinstance(counted, Count)
        tokens = await counts.count_texts("exact", (system.content, *texts))
        assert not isinstance(tokens, Unavailable)
        return counted.tokens

    first = turn(file, "Ok.", "fix it")
    room = 260 + asyncio.run(counts.count_texts("exact", (file,)))[0]  # type: ignore[index]
    assert not counts.fits(first, room)
    tokens = asyncio.run(count(file, "Ok.", "fix it"))
    assert tokens < room < len(file)
    assert counts.fits(first, room)
    assert counts.fits(turn(file, "Ok.", "fix it", "Done.", "now b"), room)
    assert not counts.fits(turn(file, "Ok.", "fix it", "Done.", "now " * 60), room)
    assert not counts.fits(first, tokens - 1)


def test_a_name_in_another_spelling_is_the_same_model(counts: CounterProcess) -> None:
    """As Ollama compares names."""
    assert asyncio.run(counts.count(asked("a", model="EXACT:latest"))) == Count(
        chatml("a"), exact=True
    )


def test_an_estimate_is_learned_and_remembered(
    counts: CounterProcess, settings: DoorSettings
) -> None:
    """What a template adds that is not known here is in the file of the next session. No text is."""

    async def session(turns: int) -> list[Count]:
        counted = []
        for turn in range(turns):
            request = asked(*["my secret code"] * (2 * turn + 1))
            count = await counts.count(request)
            assert isinstance(count, Count)
            counted.append(count)
            counts.measured(request, count, chatml(*["my secret code"] * (2 * turn + 1)) + 7)
        return [*counted, await counts.count(asked("last"))]  # type: ignore[list-item]

    counted = asyncio.run(session(6))
    assert [count.exact for count in counted] == [True, False, False, False, True, True, True]
    assert counted[-1] == Count(chatml("last") + 7, exact=True)
    file = Path(settings.learned_dir) / FILE
    assert "exact:latest" in json.loads(file.read_text())
    assert "secret" not in file.read_text()
    after = CounterProcess(wait_seconds=20)
    with contextlib.closing(after):
        after.serve(settings)
        assert asyncio.run(after.count(asked("next"))) == Count(chatml("next") + 7, exact=True)


def test_vocabularies_are_read_once(
    ollama: FakeOllama, counts: CounterProcess, tmp_path: Path
) -> None:
    """From then on from the disk, which holds nothing of a prompt; the template is asked for again."""
    asyncio.run(counts.count(asked("my secret code")))
    (file,) = (tmp_path / "vocabularies").iterdir()
    assert file.name == "e" * 64 + ".json"
    assert "secret" not in file.read_text()
    first = [one.body for one in ollama.received if one.path == "/api/show"]
    assert [body.get("verbose", False) for body in first] == [False, True]
    for process in own_processes():
        process.kill()
        process.wait(5)
    asyncio.run(counts.count(asked("a")))  # costs an answer
    assert asyncio.run(counts.count(asked("a"))) == Count(chatml("a"), exact=True)
    later = [one.body for one in ollama.received if one.path == "/api/show"][2:]
    assert later
    assert not any(body.get("verbose", False) for body in later)


def test_models_of_other_servers_are_estimated(ollama: FakeOllama, counts: CounterProcess) -> None:
    """They are not asked about; nor is a cloud's."""
    for model, form in (
        ("other", "openai_chat"),
        ("unknown", "openai_chat"),
        ("big:cloud", "chat"),
    ):
        counted = asyncio.run(counts.count(asked("a b c " * 50, model=model, form=form)))
        assert isinstance(counted, Count)
        assert (counted.exact, counted.at_least < 150 < counted.at_most) == (False, True)
    assert {one.body["model"] for one in ollama.received} <= {"exact"}


def test_a_model_without_known_tokens_is_estimated(counts: CounterProcess) -> None:
    """Its kind is said without asking for its vocabulary."""
    counted = asyncio.run(counts.count(asked("word " * 100, model="guessed")))
    assert isinstance(counted, Count)
    assert not counted.exact


def test_an_ollama_that_hangs_or_is_down_costs_an_estimate(
    ollama: FakeOllama, settings: DoorSettings
) -> None:
    """In bounded time; and when it is asked again, counts are exact."""
    counts = CounterProcess(wait_seconds=0.5)
    with contextlib.closing(counts):
        ollama.answers["/api/show"] = Hang()
        counts.serve(settings)
        started_at = time.monotonic()
        assert asyncio.run(counts.count(asked("a"))) == Unavailable(
            "counting took longer than 0.5 s"
        )
        assert time.monotonic() - started_at < 5
    counts = CounterProcess(wait_seconds=20)
    with contextlib.closing(counts):
        ollama.answers["/api/show"] = Json({"error": "busy"}, 500)
        counts.serve(settings)
        counted = asyncio.run(counts.count(asked("a")))
        assert isinstance(counted, Count)
        assert not counted.exact
        del ollama.answers["/api/show"]
        counts.serve(settings)
        while counted == asyncio.run(counts.count(asked("a"))):  # what is urgent comes before it
            pass
        assert asyncio.run(counts.count(asked("a"))) == Count(chatml("a"), exact=True)


def test_a_counter_that_dies_is_replaced(counts: CounterProcess) -> None:
    """A killed process costs one answer at most: what learns ahead may have met its end before."""
    asyncio.run(counts.count(asked("a")))
    (process,) = own_processes()
    process.kill()
    psutil.wait_procs([process], timeout=5)
    exact = Count(chatml("a"), exact=True)
    assert asyncio.run(counts.count(asked("a"))) in (Unavailable("the counter died"), exact)
    assert asyncio.run(counts.count(asked("a"))) == exact
    assert process not in own_processes()


def test_the_counter_ends_when_idle(settings: DoorSettings) -> None:
    """After counting, and sooner when it has only learned ahead."""
    started: queue.SimpleQueue[LineProcess] = queue.SimpleQueue()

    def start(*arguments: str) -> LineProcess:
        process = LineProcess(*arguments)
        started.put(process)
        return process

    counts = CounterProcess(idle_seconds=0.1, ahead_seconds=0.1, wait_seconds=20, start=start)
    with contextlib.closing(counts):
        counts.serve(settings)
        ahead = psutil.Process(started.get(timeout=20).pid)
        assert psutil.wait_procs([ahead], timeout=20)[1] == []
        assert asyncio.run(counts.count(asked("a"))) == Count(chatml("a"), exact=True)
        counting = psutil.Process(started.get(timeout=20).pid)
        assert psutil.wait_procs([counting], timeout=20)[1] == []


def test_the_counter_can_be_woken(settings: DoorSettings) -> None:
    """The prompt that comes next finds the process there."""
    started: queue.SimpleQueue[LineProcess] = queue.SimpleQueue()

    def start(*arguments: str) -> LineProcess:
        process = LineProcess(*arguments)
        started.put(process)
        return process

    counts = CounterProcess(ahead_seconds=0.1, wait_seconds=20, start=start)
    with contextlib.closing(counts):
        counts.wake()  # of no model: there are no settings yet
        counts.serve(settings)
        ahead = psutil.Process(started.get(timeout=20).pid)
        assert psutil.wait_procs([ahead], timeout=20)[1] == []
        counts.wake()
        woken = started.get(timeout=20)
        assert asyncio.run(counts.count(asked("a"))) == Count(chatml("a"), exact=True)
        assert started.empty()
        assert [one.pid for one in own_processes()] == [woken.pid]


def test_the_loop_goes_on_while_something_is_counted(counts: CounterProcess) -> None:
    """Half a megabyte of words that never came before."""
    text = " ".join(f"w{number:x}" for number in range(60_000))

    async def beside() -> tuple[object, int]:
        ticks, counting = 0, asyncio.create_task(counts.count(asked(text)))
        while not counting.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return await counting, ticks

    counted, ticks = asyncio.run(beside())
    assert counted == Count(chatml(text), exact=True)
    assert ticks > 20  # hundreds here; two or three, if the loop did it itself


def test_what_cannot_be_counted_has_its_reason(
    settings: DoorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of processes, a prompt beyond all bounds, and answers that are none."""

    def refuse(*_arguments: str) -> NoReturn:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    counts = CounterProcess(start=refuse)
    with contextlib.closing(counts):
        counts.serve(settings)
        why = "no process can be started (Resource temporarily unavailable)"
        assert asyncio.run(counts.count(asked("a"))) == Unavailable(why)
        assert asyncio.run(counts.count_texts("exact", ("a",))) == Unavailable(why)
        too_large = asyncio.run(counts.count(asked("a" * 9_000_000)))
        assert too_large == Unavailable("the prompt is too large to be counted")

    def strange(*_arguments: str) -> LineProcess:
        return LineProcess(
            "fakes.parrot", environment={"PYTHONPATH": str(Path(__file__).parents[1])}
        )

    monkeypatch.setattr(counts_module, "ANSWER_SECONDS", 20.0)
    counts = CounterProcess(start=strange, wait_seconds=20)
    with contextlib.closing(counts):
        counts.serve(settings)
        assert isinstance(asyncio.run(counts.count(asked("a"))), Unavailable)


def test_a_measurement_without_its_count_is_nothing(
    counts: CounterProcess, settings: DoorSettings
) -> None:
    """Another request's, or one that was not counted."""
    request = asked("a")
    counts.measured(request, Count(1, exact=True), 99)
    counted = asyncio.run(counts.count(request))
    counts.measured(request, Unavailable("too late"), 99)
    counts.measured(asked("a"), counted, 99)
    assert asyncio.run(counts.count(asked("a"))) == counted
    assert not (Path(settings.learned_dir) / FILE).exists()


def test_close_ends_thread_and_process(settings: DoorSettings) -> None:
    """Nothing is left."""
    counts = CounterProcess(wait_seconds=20)
    counts.serve(settings)
    asyncio.run(counts.count(asked("a")))
    processes = own_processes()
    counts.close()
    assert "counts" not in {thread.name for thread in threading.enumerate()}
    assert psutil.wait_procs(processes, timeout=5)[1] == []
