"""One request for text on its way through the door (seam.Visit)."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from aider_guard.core.chat import cloud, request
from aider_guard.core.chat import errors as chat_errors
from aider_guard.core.chat.body import asks_for_usage, forbids_truncation, sent
from aider_guard.core.chat.errors import Failure, of_words
from aider_guard.core.chat.events import NOT_TOLD, Reason, RequestRefused, RequestStarted
from aider_guard.core.chat.replies import Timestamp, waiting
from aider_guard.core.chat.request import (
    FORMS,
    PREFIX,
    ChatRequest,
    asks_for_nothing,
    conversation,
    decoded,
    read,
)
from aider_guard.core.chat.response import AnswerHead, Meter, Usage, UsageFilter
from aider_guard.core.chat.size import parts
from aider_guard.core.chat.types import DoorSettings, Upstream
from aider_guard.core.readings import Unavailable
from aider_guard.door.access import AccessRules
from aider_guard.door.accounting import Account, part_rows
from aider_guard.door.context import BrokenAnswers, RequestContext, RetrySchedule
from aider_guard.door.interfaces import (
    Abort,
    Forward,
    IncomingRequest,
    Outcome,
    Pass,
    Reply,
    Retry,
    Services,
    Trouble,
)
from aider_guard.door.refusals import PromptSizing, Refusals, error
from aider_guard.ollama.names import is_this_machine

if TYPE_CHECKING:
    from aider_guard.core.events import Event

# An upstream's answer on its way to Aider: read as it passes, and ended where it must not go on.

_STREAMS: Final = (b"{", b"data:", b"event:", b"error:", b"id:", b"retry:", b":")


class ResponseStream:
    """The bytes of one answer.

    ``feed`` gives what Aider gets in place of a piece, or why the answer must end here.
    """

    def __init__(self, *, is_ollama: bool, hides_usage: bool) -> None:
        self._meter = Meter()
        self._head = AnswerHead() if is_ollama else None
        self._filter = UsageFilter() if hides_usage else None
        self._begun = False

    @property
    def usage(self) -> Usage:
        """What the server said of it so far."""
        return self._meter.usage

    @property
    def has_text(self) -> bool:
        """Whether any of the answer was passed, thinking aside."""
        return self._meter.so_far.texts > 0

    def feed(self, chunk: bytes, *, refuses_remote: bool) -> bytes | Failure:
        """The next piece. An error in the middle of a text is passed on: Aider takes the answer as broken then, which
        it is, and does not make half of it a change.
        """
        if not self._begun and chunk.strip():
            self._begun = True
            if not chunk.lstrip().startswith(_STREAMS) and not _may_begin(chunk.lstrip()):
                return Failure("strange", chunk[:400].decode("utf-8", "replace"), 200)
        self._meter.feed(chunk)
        heard = self._meter.so_far
        if heard.error and not heard.texts:
            return of_words(heard.error)
        passed: bytes | None = chunk
        if self._head is not None and refuses_remote:
            passed = self._head.feed(chunk)
        if passed is None:
            return Failure("cloud", self._meter.usage.remote)
        return self._filter.feed(passed) if self._filter else passed

    def rest(self) -> bytes:
        """What was held back of an answer that has ended."""
        held = self._head.rest() if self._head is not None else b""
        return self._filter.feed(held) + self._filter.rest() if self._filter else held


def _may_begin(start: bytes) -> bool:
    return any(known.startswith(start) for known in _STREAMS)


_COUNTED_PURPOSES: Final = ("chat", "edit", "other")


class ChatExchange:
    """One request for text; the order of the calls is the seam's."""

    def __init__(self, call: IncomingRequest, house: RequestContext) -> None:
        self._call = call
        self._house = house
        self._asked: ChatRequest | None = None
        self._refusing: Refusals | None = None
        self._sizing = PromptSizing(call, house)
        self._left_out = 0
        self._waits = RetrySchedule(house.clock)
        self._passing: ResponseStream | None = None
        self._started = False
        self._mark = 0
        self._first_byte_seconds: float | Unavailable = NOT_TOLD

    async def begin(self) -> Forward | Reply:
        """Read it; refuse what must not or cannot be answered; else send it on, changed as bodies.sent says."""
        settings, call = self._house.settings, self._call
        body = decoded(call.body)
        if body is None and call.body.strip() and settings.refuse_cloud:
            return error("the request cannot be read", 400, call.path)  # but perhaps by the server
        if body is None:
            return Forward(call.body)  # the server's own error is right
        self._asked = asked = read(FORMS[call.path], body, settings, call.upstream.path)
        self._refusing = refusing = Refusals(call, self._house, asked)
        if refused := await refusing.elsewhere(self._waits):
            return refused
        await self._house.learn(asked, call.upstream)
        version = self._house.version
        if asks_for_nothing(asked):
            return Forward(sent(asked, call.body, settings, call.upstream, version))
        if asked.purpose == "edit" and request.is_own(_last_message(asked)):
            return refusing.nothing_to_edit()
        if failure := self._house.breaks.due(call.body):
            return refusing.failed(failure)
        sized = await self._sizing.fitted(asked)
        self._asked, self._left_out = sized.asked, sized.left_out
        self._refusing = refusing = Refusals(call, self._house, sized.asked)
        if sized.overflow is not None:
            return await refusing.too_large(sized.overflow)
        await self._house.services.residency.begins(sized.asked, call.upstream)
        self._start(sized.asked)
        return Forward(sent(sized.asked, sized.body, settings, call.upstream, version))

    async def failed(self, trouble: Trouble) -> Reply | Retry:
        """Wait a moment for a server that may be restarting, then say it."""
        if trouble.kind != "silent" and (seconds := self._waits.for_its_return()) is not None:
            return Retry(seconds)
        if self._refusing is None:
            return error(f"the model server does not answer: {trouble.words}", 502)
        reason = self._gone() if trouble.kind == "silent" else "down"
        return self._refusing.failed(Failure(reason, trouble.words))

    async def refused(self, status: int, content: bytes) -> Reply | Retry | Pass:
        """Wait for a server that is busy; say what else is the matter."""
        refusing = self._refusing
        if refusing is None or not self._started:
            return Pass()
        failure = chat_errors.understood(status, content)
        if failure.waits and (seconds := self._waits.for_its_turn()) is not None:
            return self._wait(refusing.asked, seconds, failure)
        if failure.reason == "overflow":
            counted = await self._sizing.counted()
            return await refusing.too_large(refusing.overflow_of(failure, counted))
        return refusing.failed(failure)

    def passed(self, chunk: bytes) -> bytes | Reply:
        """The next piece of the answer."""
        refusing, house = self._refusing, self._house
        if refusing is None or not self._started:
            return chunk
        if self._passing is None:
            self._first_byte_seconds = house.clock() - self._call.received_at
            ollama = self._call.upstream.kind == "ollama"
            usage_added = asks_for_usage(refusing.asked)
            self._passing = ResponseStream(is_ollama=ollama, hides_usage=usage_added)
        result = self._passing.feed(chunk, refuses_remote=house.settings.refuse_cloud)
        if isinstance(result, bytes):
            return result
        if result.reason == "cloud":
            return refusing.answered_elsewhere(result.words)
        return refusing.failed(result)

    def rest(self) -> bytes:
        """What was held back of the answer."""
        return self._passing.rest() if self._passing is not None else b""

    def broke(self, trouble: Trouble) -> Reply | Abort:
        """Let Aider try again; where that broke as well, say so, if nothing of the answer was passed."""
        failure = Failure(self._gone(), f"the answer broke off ({trouble.words})")
        due = self._house.breaks.note(self._call.body, failure)
        nothing_passed = self._passing is None or not self._passing.has_text
        if not due or not nothing_passed or self._refusing is None:
            return Abort()
        self._house.breaks.forget(self._call.body)
        return self._refusing.failed(failure)

    async def end(self, outcome: Outcome) -> None:
        """Account for it."""
        asked = self._asked
        if asked is None or not self._started or outcome == "replied":
            self._sizing.stop()
        if asked is None or not self._started:
            return
        residency, upstream = self._house.services.residency, self._call.upstream
        usage = self._passing.usage if self._passing else Usage()
        residency.ended(asked, upstream, usage.load_seconds)
        if outcome != "replied":
            await self._account(asked, outcome, usage)

    async def _account(self, asked: ChatRequest, outcome: Outcome, usage: Usage) -> None:
        services, settings = self._house.services, self._house.settings
        upstream, version = self._call.upstream, self._house.version
        counted = await self._sizing.counted()
        account = Account(
            call=self._call,
            asked=asked,
            outcome=outcome,
            usage=usage,
            counted=counted,
            window_tokens=self._house.window(asked, upstream),
            version=version,
            truncation_forbidden=forbids_truncation(asked, settings, upstream, version),
            first_byte_seconds=self._first_byte_seconds,
            log=await services.witness.since(self._mark),
            never_truncates=services.shelf.never_truncates(upstream, asked.model),
            left_out=self._left_out,
        )
        verdict = account.verdict()
        if (tokens := account.measured_tokens(verdict)) is not None:
            services.counts.measured(asked, counted, tokens)
        self._remember(account)
        found = parts(asked) if asked.purpose in _COUNTED_PURPOSES else ()
        total = usage.prompt_tokens if isinstance(counted, Unavailable) else counted
        rows = await part_rows(services.counts, asked.model, found, total)
        self._house.emit(account.event(verdict, rows))

    def _remember(self, account: Account) -> None:
        """An answer that the server broke off with an error's line was passed as it came."""
        if account.outcome == "answered" and account.finished == "broken":
            words = account.usage.error or "the answer ended in the middle"
            self._house.breaks.note(self._call.body, chat_errors.of_words(words))
        elif account.finished == "answered":
            self._house.breaks.forget(self._call.body)

    def _gone(self) -> Reason:
        """What the end of a connection without a word means: on the way to another machine it may be the network."""
        return "crashed" if is_this_machine(self._call.upstream.base) else "lost"

    def _start(self, asked: ChatRequest) -> None:
        self._started = True
        self._mark = self._house.services.witness.mark()
        self._house.emit(
            RequestStarted(
                number=self._call.number,
                role=asked.role,
                purpose=asked.purpose,
                model=asked.model,
                server=self._call.upstream.kind,
            )
        )

    def _wait(self, asked: ChatRequest, seconds: float, failure: Failure) -> Retry:
        words = self._waits.words(chat_errors.printable(failure.words) or "the server is busy")
        shown = waiting(asked, words, self._house.moment()) if words else None
        if shown is None:
            return Retry(seconds)
        return Retry(seconds, shown.content, shown.content_type)


