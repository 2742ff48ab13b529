"""Answers a stand-in's requests for text: ``/api/chat``, ``/api/generate``, and their two sisters under ``/v1``.

The order of the steps, and what is said when one fails, are those of server/routes.go: the model is found, loaded,
the prompt is made, and llama.cpp continues it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from standin.child import ChildError
from standin.log import slog
from standin.prompts import Cut, Messages, by_template, fitting, rendered, with_own
from standin.scheduler import Runner, Scheduler, seconds
from standin.shapes import JSON, PLAIN_JSON, Numbers, Piece, Shape, gathered

if TYPE_CHECKING:
    from standin.models import StoredModel

MOST_EQUAL_TOKENS: Final = 30
"""After so many more an answer ends, without a last piece (llm/llama_server.go)."""
OPEN_THOUGHT, CLOSED_THOUGHT = "<think>", "</think>"
_SAMPLING: Final[dict[str, Any]] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "stop": [],
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "typical_p": 1.0,
    "seed": -1,
}
"""Ollama's names, which are llama.cpp's too, and what holds where nothing is said (api/types.go)."""


class Reply(Protocol):
    """Where an answer goes."""

    async def json(self, body: object, status: int = 200, content_type: str = JSON) -> None:
        """Send a whole answer."""

    async def piece(self, content: bytes, content_type: str) -> None:
        """Send a piece of a stream; the first begins it."""

    @property
    def has_begun(self) -> bool:
        """Whether a piece was sent."""


@dataclass
class Talk:
    """One request for text."""

    scheduler: Scheduler
    version: tuple[int, ...]
    model: StoredModel
    shape: Shape
    body: Mapping[str, Any]
    reply: Reply
    _computes: bool = False
    """Whether llama.cpp was asked; from then on an error is one of the stream."""

    async def answer(self) -> None:
        """Load, answer, or say what is wrong."""
        try:
            await self._answer()
        except ChildError as error:
            words, status = str(error), error.status
            if not self.reply.has_begun:
                plain = self.shape.is_openai or (self._computes and self._streams)
                kind = PLAIN_JSON if plain else JSON
                await self.reply.json(self.shape.error(words, status), status, kind)
            else:
                await self.reply.piece(self.shape.error_piece(words), self.shape.content_type)

    @property
    def _messages(self) -> list[dict[str, Any]]:
        messages = self.body.get("messages")
        return messages if isinstance(messages, list) else []

    @property
    def _prompt(self) -> str:
        return str(self.body.get("prompt") or "")

    @property
    def _streams(self) -> bool:
        return self.body.get("stream", not self.shape.is_openai) is True

    @property
    def _think(self) -> bool | None:
        """Whether it shall think; a model that can does, unless it is told not to."""
        wanted = self.body.get("think")
        if "thinking" in self.model.capabilities:
            return True if wanted is None else bool(wanted)
        if wanted:
            words = f'"{self.body["model"]}" does not support thinking'
            raise ChildError(words, 400)
        return None

    @property
    def _truncates(self) -> bool:
        return self.body.get("truncate") is not False

    async def _answer(self) -> None:
        begun, keep_alive = time.monotonic_ns(), self.body.get("keep_alive")
        is_empty = not self._messages and not self._prompt
        if is_empty and keep_alive is not None and seconds(keep_alive) == 0:
            await self.scheduler.expire(self.model)
            await self.reply.json(self.shape.nothing("unload"))
            return
        think = self._think
        wish = self.scheduler.wish(self.model, self.body)
        async with self.scheduler.held(self.model, wish, keep_alive) as runner:
            load_ns = time.monotonic_ns() - begun
            if is_empty:
                await self.reply.json(self.shape.nothing("load"))
                return
            messages = await self._fitting(runner, think)
            if self.body.get("_debug_render_only"):
                prompt = await self._text(runner, messages, think)
                await self.reply.json(self.shape.rendered(prompt))
                return
            if self.model.is_native and self.shape.is_chat:
                pieces = self._native(runner, messages, think, load_ns)
            else:
                prompt = await self._text(runner, messages, think)
                pieces = self._completion(runner, prompt, think, load_ns)
            self._computes = True
            async with runner.turn, aclosing(pieces):
                await self._send(pieces, begun)

    async def _send(self, pieces: AsyncGenerator[Piece, None], begun: int) -> None:
        heard = []
        async for piece in pieces:
            if piece.numbers is not None:
                numbers = replace(piece.numbers, total_ns=time.monotonic_ns() - begun)
                piece = replace(piece, numbers=numbers)  # noqa: PLW2901
            if self._streams:
                await self.reply.piece(self.shape.stream(piece), self.shape.content_type)
            heard.append(piece)
        if not self._streams:
            kind = PLAIN_JSON if self.shape.is_openai else JSON
            await self.reply.json(self.shape.whole(gathered(heard)), content_type=kind)
        elif not heard:
            await self.reply.piece(b"", self.shape.content_type)

    async def _fitting(self, runner: Runner, think: bool | None) -> Messages:
        """The conversation that is rendered: with the model's own messages, without what does not fit."""
        if not self.shape.is_chat and self.body.get("raw"):
            return []
        messages = self._conversation()
        own_template = not self.shape.is_chat and self.body.get("template")
        if own_template or not self._truncates or (self.model.is_native and len(messages) < 2):
            return messages

        async def count(some: Messages) -> int:
            return len(await runner.child.tokenize(await self._text(runner, some, think)))

        native = self.model.is_native
        return await fitting(messages, runner.window_tokens, count, is_native=native)

    def _conversation(self) -> list[dict[str, Any]]:
        if self.shape.is_chat:
            return with_own(self.model, self._messages)
        system = self.body.get("system") or self.model.system
        first = [{"role": "system", "content": system}] if system else []
        return [*first, *self.model.messages, {"role": "user", "content": self._prompt}]

    async def _text(self, runner: Runner, messages: Messages, think: bool | None) -> str:
        """The prompt."""
        if not self.shape.is_chat and self.body.get("raw"):
            return self._prompt
        if not self.shape.is_chat and self.body.get("template"):
            return by_template(self.body["template"], messages, think=think)
        if self.model.is_native:
            body = self._request(runner, think) | {"messages": messages, "stream": False}
            return str((await runner.child.ask("/apply-template", body))["prompt"])
        return rendered(self.model, messages, think=think)

    def _request(self, runner: Runner, think: bool | None) -> dict[str, Any]:
        """What llama.cpp is asked, but for the prompt."""
        options = {**self.model.options, **(self.body.get("options") or {})}
        most = 10 * runner.window_tokens
        predict = int(options.get("num_predict", -1))
        known = {key: options.get(key, value) for key, value in _SAMPLING.items()}
        thinking = {} if think is None else {"chat_template_kwargs": {"enable_thinking": think}}
        return {
            **known,
            "stream": True,
            "cache_prompt": True,
            "n_predict": most if predict < 0 else min(predict, most),
            "n_keep": int(options.get("num_keep", 4)),
            **(thinking if self.model.is_native else {}),
        }

    async def _native(
        self, runner: Runner, messages: Messages, think: bool | None, load_ns: int
    ) -> AsyncGenerator[Piece, None]:
        """llama.cpp renders, and refuses what is too long."""
        body = self._request(runner, think) | {"messages": messages}
        async with runner.child.stream("/v1/chat/completions", body) as events:
            async for event in events:
                for choice in event.get("choices", []):
                    delta = choice.get("delta", {})
                    content = delta.get("content") or ""
                    thinking = delta.get("reasoning_content") or ""
                    if reason := choice.get("finish_reason"):
                        numbers = Numbers.of(event["timings"], load_ns)
                        why = "length" if reason == "length" else "stop"
                        yield Piece(content, thinking, why, numbers)
                        return
                    if content or thinking:
                        yield Piece(content, thinking)

    async def _completion(
        self, runner: Runner, prompt: str, think: bool | None, load_ns: int
    ) -> AsyncGenerator[Piece, None]:
        """Ollama rendered; it cuts what is too long, unless it was told not to."""
        asked = await self._cut(runner, prompt)
        body = self._request(runner, think) | {"prompt": asked}
        thoughts = Thoughts(think is True, prompt.rstrip().endswith(OPEN_THOUGHT))
        last, equal, said = "", 0, ""
        async with runner.child.stream("/completion", body) as events:
            async for event in events:
                content = event["content"]
                equal = equal + 1 if content.strip() == last else 0
                last = content.strip()
                if equal > MOST_EQUAL_TOKENS:
                    slog(
                        "DEBUG",
                        "llama_server.go:1690",
                        "prediction aborted, token repeat limit reached",
                    )
                    return
                said += content
                thinking, content = thoughts.split(content)
                if event.get("stop"):
                    why = "length" if event.get("stop_type") == "limit" else "stop"
                    numbers = Numbers.of(event["timings"], load_ns)
                    context: tuple[int, ...] = ()
                    if not self.shape.is_chat and not self.body.get("raw"):
                        context = (*await runner.child.tokenize(prompt + said),)
                    yield Piece(content, thinking, why, numbers, context)
                    return
                if content or thinking:
                    yield Piece(content, thinking)

    async def _cut(self, runner: Runner, prompt: str) -> str | list[int]:
        head = self.model.head
        if head.adds_bos:
            prompt = prompt.removeprefix("<bos>")
        if not self._truncates or len(prompt.encode()) < runner.window_tokens:
            return prompt
        tokens = await runner.child.tokenize(prompt)
        shift = runner.wish.launch.context_shift
        keep = int({**self.model.options, **(self.body.get("options") or {})}.get("num_keep", 4))
        cut = Cut(self.version, runner.window_tokens, shift, head.adds_bos)
        seen = cut.tokens(tokens, keep)
        return prompt if seen is tokens else seen


