"""The door's prompt counter: a process beside the loop, with bounded answers, that learns from the server's."""

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
from aider_guard.door import prompt_counter as counter_module
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
def counter(settings: DoorSettings, tmp_path: Path) -> Iterator[CounterProcess]:
    """A counter with settings."""
    counter = CounterProcess(vocabularies=str(tmp_path / "vocabularies"), wait_seconds=20)
    counter.serve(settings)
    yield counter
    counter.close()


def chat(*contents: str, model: str = "exact", **more: Any) -> ChatRequest:
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
    """Return the counting processes that run now."""
    return [
        one for one in psutil.Process().children() if "counting.process" in " ".join(_command(one))
    ]


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def test_a_prompt_is_counted_before_it_is_sent(counter: CounterProcess) -> None:
    """To the token, by the model's own vocabulary and template; texts without it."""

    async def both() -> tuple[object, object]:
        return (
            await counter.count(chat("def f():", "the log", "中文")),
            await counter.count_texts("exact", ("the lazy dog", "")),
        )

    assert asyncio.run(both()) == (
        Count(chatml("def f():", "the log", "中文"), exact=True),
        (len(tiny().encode("the lazy dog")), 0),
    )


def test_what_was_counted_is_not_counted_again(counter: CounterProcess) -> None:
    """The next turn's prompt is known to fit by its new text alone."""
    file, system = "def price(item, count):\n" * 400, Message("system", "You are a log.")

    def turn(*texts: str) -> ChatRequest:
        users = (
            Message("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts)
        )
        return ChatRequest("chat", "exact", (system, *users), stream=True)

    async def count(*texts: str) -> int:
        counted = await counter.count(turn(*texts))
        assert isinstance(counted, Count)
        tokens = await counter.count_texts("exact", (system.content, *texts))
        assert not isinstance(tokens, Unavailable)
        return counted.tokens

    first = turn(file, "Ok.", "fix it")
    room = 260 + asyncio.run(counter.count_texts("exact", (file,)))[0]  # type: ignore[index]
    assert not counter.fits(first, room)
    tokens = asyncio.run(count(file, "Ok.", "fix it"))
    assert tokens < room < len(file)
    assert counter.fits(first, room)
    assert counter.fits(turn(file, "Ok.", "fix it", "Done.", "now b"), room)
    assert not counter.fits(turn(file, "Ok.", "fix it", "Done.", "now " * 60), room)
    assert not counter.fits(first, tokens - 1)


def test_a_name_in_another_spelling_is_the_same_model(counter: CounterProcess) -> None:
    """As Ollama compares names."""
    assert asyncio.run(counter.count(chat("a", model="EXACT:latest"))) == Count(
        chatml("a"), exact=True
    )


def test_an_estimate_is_learned_and_remembered(
    counter: CounterProcess, settings: DoorSettings
) -> None:
    """What a template adds that is not known here is in the file of the next session. No text is."""

    async def session(turns: int) -> list[Count]:
        counted = []
        for turn in range(turns):
            request = chat(*["my secret code"] * (2 * turn + 1))
            count = await counter.count(request)
            assert isinstance(count, Count)
            counted.append(count)
            counter.learn(request, count, chatml(*["my secret code"] * (2 * turn + 1)) + 7)
        return [*counted, await counter.count(chat("last"))]  # type: ignore[list-item]

    counted = asyncio.run(session(6))
    assert [count.exact for count in counted] == [True, False, False, False, True, True, True]
    assert counted[-1] == Count(chatml("last") + 7, exact=True)
    file = Path(settings.learned_dir) / FILE
    assert "exact:latest" in json.loads(file.read_text())
    assert "secret" not in file.read_text()
    after = CounterProcess(wait_seconds=20)
    with contextlib.closing(after):
        after.serve(settings)
        assert asyncio.run(after.count(chat("next"))) == Count(chatml("next") + 7, exact=True)


def test_vocabularies_are_read_once(
    ollama: FakeOllama, counter: CounterProcess, tmp_path: Path
) -> None:
    """Later from the disk, where nothing of a prompt is; the template is read from Ollama again."""
    asyncio.run(counter.count(chat("my secret code")))
    (file,) = (tmp_path / "vocabularies").iterdir()
    assert file.name == "e" * 64 + ".json"
    assert "secret" not in file.read_text()
    first = [one.body for one in ollama.received if one.path == "/api/show"]
    assert [body.get("verbose", False) for body in first].count(True) == 1
    for process in own_processes():
        process.kill()
        process.wait(5)
    asyncio.run(counter.count(chat("a")))  # costs an answer
    assert asyncio.run(counter.count(chat("a"))) == Count(chatml("a"), exact=True)
    later = [one.body for one in ollama.received if one.path == "/api/show"][2:]
    assert later
    assert not any(body.get("verbose", False) for body in later)


def test_models_of_other_servers_are_estimated(ollama: FakeOllama, counter: CounterProcess) -> None:
    """Ollama is not asked about them, nor about a cloud's model."""
    for model, form in (
        ("other", "openai_chat"),
        ("unknown", "openai_chat"),
        ("big:cloud", "chat"),
    ):
        counted = asyncio.run(counter.count(chat("a b c " * 50, model=model, form=form)))
        assert isinstance(counted, Count)
        assert (counted.exact, counted.at_least < 150 < counted.at_most) == (False, True)
    assert {one.body["model"] for one in ollama.received} <= {"exact"}


def test_a_model_without_known_tokens_is_estimated(counter: CounterProcess) -> None:
    """Its kind is known without reading its vocabulary."""
    counted = asyncio.run(counter.count(chat("word " * 100, model="guessed")))
    assert isinstance(counted, Count)
    assert not counted.exact


def test_an_ollama_that_hangs_or_is_down_gives_an_estimate(
    ollama: FakeOllama, settings: DoorSettings
) -> None:
    """In bounded time; once Ollama answers again, counts are exact."""
    counter = CounterProcess(wait_seconds=0.5)
    with contextlib.closing(counter):
        ollama.answers["/api/show"] = Hang()
        counter.serve(settings)
        started_at = time.monotonic()
        assert asyncio.run(counter.count(chat("a"))) == Unavailable(
            "counting took longer than 0.5 s"
        )
        assert time.monotonic() - started_at < 5
    counter = CounterProcess(wait_seconds=20)
    with contextlib.closing(counter):
        ollama.answers["/api/show"] = Json({"error": "busy"}, 500)
        counter.serve(settings)
        counted = asyncio.run(counter.count(chat("a")))
        assert isinstance(counted, Count)
        assert not counted.exact
        del ollama.answers["/api/show"]
        counter.serve(settings)
        while counted == asyncio.run(counter.count(chat("a"))):  # what is urgent comes before it
            pass
        assert asyncio.run(counter.count(chat("a"))) == Count(chatml("a"), exact=True)


def test_a_counter_that_dies_is_replaced(counter: CounterProcess) -> None:
    """A killed process costs one answer at most: what learns ahead may have met its end before."""
    asyncio.run(counter.count(chat("a")))
    (process,) = own_processes()
    process.kill()
    psutil.wait_procs([process], timeout=5)
    exact = Count(chatml("a"), exact=True)
    assert asyncio.run(counter.count(chat("a"))) in (Unavailable("the counter died"), exact)
    assert asyncio.run(counter.count(chat("a"))) == exact
    assert process not in own_processes()


def test_the_counter_ends_when_idle(settings: DoorSettings) -> None:
    """After counting, and sooner when it has only learned ahead."""
    started: queue.SimpleQueue[LineProcess] = queue.SimpleQueue()

    def start(*arguments: str) -> LineProcess:
        process = LineProcess(*arguments)
        started.put(process)
        return process

    counter = CounterProcess(idle_seconds=0.1, ahead_seconds=0.1, wait_seconds=20, start=start)
    with contextlib.closing(counter):
        counter.serve(settings)
        ahead = psutil.Process(started.get(timeout=20).pid)
        assert psutil.wait_procs([ahead], timeout=20)[1] == []
        assert asyncio.run(counter.count(chat("a"))) == Count(chatml("a"), exact=True)
        counting = psutil.Process(started.get(timeout=20).pid)
        assert psutil.wait_procs([counting], timeout=20)[1] == []


def test_the_counter_can_be_woken(settings: DoorSettings) -> None:
    """The prompt that comes next finds the process there."""
    started: queue.SimpleQueue[LineProcess] = queue.SimpleQueue()

    def start(*arguments: str) -> LineProcess:
        process = LineProcess(*arguments)
        started.put(process)
        return process

    counter = CounterProcess(ahead_seconds=0.1, wait_seconds=20, start=start)
    with contextlib.closing(counter):
        counter.wake()  # of no model: there are no settings yet
        counter.serve(settings)
        ahead = psutil.Process(started.get(timeout=20).pid)
        assert psutil.wait_procs([ahead], timeout=20)[1] == []
        counter.wake()
        woken = started.get(timeout=20)
        assert asyncio.run(counter.count(chat("a"))) == Count(chatml("a"), exact=True)
        assert started.empty()
        assert [one.pid for one in own_processes()] == [woken.pid]


def test_the_loop_goes_on_while_something_is_counted(counter: CounterProcess) -> None:
    """Half a megabyte of words that never came before."""
    text = " ".join(f"w{number:x}" for number in range(60_000))

    async def beside() -> tuple[object, int]:
        ticks, counting = 0, asyncio.create_task(counter.count(chat(text)))
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

    counter = CounterProcess(start=refuse)
    with contextlib.closing(counter):
        counter.serve(settings)
        why = "no process can be started (Resource temporarily unavailable)"
        assert asyncio.run(counter.count(chat("a"))) == Unavailable(why)
        assert asyncio.run(counter.count_texts("exact", ("a",))) == Unavailable(why)
        too_large = asyncio.run(counter.count(chat("a" * 9_000_000)))
        assert too_large == Unavailable("the prompt is too large to be counted")

    def strange(*_arguments: str) -> LineProcess:
        return LineProcess(
            "fakes.parrot", environment={"PYTHONPATH": str(Path(__file__).parents[1])}
        )

    monkeypatch.setattr(counter_module, "ANSWER_SECONDS", 20.0)
    counter = CounterProcess(start=strange, wait_seconds=20)
    with contextlib.closing(counter):
        counter.serve(settings)
        assert isinstance(asyncio.run(counter.count(chat("a"))), Unavailable)


def test_a_measurement_without_its_count_is_nothing(
    counter: CounterProcess, settings: DoorSettings
) -> None:
    """Another request's, or one that was not counted."""
    request = chat("a")
    counter.learn(request, Count(1, exact=True), 99)
    counted = asyncio.run(counter.count(request))
    counter.learn(request, Unavailable("too late"), 99)
    counter.learn(chat("a"), counted, 99)
    assert asyncio.run(counter.count(chat("a"))) == counted
    assert not (Path(settings.learned_dir) / FILE).exists()


def test_close_ends_thread_and_process(settings: DoorSettings) -> None:
    """Nothing is left."""
    counter = CounterProcess(wait_seconds=20)
    counter.serve(settings)
    asyncio.run(counter.count(chat("a")))
    processes = own_processes()
    counter.close()
    assert "prompt-counter" not in {thread.name for thread in threading.enumerate()}
    assert psutil.wait_procs(processes, timeout=5)[1] == []