def _last_message(asked: ChatRequest) -> str:
    users = [message.content for message in conversation(asked) if message.role == "user"]
    return users[-1] if users else ""


# Whoever decides about requests for text: what is sent, what is answered instead, and what is told of it.
#
# The attendant does no HTTP: transport carries (seam.py), services count, read the log and know what is loaded
# (services.py), and the rules are in core/traffic.


def now() -> Timestamp:
    """This moment, as Ollama writes it."""
    at = datetime.now(timezone.utc)
    return Timestamp(at.isoformat().replace("+00:00", "Z"), int(at.timestamp()))


class ChatHandler:
    """Handles the requests of one session's door. ``emit`` is called on the door's event loop."""

    def __init__(
        self,
        settings: Callable[[], DoorSettings],
        services: Services,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        moment: Callable[[], Timestamp] = now,
    ) -> None:
        self._settings = settings
        self._services = services
        self._emit = emit
        self._clock, self._moment = clock, moment
        self._breaks = BrokenAnswers(clock)
        self._entrance = AccessRules(services.shelf)

    def attends(self, upstream: Upstream, method: str, path: str) -> bool:
        """Whether it is a request for text. Ollama has its own protocol and OpenAI's, other servers have the latter."""
        form = FORMS.get(path)
        if method != "POST" or form is None:
            return False
        if upstream.kind == "ollama":
            return path.startswith(("/api/", "/v1/"))
        return form in ("openai_chat", "openai_text")

    def visit(self, call: IncomingRequest) -> ChatExchange:
        """A new request for text."""
        house = RequestContext(
            *(self._settings(), self._services, self._emit),
            *(self._breaks, self._clock, self._moment),
        )
        return ChatExchange(call, house)

    async def permits(
        self, upstream: Upstream, method: str, path: str, body: bytes | None
    ) -> Reply | None:
        """The refusal of what could be carried out of the machine; None for all else. A refusal is told."""
        if not self._settings().refuse_cloud:
            return None
        refused = await self._entrance.judge(upstream, method, path, body)
        if refused is None:
            return None
        what, words = cloud.shown(refused.what), refused.words
        self._emit(RequestRefused(0, "main", "other", what, refused.reason, said=(words,)))
        return error(words.removeprefix(PREFIX), refused.status, path)
