"""One request for text on its way through the door (seam.Visit)."""

from __future__ import annotations

from typing import Final

from aider_guard.core.chat import errors as chat_errors
from aider_guard.core.chat import request
from aider_guard.core.chat.body import asks_for_usage, forbids_truncation, sent
from aider_guard.core.chat.errors import Failure
from aider_guard.core.chat.events import NOT_TOLD, Reason, RequestStarted
from aider_guard.core.chat.replies import waiting
from aider_guard.core.chat.request import (
    FORMS,
    Asked,
    asks_for_nothing,
    conversation,
    decoded,
    read,
)
from aider_guard.core.chat.response import Usage
from aider_guard.core.chat.size import parts
from aider_guard.core.readings import Unavailable
from aider_guard.ollama.names import is_this_machine
from aider_guard.sidecar.door.attendant_account import Account, part_rows
from aider_guard.sidecar.door.attendant_answer import Passing
from aider_guard.sidecar.door.attendant_house import House
from aider_guard.sidecar.door.attendant_refusing import Refusing, error
from aider_guard.sidecar.door.attendant_sizing import Sizing
from aider_guard.sidecar.door.attendant_waits import Waits
from aider_guard.sidecar.door.seam import Abort, Call, Forward, Outcome, Pass, Reply, Retry, Trouble

_COUNTED_PURPOSES: Final = ("chat", "edit", "other")


class TextVisit:
    """One request for text; the order of the calls is the seam's."""

    def __init__(self, call: Call, house: House) -> None:
        self._call = call
        self._house = house
        self._asked: Asked | None = None
        self._refusing: Refusing | None = None
        self._sizing = Sizing(call, house)
        self._left_out = 0
        self._waits = Waits(house.clock)
        self._passing: Passing | None = None
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
        self._refusing = refusing = Refusing(call, self._house, asked)
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
        self._refusing = refusing = Refusing(call, self._house, sized.asked)
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
            self._passing = Passing(is_ollama=ollama, hides_usage=usage_added)
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

    async def _account(self, asked: Asked, outcome: Outcome, usage: Usage) -> None:
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

    def _start(self, asked: Asked) -> None:
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

    def _wait(self, asked: Asked, seconds: float, failure: Failure) -> Retry:
        words = self._waits.words(chat_errors.printable(failure.words) or "the server is busy")
        shown = waiting(asked, words, self._house.moment()) if words else None
        if shown is None:
            return Retry(seconds)
        return Retry(seconds, shown.content, shown.content_type)


def _last_message(asked: Asked) -> str:
    users = [message.content for message in conversation(asked) if message.role == "user"]
    return users[-1] if users else ""