class Thoughts:
    """Parts what a model thinks from what it says (thinking/parser.go, as far as the tests' models go)."""

    def __init__(self, thinks: bool, has_begun: bool) -> None:
        self._thinks, self._inside = thinks, thinks and has_begun
        self._held = ""

    def split(self, content: str) -> tuple[str, str]:
        """Thought and answer in the next piece; a tag may come in several pieces."""
        if not self._thinks:
            return "", content
        self._held += content
        if not self._inside and self._held.lstrip().startswith(OPEN_THOUGHT):
            self._inside, self._held = True, self._held.lstrip().removeprefix(OPEN_THOUGHT)
        if not self._inside:
            if OPEN_THOUGHT.startswith(self._held.strip()) and self._held.strip():
                return "", ""
            self._thinks = False
            return "", self._held
        thought, tag, rest = self._held.partition(CLOSED_THOUGHT)
        if tag:
            self._thinks = self._inside = False
            return thought, rest.lstrip()
        held = next(
            (size for size in range(len(CLOSED_THOUGHT), 0, -1) if self._ends_with_tag(size)), 0
        )
        self._held = self._held[len(self._held) - held :] if held else ""
        return thought[: len(thought) - held], ""

    def _ends_with_tag(self, size: int) -> bool:
        return self._held.endswith(CLOSED_THOUGHT[:size])
