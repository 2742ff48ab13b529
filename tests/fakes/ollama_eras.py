"""How each era of Ollama cuts a prompt that is too large: a model of it, in numbers of tokens only.

    answered("0.30.11", Prompt((Part("system", 300), Part("user", 9000)), window_tokens=4096))

Sources: server/prompt.go (dropping messages), runner/llamarunner/runner.go (0.4 to 0.24), llm/llama_server.go and
llama.cpp's server-context.cpp (0.30 and later), llm/ext_server/server.cpp (before 0.4). What is true (``Answered.seen``
and the like) stands beside what a client is told (``prompt_eval_count``) and what the log says (``log``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

KEEP_TOKENS = 4
"""``num_keep``'s default (api/types.go)."""
TOO_LONG = "the input length exceeds the context length"
NO_SHIFT = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)
_SLOT = "id  0 | task 135"


@dataclass(frozen=True)
class Part:
    """One message; ``tokens`` are what it takes in the rendered prompt, its share of the template included."""

    role: str
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """A request. ``parts`` with ``raw`` are one text that is not dropped message by message; ``tail_tokens`` is what
    the template puts at the end, BOS included.
    """

    parts: tuple[Part, ...]
    window_tokens: int
    tail_tokens: int = 0
    answer_tokens: int = 20
    """How long the model would answer if nothing ended it."""
    num_predict: int = 0
    raw: bool = False
    truncate: bool = True
    adds_bos: bool = False
    shift: bool = True
    """Whether the context is shifted when it is full; never for deepseek2 from 0.30 on."""
    native: bool = False
    """Whether llama-server renders the model's own template (0.30 and later)."""
    mlx: bool = False
    cached_tokens: int = 0
    """How much of the prompt's beginning the runner still has."""
    debug: bool = False
    """Whether the server runs with OLLAMA_DEBUG."""

    @property
    def tokens(self) -> int:
        """The whole prompt."""
        return sum(part.tokens for part in self.parts) + self.tail_tokens

    @property
    def keep(self) -> int:
        """How many tokens of the beginning are kept."""
        return min(KEEP_TOKENS + self.adds_bos, self.window_tokens - 1)


@dataclass(frozen=True)
class Rejected:
    """The server refused: nothing was lost silently."""

    status: int
    error: str
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """The server answered 200. ``prompt_eval_count`` 0 means that the field is not there.

    ``seen`` is how many of the prompt's tokens were evaluated or taken from the cache; ``pushed_out`` how many of those
    were given up while the answer was written.
    """

    prompt_eval_count: int
    eval_count: int
    done_reason: str
    log: tuple[str, ...]
    seen: int
    dropped_messages: int = 0
    cut_by_tokens: bool = False
    pushed_out: int = 0
    lost: int = 0
    """Tokens that the model never saw."""


