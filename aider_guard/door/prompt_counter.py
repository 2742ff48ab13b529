"""Counts prompts for the door: the server is asked first, else a process beside the door counts (counting/process.py).

The door's loop never waits. A thread hands questions to the process and answers to the loop. The process is ended when
nothing was counted for a while; its next start reads the vocabularies again from the disk.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from aider_guard.core.chat.request import ChatRequest
from aider_guard.core.chat.size import Sizes
from aider_guard.core.chat.types import Count, DoorSettings
from aider_guard.core.codec import WireError
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import Unavailable
from aider_guard.counting.wire import (
    CountedTexts,
    CountPlain,
    CountPrompt,
    LearnModel,
    MeasuredPrompt,
    ModelServer,
    PromptCount,
    Question,
    decode,
    encode,
    prompt_of,
)
from aider_guard.door.interfaces import RequestTarget
from aider_guard.door.other_servers import OtherServerModels
from aider_guard.door.server_counter import RenderedPrompt, ServerCounter
from aider_guard.line_process import LineProcess, OnDemandProcess, start_thread

WAIT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 30.0
"""A process that is silent for longer is given up."""
SERVER_SECONDS: Final = 1.2
"""How long the server is asked, before the process counts in what is left of ``WAIT_SECONDS``."""
IDLE_SECONDS: Final = 60.0
AHEAD_SECONDS: Final = 3.0
"""How long the process stays when it has only learned vocabularies: they are on the disk now."""
_NOTHING_COUNTED: Final = Unavailable("nothing was counted")
_REMEMBERED: Final = 8
_END, _FIRST, _LATER = 0, 1, 2
Result = TypeVar("Result")


@dataclass(order=True)
class _Job:
    urgency: int
    number: int
    question: Question | None = field(compare=False, default=None)
    on_answer: Callable[[Any], None] = field(compare=False, default=lambda _answer: None)


class CounterProcess:
    """Counts prompts, by their server or in a process of its own (``interfaces.PromptCounter``).

    ``vocabularies`` is the folder that keeps vocabularies, "" for none.
    """

    def __init__(
        self,
        *,
        vocabularies: str = "",
        wait_seconds: float = WAIT_SECONDS,
        server_seconds: float = SERVER_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        ahead_seconds: float = AHEAD_SECONDS,
        server: ServerCounter | None = None,
        others: OtherServerModels | None = None,
        start: Callable[..., LineProcess] = LineProcess,
    ) -> None:
        self._vocabularies = vocabularies
        self._wait_seconds, self._server_seconds = wait_seconds, server_seconds
        self._idle_seconds, self._ahead_seconds = idle_seconds, ahead_seconds
        self._server, self._server_counts = server or ServerCounter(), False
        self._others = others or OtherServerModels()
        self._settings = DoorSettings("", (), (), 0)
        self._numbers = itertools.count(1)
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._counted: deque[tuple[ChatRequest, int]] = deque(maxlen=_REMEMBERED)
        self._sizes, self._error_percent = Sizes(), dict[str, float]()
        self._folders: tuple[str, str, str] = ("", "", "")
        self._process = OnDemandProcess(
            lambda: start("aider_guard.counting.process", *self._folders), "the counter", "counting"
        )
        self._thread = threading.Thread(target=self._work, name="prompt-counter", daemon=True)
        self._thread.start()

    def serve(self, settings: DoorSettings) -> None:
        """Begin to learn the vocabularies of these models, in the background."""
        self._settings = settings
        servers = [self._server_of(role.model, ollama=not role.path) for role in settings.roles]
        for server in dict.fromkeys(servers):
            if server.base:
                self._put(LearnModel(server), urgency=_LATER)

    def wake(self) -> None:
        """Get ready to count: a prompt is being typed.

        Where the main model's process does not answer, the counting process is started and reads its vocabulary.
        """
        mains = [role for role in self._settings.roles if role.role == "main"]
        for role in mains[:1]:
            server = self._server_of(role.model, ollama=not role.path)
            start_thread("ready-to-count", partial(self._get_ready, server))

    def _get_ready(self, server: ModelServer) -> None:
        with suppress(RuntimeError):  # closed meanwhile (httpx)
            if server.base and not isinstance(
                self._server.loaded_model(server.base, server.model), Unavailable
            ):
                return
        self._put(CountPlain(server, ()))

    async def count(
        self, request: ChatRequest, target: RequestTarget | None = None
    ) -> Count | Unavailable:
        """Count the tokens of the whole prompt, template included; Unavailable when that takes too long."""
        until, text, is_partial = time.monotonic() + self._wait_seconds, None, False
        rendered = await self._render(request, target)
        if isinstance(rendered, RenderedPrompt):
            text, is_partial = rendered.text, rendered.is_partial
            if isinstance(rendered.tokens, int):
                self._server_counts, self._error_percent[request.model] = True, 0.0
                ids = rendered.token_ids
                return Count(rendered.tokens, True, 0.0, "server", is_partial, ids)
        self._server_counts = False
        server = self._server_of(request.model, ollama=request.form in ("chat", "generate"))
        number = next(self._numbers)
        self._counted.append((request, number))
        question = CountPrompt(number, server, prompt_of(request), text)
        answer = await self._answer(question, until - time.monotonic())
        if not isinstance(answer, PromptCount):
            return answer if isinstance(answer, Unavailable) else _NOTHING_COUNTED
        self._error_percent[request.model] = 0.0 if answer.exact else answer.error_percent
        error_percent, is_partial = answer.error_percent, is_partial and answer.exact
        return Count(answer.tokens, answer.exact, error_percent, answer.counted_by, is_partial)

    async def _render(
        self, request: ChatRequest, target: RequestTarget | None
    ) -> RenderedPrompt | Unavailable:
        if target is None:
            return _NOTHING_COUNTED
        if target.upstream.kind == "openai":
            count = partial(self._others.count, request, target.upstream)
            tokens = await _within(self._server_seconds, count)
            return RenderedPrompt("", tokens) if isinstance(tokens, int) else tokens
        render = partial(self._server.render, request, target, self._settings)
        return await _within(self._server_seconds, render)

    async def count_texts(
        self, model: str, texts: Sequence[str], target: RequestTarget | None = None
    ) -> tuple[int, ...] | Unavailable:
        """Count the tokens of single texts, in the same way and without any template."""
        if self._server_counts and target is not None:
            upstream = target.upstream
            count = partial(self._server.count_texts, upstream.base, model, tuple(texts))
            if upstream.kind == "openai":
                count = partial(self._others.count_texts, upstream, model, tuple(texts))
            if isinstance(counted := await _within(self._server_seconds, count), tuple):
                self._sizes.note_counts(model, texts, counted, 0.0)
                return counted
        server = self._server_of(model, ollama=True)
        answer = await self._answer(CountPlain(server, tuple(texts)), self._wait_seconds)
        if not isinstance(answer, CountedTexts):
            return answer if isinstance(answer, Unavailable) else _NOTHING_COUNTED
        if (error_percent := self._error_percent.get(model)) is not None:
            self._sizes.note_counts(model, texts, answer.tokens, error_percent)
        return answer.tokens

    def fits(self, request: ChatRequest, room_tokens: int) -> bool:
        """Return whether a prompt certainly has no more tokens than that, by the counts of earlier prompts."""
        return self._sizes.fits(request, room_tokens)

    def guess(self, request: ChatRequest) -> Count:
        """Estimate the size of a prompt by its bytes, and by the tokens that the server evaluated of earlier ones."""
        return self._sizes.guess(request)

    def learn(self, request: ChatRequest, counted: Count | Unavailable, prompt_tokens: int) -> None:
        """Learn from the tokens that the server evaluated of a prompt that it saw whole, if it was counted before."""
        self._sizes.note_size(request, prompt_tokens)
        numbers = [number for known, number in self._counted if known is request]
        if numbers and isinstance(counted, Count):
            self._put(MeasuredPrompt(numbers[-1], prompt_tokens))

    def close(self) -> None:
        """End the process and the thread, also in the middle of a count."""
        self._jobs.put(_Job(_END, next(self._numbers)))
        while self._thread.is_alive():
            self._process.kill()
            self._thread.join(0.1)
        self._server.close()

    def _server_of(self, model: str, *, ollama: bool) -> ModelServer:
        """Return the server to ask about a model: by its role, else by the protocol of the request."""
        paths = [role.path for role in self._settings.roles if same_model(role.model, model)]
        kind = "ollama" if ollama else "openai"
        upstreams = self._settings.upstreams
        by_role = [upstream for upstream in upstreams if upstream.path in paths]
        by_kind = [upstream for upstream in upstreams if upstream.kind == kind]
        best = next(iter((*by_role, *by_kind, *upstreams)), None)
        return ModelServer(best.base if best and best.kind == "ollama" else "", model)

    async def _answer(self, question: Question, seconds: float) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(answer: Any) -> None:
            if not future.done():
                future.set_result(answer)

        def on_answer(answer: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, answer)

        self._put(question, on_answer)
        try:
            return await asyncio.wait_for(future, seconds)
        except asyncio.TimeoutError:
            return Unavailable(f"counting took longer than {self._wait_seconds:.2g} s")

    def _put(
        self,
        question: Question,
        on_answer: Callable[[Any], None] = lambda _answer: None,
        urgency: int = _FIRST,
    ) -> None:
        self._jobs.put(_Job(urgency, next(self._numbers), question, on_answer))

    def _work(self) -> None:
        """Answer questions, the urgent ones first, until ``close``."""
        stays_seconds = self._ahead_seconds
        while True:
            try:
                job = self._jobs.get(timeout=stays_seconds if self._process.is_running else None)
            except queue.Empty:
                self._process.close()
                stays_seconds = self._ahead_seconds
                continue
            if job.question is None:
                self._process.close()
                return
            if job.urgency == _FIRST:
                stays_seconds = self._idle_seconds
            job.on_answer(self._ask(job.question))

    def _ask(self, question: Question) -> Any:
        line = encode(question)
        if line is None:
            return Unavailable("the prompt is too large to be counted")
        folders = (self._settings.tokenizers, self._settings.learned_dir, self._vocabularies)
        if folders != self._folders:
            self._process.close()
            self._folders = folders
        answer = self._process.ask(line, ANSWER_SECONDS)
        if isinstance(answer, Unavailable):
            return answer
        try:
            return decode(answer)
        except WireError as error:
            return Unavailable(str(error))


async def _within(seconds: float, ask: Callable[[], Result]) -> Result | Unavailable:
    """Ask in a thread; what takes longer than this is left to end by itself."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(ask), seconds)
    except asyncio.TimeoutError:
        return Unavailable(f"the server took longer than {seconds:.2g} s")
    except RuntimeError:  # httpx's, of a client that is closed
        return Unavailable("the counter was closed")
