"""What the user is told of the air gap. "Blocked" is said only of what the kernel blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aider_guard.core import destinations
from aider_guard.core.actions import Notice
from aider_guard.core.egress import Layer, Place
from aider_guard.core.egress_ledger import Destination, Ledger, Tried
from aider_guard.core.sentences import count
from aider_guard.core.state import State

NETWORK_OPEN = (
    "the network is open in this session: models and keys of clouds are used as they are set"
)
"""Said once where the user wants no air gap."""
_SOMEBODY = "a program that Aider started"
_UNSEEN = "what a program sends past proxies is not seen, and not held back"
_UNREAD = "an address that could not be read"
_ROOT = "."
_OTHERS_NAMED = 4
_PLACES_NAMED = 4
_FIXES_NAMED = 3


def attempts(ledger: Ledger, news: Mapping[Destination, Tried]) -> Notice:
    """First attempts to new destinations, in two lines at most. *news* has one at least."""
    first, *others = sorted(news, key=lambda one: not _may_be_needed(one, news[one]))
    line = f"{_refused(ledger, first)}: {_explained(first, news[first].program)}"
    more = [_others(others)] if others else []
    more += [_fix(news)] if _fix(news) else []
    return Notice("egress", (line, *(["; ".join(more)] if more else [])))


def _refused(ledger: Ledger, one: Destination) -> str:
    if ledger.is_enforced:
        return f"blocked {_named(one)}"
    if one.kind == "lookup":
        return f"asked not to look up {one.host or _ROOT}"
    return f"asked to stay away from {_named(one)}"


def _named(one: Destination) -> str:
    if one.kind == "lookup":
        return f"a lookup of {one.host or _ROOT}"
    if not one.host:
        return _UNREAD
    return str(Place(one.host, one.port)) if one.port else one.host


def _explained(one: Destination, program: str) -> str:
    """What it is where that is known, and who tried where that says more."""
    is_socket = one.kind == "socket"
    known = (
        destinations.what_socket(one.host) if is_socket else destinations.what_is(one.host, program)
    )
    tried = f"tried by {program or _SOMEBODY}"
    if not known:
        return tried
    return known if program in destinations.AIDERS else f"{known}, {tried}"


def _others(others: Sequence[Destination]) -> str:
    names = [_named(one) for one in others[:_OTHERS_NAMED]]
    rest = len(others) - len(names)
    listed = ", ".join(names) + (f" and {rest} more" if rest else "")
    return f"and {count(len(others), 'other')}: {listed}"


def _may_be_needed(one: Destination, tried: Tried) -> bool:
    return one.kind == "host" and destinations.may_be_needed(one.host, one.port, tried.program)


def _fix(news: Mapping[Destination, Tried]) -> str:
    """The setting that lets through what people work with."""
    needed = [one for one in news if _may_be_needed(one, news[one])][:_FIXES_NAMED]
    if not needed:
        return ""
    flags = " ".join(f"--allow {Place(one.host, one.port)}" for one in needed)
    return f"aider-guard {flags} lets {'it' if len(needed) == 1 else 'them'} through"


def no_more() -> Notice:
    """There are more new destinations than are said."""
    line = (
        "other places were tried, too; from now on they are in the journal and the last line only"
    )
    return Notice("egress_more", (line,))


def end_line(state: State, *, even_nothing: bool = True) -> Notice | None:
    """What tried to leave and what became of it, for the end of a session or of a run without one.

    None where there was no air gap, and for a launch that was refused. Without *even_nothing* it is None, too, where
    nothing was tried and nothing let through.
    """
    ledger = state.egress
    is_empty = not (ledger.tried or ledger.others or ledger.through)
    if ledger.layer == "open" or (is_empty and not (even_nothing and ledger.began)):
        return None
    through = (_through(ledger.through),) if ledger.through else ()
    if ledger.is_enforced:
        return Notice("egress_end", (_blocked(ledger), *through))
    return Notice("egress_end", (_asked(ledger), *through, _UNSEEN))


def _blocked(ledger: Ledger) -> str:
    if not ledger.tried and not ledger.others:
        return "nothing else tried to leave" if ledger.through else "nothing tried to leave"
    return f"blocked by the kernel: {_sum(ledger)}"


def _asked(ledger: Ledger) -> str:
    if not ledger.tried and not ledger.others:
        return "asked to behave, not blocked: no attempt to leave was seen"
    return f"asked to behave, not blocked: {_sum(ledger)}"


def _sum(ledger: Ledger) -> str:
    """How many attempts to what, those tried most often by name."""
    outside = ledger.outside()
    attempts_made = sum(tried.count for tried in outside.values()) + ledger.others
    most = sorted(outside.items(), key=lambda item: -item[1].count)
    named = [f"{_named(one)} {_times(tried.count)}" for one, tried in most[:_PLACES_NAMED]]
    rest = len(most) - len(named)
    more = f" and {rest} more" if rest else ""
    beyond = " and others" if ledger.others else ""
    noun = "attempt" if attempts_made == 1 else "attempts"
    where = f"{_places(outside)}{beyond} ({', '.join(named)}{more})"
    return f"{attempts_made:,} {noun} to {where}"


def _places(outside: Iterable[Destination]) -> str:
    hosts = len({one.host for one in outside if one.kind != "socket"})
    sockets = sum(one.kind == "socket" for one in outside)
    parts = ((hosts, "host"), (sockets, "socket"))
    return " and ".join(count(number, noun) for number, noun in parts if number)


def _through(through: Mapping[Place, int]) -> str:
    parts = (f"{place} {_times(times)}" for place, times in through.items())
    return f"let through: {', '.join(parts)}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def layer_in_words(layer: Layer) -> str:
    """What a layer does, in words."""
    return {
        "netns": "the kernel blocks: Aider runs in a network of its own",
        "seccomp": "the kernel blocks: each connection of Aider's is decided by the guard",
        "asked": "nothing is blocked: Aider and its programs are only asked to behave",
        "open": "the network is open: nothing is blocked",
    }[layer]
