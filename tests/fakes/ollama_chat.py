"""What a fake Ollama makes of a request for text: it loads, reads, cuts, answers and breaks as its version does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fakes.answering import Answer, Cut, Hang, Json, Live, Received
from fakes.ollama_eras import Answered, Part, Prompt, Rejected, answered
from fakes.ollama_forms import Final, Form
from fakes.ollama_prompts import collated, messages, rendered
from fakes.ollama_runners import Runner, Speed, TooLarge, common
from fakes.ollama_troubles import STOPPED, Break, busy, crashed, missing, out_of_memory

if TYPE_CHECKING:
    from fakes.ollama_log import Log
    from fakes.ollama_models import FakeModel
    from fakes.ollama_runners import Runners

Steps = Generator[float | bytes | Json | Hang | Cut, None, None]
_QUEUE_SECONDS = 0.02
_WARM_LOAD_NS = 20_000_000
"""``load_duration`` of a model that is there."""


@dataclass
class Talking:
    """How a fake Ollama answers requests for text. Tests change it as they go."""

    says: str | Callable[[Mapping[str, Any]], str] = "It is well."
    thinks: str = ""
    speed: Speed = field(default_factory=Speed)
    breaks: list[Break | None] = field(default_factory=list)
    """What happens to the next answers, first to last; None to one that is answered in peace."""
    max_queue: int = 512
    crashes_on_load: bool = False
    debug: bool = False
    """OLLAMA_DEBUG."""


@dataclass
class Conversation:
    """One request for text, from the queue to its last piece."""

    talking: Talking
    runners: Runners
    log: Log
    version: str
    numbers: tuple[int, ...]
    model: FakeModel
    request: Received
    form: Form

    def steps(self, waiting: Callable[[int], int]) -> Steps:
        """Wait for the runner, load it, answer. ``waiting`` counts the requests that do, and tells how many."""
        body, share = self.request.body, self.talking.speed.share
        if waiting(+1) > self.talking.max_queue:
            waiting(-1)
            yield busy()
            return
        try:
            taken = yield from self._taken()
        finally:
            waiting(-1)
        if isinstance(taken, str):
            yield self._error(500, taken)
            return
        runner, loaded = taken
        try:
            if loaded:
                self.log.loading(runner.window_tokens)
                yield self.talking.speed.load_seconds * share
                self.log.loaded(self.talking.speed.load_seconds)
            yield from self._answer(runner, loaded=loaded)
        finally:
            runner.busy.release()
            self.runners.keep(runner, body.get("keep_alive"))

    def _taken(self) -> Generator[float, None, tuple[Runner, bool] | str]:
        """The runner, held; or why there is none."""
        loaded = False
        options = self._options
        while True:
            auto_differs = self.numbers >= (0, 30)
            if self.talking.crashes_on_load:
                return crashed(self.numbers)
            old = self.runners.get(self.model)
            if old is not None and old.busy.locked():
                yield _QUEUE_SECONDS
                continue
            found = self.runners.take(self.model, options, auto_differs=auto_differs)
            if isinstance(found, TooLarge):
                return out_of_memory(self.numbers, found.needed_bytes, found.memory_bytes)
            runner, fresh = found
            loaded = loaded or fresh
            if runner.busy.acquire(blocking=False):
                return runner, loaded
            yield _QUEUE_SECONDS

    def _answer(self, runner: Runner, *, loaded: bool) -> Steps:
        prompt_text = rendered(self.request)
        if prompt_text is None:
            yield Json(self.form.nothing("load"))
            return
        tokens = list(itertools.chain.from_iterable(map(self.model.encode, prompt_text)))
        cached = common(runner.tokens, tokens)
        said = self._said()
        result = answered(self.version, self._prompt(runner, prompt_text, len(said), cached))
        if isinstance(result, Rejected):
            self.log.write(result.log)
            self.log.called(self.request.path, result.status, 0.0)
            yield self._error(result.status, result.error)
            return
        yield from self._tell(runner, result, said, min(cached, result.seen - 1), loaded)
        seen = tokens if not result.lost else tokens[:4] + tokens[len(tokens) - result.seen + 4 :]
        runner.tokens = [*seen, *self.model.encode("".join(said))]

    def _tell(
        self, runner: Runner, result: Answered, said: list[str], cached: int, loaded: bool
    ) -> Steps:
        """Read the prompt, then say the pieces, with whatever goes wrong meanwhile."""
        speed = self.talking.speed
        before = [line for line in result.log if not _is_of_the_end(line)]
        self.log.write(before)
        final = self._final(result, cached, loaded)
        yield final.prefill_ns / 1e9 * speed.share
        breaks = self.talking.breaks.pop(0) if self.talking.breaks else None
        streams = self.request.body.get("stream", not self.form.path.startswith("/v1/")) is True
        pause = speed.share / speed.answer_tokens_per_second
        said = (said * (result.eval_count // max(len(said), 1) + 1))[: result.eval_count]
        for index, piece in enumerate(said):
            if breaks is not None and (index >= breaks.after_pieces or not streams):
                break
            if streams:
                yield self.form.piece(piece)
            yield pause
        if breaks is not None:
            yield from self._broken(breaks, runner, streams and breaks.after_pieces > 0)
            return
        self.log.write(line for line in result.log if _is_of_the_end(line))
        if streams:
            yield from self.form.end(final)
        else:
            yield Json(self.form.whole("".join(said), final))

    def _broken(self, how: Break, runner: Runner, begun: bool) -> Steps:
        match how.kind:
            case "cut":
                yield Cut(b"")
            case "end":
                return
            case "hang":
                yield Hang()
            case "error" | "crash":
                if how.kind == "crash":
                    self.runners.unload(runner)
                yield self.form.error_piece(STOPPED) if begun else self._error(500, STOPPED)

    def _final(self, result: Answered, cached: int, loaded: bool) -> Final:
        speed = self.talking.speed
        read_seconds = (result.seen - cached) / speed.prompt_tokens_per_second
        return Final(
            done_reason=result.done_reason,
            load_ns=int(speed.load_seconds * 1e9) if loaded else _WARM_LOAD_NS,
            prompt_tokens=result.prompt_eval_count,
            prefill_ns=int(read_seconds * 1e9),
            answer_tokens=result.eval_count,
            generation_ns=int(result.eval_count / speed.answer_tokens_per_second * 1e9),
        )

    def _prompt(self, runner: Runner, texts: list[str], answer: int, cached: int) -> Prompt:
        body = self.request.body
        options = self._options
        roles = [message["role"] for message in collated(messages(self.request))]
        counts = [len(self.model.encode(text)) for text in texts]
        raw = body.get("raw") is True
        limit = options.get("num_predict") or body.get("max_tokens") or 0
        return Prompt(
            parts=tuple(map(Part, roles, counts)),
            window_tokens=runner.window_tokens,
            tail_tokens=0 if raw else counts[-1],
            answer_tokens=answer,
            num_predict=max(int(limit), 0),
            raw=raw,
            truncate=body.get("truncate", True) is not False,
            shift=body.get("shift", True) is not False and not self._cannot_shift,
            native=self.model.native,
            cached_tokens=cached,
            debug=self.talking.debug,
        )

    @property
    def _options(self) -> Mapping[str, Any]:
        """Those of the request; /v1 knows none of Ollama's."""
        is_openai = self.request.path.startswith("/v1/")
        return {} if is_openai else self.request.body.get("options") or {}

    @property
    def _cannot_shift(self) -> bool:
        """Of this family llama-server cannot shift the context."""
        return self.numbers >= (0, 30) and self.model.family == "deepseek2"

    def _said(self) -> list[str]:
        """The answer's pieces, each of which counts as a token."""
        says = self.talking.says
        text = says if isinstance(says, str) else says(self.request.body)
        return re.findall(r"\s*\S+|\s+$", text)

    def _error(self, status: int, words: str) -> Json:
        return Json(self.form.error(words), status)


def converse(
    conversation: Callable[[FakeModel, Form], Conversation],
    request: Received,
    find: Callable[[str], FakeModel | None],
    numbers: tuple[int, ...],
    waiting: Callable[[int], int],
) -> Answer:
    """The answer to a request for text."""
    name = request.body["model"]
    usage = (request.body.get("stream_options") or {}).get("include_usage") is True
    form = Form(request.path, numbers, name, with_usage=usage)
    model = find(name)
    if not name:
        return Json(form.error("model is required"), 400)
    if model is None:
        return Json(form.error(missing(name, request.path, numbers)), 404)
    form = Form(request.path, numbers, name, model.remote(numbers), usage)
    return Live(conversation(model, form).steps(waiting), form.content_type)


def _is_of_the_end(line: str) -> bool:
    return "[GIN]" in line or "stop processing" in line or "shift" in line