def numbers(version: str) -> tuple[int, ...]:
    """The version, for comparing."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])


def slot_window(version: str, window_tokens: int) -> int:
    """What the runner has: llama.cpp makes a context's size a multiple of 256 (0.30 and later)."""
    return -(-window_tokens // 256) * 256 if numbers(version) >= (0, 30) else window_tokens


def answered(version: str, prompt: Prompt) -> Answered | Rejected:
    """What a server of this version does with a prompt, and says of it."""
    if prompt.mlx:
        return _finish(version, prompt, prompt.tokens, 0, False, ())
    kept, dropped, log = _drop_messages(version, prompt)
    outcome = _cut_tokens(version, prompt, kept)
    if isinstance(outcome, Rejected):
        return Rejected(outcome.status, outcome.error, (*log, *outcome.log))
    seen, lines = outcome
    return _finish(version, prompt, seen, dropped, seen < kept, (*log, *lines))


def _drop_messages(version: str, prompt: Prompt) -> tuple[int, int, tuple[str, ...]]:
    """The tokens of the messages that are kept, how many messages are not, and what is logged."""
    parts, last = prompt.parts, len(prompt.parts) - 1
    if prompt.raw or not prompt.truncate or prompt.tokens <= prompt.window_tokens or not last:
        return prompt.tokens, 0, ()
    kept, told = (_kept if numbers(version) >= (0, 15, 5) else _kept_before_0_15_5)(prompt)
    tokens = sum(parts[index].tokens for index in kept) + prompt.tail_tokens
    dropped = len(parts) - len(kept)
    what, source = "input messages", "prompt.go:77"
    if prompt.native and numbers(version) >= (0, 30):
        what, source, told = "native chat messages", "routes.go:3087", len(parts) - told
    words = f'msg="truncating {what} which exceed context length" truncated={told}'
    line = _line("DEBUG", source, words)
    return tokens, dropped, (line,) if prompt.debug else ()


def _kept(prompt: Prompt) -> tuple[list[int], int]:
    """The first place where what is left fits, with all system messages before it."""
    parts, last = prompt.parts, len(prompt.parts) - 1
    for start in range(last):
        kept = [*_systems(parts, start), *range(start, last + 1)]
        tokens = sum(parts[index].tokens for index in kept) + prompt.tail_tokens
        if tokens <= prompt.window_tokens:
            return kept, last + 1 - start
    return [*_systems(parts, last), last], 1


def _kept_before_0_15_5(prompt: Prompt) -> tuple[list[int], int]:
    """From the end; a system message right before the first one kept is lost."""
    parts, last = prompt.parts, len(prompt.parts) - 1
    first, systems, told = last, list[int](), 0
    for index in range(last - 1, -1, -1):
        systems = _systems(parts, index)
        tokens = sum(parts[one].tokens for one in (*systems, *range(index, last + 1)))
        if tokens + prompt.tail_tokens > prompt.window_tokens:
            told = last + 1 - index
            break
        first = index
    return [*systems, *range(first, last + 1)], told


def _systems(parts: tuple[Part, ...], before: int) -> list[int]:
    return [index for index in range(before) if parts[index].role == "system"]


def _cut_tokens(
    version: str, prompt: Prompt, tokens: int
) -> tuple[int, tuple[str, ...]] | Rejected:
    """The tokens that reach the runner, and what is logged."""
    at, window = numbers(version), prompt.window_tokens
    if at < (0, 4):
        return (_cut_by_blocks(prompt, tokens) if tokens >= window else tokens), ()
    if at < (0, 30):
        if tokens <= window:
            return tokens, ()
        if at >= (0, 12, 6) and not prompt.truncate:
            return Rejected(400, TOO_LONG)
        return window, (_cut_line(version, prompt, window, tokens),)
    has = slot_window(version, window)
    if prompt.native or not prompt.truncate:
        return (tokens, ()) if tokens < has else _exceeds(tokens, has)
    if tokens <= window - 1:
        return tokens, ()
    if at >= (0, 30, 9) and not prompt.shift:
        return Rejected(400, NO_SHIFT)
    new = window - 1
    if at >= (0, 30, 11):
        new = window - max((window - prompt.keep) // 2, 1)
    return new, (_cut_line(version, prompt, new, tokens),)


def _cut_by_blocks(prompt: Prompt, tokens: int) -> int:
    keep = min(prompt.keep, prompt.window_tokens - 4)
    block = (prompt.window_tokens - keep) // 2
    return tokens - (tokens - keep - block) // block * block


def _exceeds(tokens: int, has: int) -> Rejected:
    message = f"request ({tokens} tokens) exceeds the available context size ({has} tokens), try increasing it"
    error = {
        "code": 400,
        "message": message,
        "type": "exceed_context_size_error",
        "n_prompt_tokens": tokens,
        "n_ctx": has,
    }
    return Rejected(400, json.dumps({"error": error}))


def _cut_line(version: str, prompt: Prompt, new: int, tokens: int) -> str:
    source = "llama_server.go:317" if numbers(version) >= (0, 30) else "runner.go:128"
    words = (
        f'msg="truncating input prompt" limit={new} prompt={tokens} keep={prompt.keep} new={new}'
    )
    return _line("WARN", source, words)


def _line(level: str, source: str, words: str) -> str:
    return f"time=2026-11-22T10:04:43.512Z level={level} source={source} {words}"


def _finish(
    version: str,
    prompt: Prompt,
    seen: int,
    dropped: int,
    cut_by_tokens: bool,
    log: tuple[str, ...],
) -> Answered:
    """The answer is written; the context is shifted, or it ends, where the window does."""
    wanted = prompt.answer_tokens
    if prompt.num_predict:
        wanted = min(wanted, prompt.num_predict)
    room = _room(version, prompt, seen)
    shifts = not prompt.mlx and _shifts(version, prompt) and wanted > room
    answer = wanted if shifts or prompt.mlx else min(wanted, room)
    discard, shift_lines = _shifted(version, prompt, seen, answer) if shifts else (0, ())
    ended_early = answer < prompt.answer_tokens
    return Answered(
        prompt_eval_count=_told(version, prompt, seen),
        eval_count=answer,
        done_reason="length" if ended_early else "stop",
        log=(
            *log,
            *_begin_lines(version, prompt, seen),
            *shift_lines,
            *_end_lines(version, prompt, seen + answer - 1 - discard, bool(discard)),
        ),
        seen=seen,
        dropped_messages=dropped,
        cut_by_tokens=cut_by_tokens,
        pushed_out=min(discard, max(seen - prompt.keep, 0)),
        lost=prompt.tokens - seen,
    )


def _room(version: str, prompt: Prompt, seen: int) -> int:
    """How long an answer can be before anything has to go. The last token of an answer is never evaluated; llama.cpp
    keeps one place free.
    """
    has = slot_window(version, prompt.window_tokens)
    return has - seen if numbers(version) >= (0, 30) else has - seen + 1


def _shifts(version: str, prompt: Prompt) -> bool:
    """``shift`` is known since 0.12.6; before, the context is always shifted."""
    return prompt.shift or numbers(version) < (0, 12, 6)


def _shifted(version: str, prompt: Prompt, seen: int, answer: int) -> tuple[int, tuple[str, ...]]:
    """How many tokens were given up for the answer, and what is logged."""
    has = slot_window(version, prompt.window_tokens)
    is_new = numbers(version) >= (0, 30)
    full = has - 1 if is_new else has
    block = max((full - prompt.keep) // 2, 1)
    times = -(-(seen + answer - 1 - full) // block)
    if is_new:
        left = full - prompt.keep
        words = f"slot context shift, n_keep = {prompt.keep}, n_left = {left}, n_discard = {block}"
        return times * block, (f"slot update_slots: {_SLOT} | {words}",) * times
    words = f'msg="context limit hit - shifting" id=0 limit={has} input={has} keep={prompt.keep} discard={block}'
    line = _line("DEBUG", "cache.go:246", words)
    return times * block, (line,) * times if prompt.debug else ()


def _told(version: str, prompt: Prompt, seen: int) -> int:
    """``prompt_eval_count``: without what was cached before 0.4 and in 0.30.0."""
    if numbers(version) < (0, 4) or numbers(version) == (0, 30, 0):
        # The last token is always evaluated again.
        return seen - min(prompt.cached_tokens, seen - 1)
    return seen


def _begin_lines(version: str, prompt: Prompt, seen: int) -> tuple[str, ...]:
    if prompt.mlx:
        return ()
    if numbers(version) >= (0, 30):
        has = slot_window(version, prompt.window_tokens)
        words = f"new prompt, n_ctx_slot = {has}, n_keep = {prompt.keep}, task.n_tokens = {seen}"
        return (f"slot update_slots: {_SLOT} | {words}",)
    if not prompt.debug or numbers(version) < (0, 4):
        return ()
    used = min(prompt.cached_tokens, seen - 1)
    words = f'msg="loading cache slot" id=0 cache={used} prompt={seen} used={used} remaining={seen - used}'
    return (_line("DEBUG", "cache.go:104", words),)


def _end_lines(version: str, prompt: Prompt, tokens: int, shifted: bool) -> tuple[str, ...]:
    told = (
        '[GIN] 2026/11/22 - 10:04:43 | 200 |  2.4801123s |       127.0.0.1 | POST     "/api/chat"'
    )
    if prompt.mlx or numbers(version) < (0, 30):
        return (told,)
    words = f"stop processing: n_tokens = {tokens}, truncated = {int(shifted)}"
    return (f"slot      release: {_SLOT} | {words}", told)
