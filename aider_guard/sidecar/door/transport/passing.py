"""A request that is only passed on: its body and its answer go through piece by piece, at any size."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx

from aider_guard.sidecar.door.seam import Trouble
from aider_guard.sidecar.door.transport.answers import is_redirect, redirected, unreachable
from aider_guard.sidecar.door.transport.caller import Caller
from aider_guard.sidecar.door.transport.headers import to_aider
from aider_guard.sidecar.door.transport.upstream import Question, Upstreams


async def pass_on(caller: Caller, upstreams: Upstreams, question: Question) -> None:
    """Answer with the upstream's own answer. Where that breaks off, the connection to Aider does, too."""
    with caller.cancelled_when_gone():
        answer = await upstreams.ask(question)
        caller.stop_reading()
        if isinstance(answer, Trouble):
            await caller.reply(unreachable(answer))
            return
        async with aclosing(answer):
            if is_redirect(answer):
                await caller.reply(redirected(answer))
            else:
                await hand_on(caller, answer)


async def hand_on(caller: Caller, answer: httpx.Response) -> bool:
    """Send an answer as it comes; whether all of it came."""
    await caller.start(answer.status_code, to_aider(answer.headers.raw, remade=False))
    return await copy(caller, answer.aiter_raw())


async def copy(caller: Caller, pieces: AsyncIterator[bytes]) -> bool:
    """Send the rest of an answer as it comes; whether all of it came."""
    try:
        async for piece in pieces:
            await caller.write(piece)
    except httpx.HTTPError:
        return False
    await caller.finish()
    return True
