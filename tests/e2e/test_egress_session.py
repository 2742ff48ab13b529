"""Whole sessions of real Aider behind the air gap: what is let through, what is said, and what holds when parts die."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from e2e.box import Box, Seen, box, why_not
from e2e.egress_people import ANSWER, PLAIN, Seat
from e2e.leaks import HELLO, LEAKS, set_up
from e2e.world import SERVICE

from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample
from aider_guard.errors import LaunchRefusedError
from aider_guard.session.run import NETWORK_OPEN

LOCAL = f"127.0.0.1:{SERVICE}"
HOOKED = next(leak for leak in LEAKS if leak.id == "user-commands")
ROUNDS = 5
every_enforced = pytest.mark.parametrize("layer", ["netns", "seccomp"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One box for these tests."""
    if reason := why_not():
        pytest.skip(reason)
    with box(tmp_path_factory.mktemp("box")) as one:
        yield one


@pytest.fixture
def seat(world: Box, rig: Rig, tmp_path: Path) -> Seat:
    """A fresh repository and an empty home."""
    (tmp_path / "home").mkdir()
    return Seat(world, rig, make_sample(tmp_path / "till"), tmp_path / "home")


@every_enforced
def test_what_is_allowed_gets_through_and_nothing_beside_it(layer: str, seat: Seat) -> None:
    """An allowed service and an allowed port are reached, seen and written down; other ports of their hosts are not."""
    since = seat.world.mark()
    with seat.session(layer, "--allow", LOCAL, "--allow", "github.com:22") as person:
        person.wait_for_prompt()
        person.ask(seat.reach(LOCAL, "github.com:22", "github.com:443", "127.0.0.1:5433"))
        person.ask(seat.reach(LOCAL, "github.com:443"))
        screen = person.leave()
        (chosen,) = person.journal("air_gap_chosen")
        allowed, blocked = person.places("egress_allowed"), person.places("egress_blocked")
    assert chosen["layer"] == layer
    assert connections(seat.world.seen(since, seat.world.mark())) == {SERVICE: 2, 22: 1}
    assert screen.count(f"{LOCAL} was reached") == 2
    assert "github.com:22 was reached" in screen
    assert screen.count("github.com:443 failed: ") == 2
    assert "127.0.0.1:5433 failed: " in screen
    assert allowed == {LOCAL: 2, "github.com:22": 1}
    assert {place: times for place, times in blocked.items() if not is_lookup(place)} == {
        "github.com:443": 2,
        "127.0.0.1:5433": 1,
    }
    assert f"let through: {LOCAL} 2 times, github.com:22 once" in screen


@every_enforced
def test_a_new_destination_is_said_once_and_the_last_line_sums_up(layer: str, seat: Seat) -> None:
    """The first attempt is a notice above the next prompt, with an explanation or the program; repeated ones are only
    in the sum.
    """
    since = seat.world.mark()
    with seat.session(layer) as person:
        person.wait_for_prompt()
        for places in (["raw.githubusercontent.com:443"], ["unknown.example.com:443"]):
            person.ask(seat.reach(*places))
        person.wait_for(r"^aider-guard: blocked unknown\.example\.com:443: tried by python")
        lines = person.lines()
        said = [n for n, line in enumerate(lines) if line.startswith("aider-guard: blocked ")]
        prompts = [n for n, line in enumerate(lines) if re.match(r"(multi)?>( |$)", line)]
        person.ask(seat.reach("unknown.example.com:443"))
        person.ask(HELLO)
        screen = person.leave()
        blocked = person.places("egress_blocked")
    print(screen, said, prompts, blocked)
    assert seat.world.seen(since, seat.world.mark()) == []


def test_nothing_tried_to_leave(seat: Seat) -> None:
    """A session of one message in which nobody tries ends with that."""
    since = seat.world.mark()
    with seat.session("netns") as person:
        person.wait_for_prompt()
        person.ask(HELLO)
        assert ANSWER in person.text()
        screen = person.leave()
        assert person.journal("egress_blocked") == []
    assert screen.endswith("aider-guard: nothing tried to leave")
    assert outside(seat.world.seen(since, seat.world.mark())) == []


def test_where_nothing_is_enforced_they_are_asked(seat: Seat) -> None:
    """Aider's Python and a program that honours proxies are turned away and counted; nobody claims a block."""
    since = seat.world.mark()
    with seat.session("asked", arguments=["--disable-playwright"]) as person:
        person.wait_for_prompt()
        person.ask("/web http://docs.example.com/")
        person.ask("/run curl -sS -m 5 http://curl.example.com/")
        person.wait_for(lambda: "asked to stay away from curl.example.com:80" in person.words())
        screen = person.leave()
        (chosen,) = person.journal("air_gap_chosen")
        told = person.places("egress_blocked")
    print(screen, told, chosen)
    assert outside(seat.world.seen(since, seat.world.mark())) == []


def test_a_required_air_gap_is_refused_where_there_is_none(seat: Seat) -> None:
    """With --require-airgap it ends before Aider starts, with one sentence and status 78."""
    with seat.session("asked", "--require-airgap") as person:
        assert person.end() == LaunchRefusedError.exit_code == 78
        screen = person.words()
    print(screen)


def test_an_open_network_is_said_once_and_lets_out(seat: Seat) -> None:
    """With --network open it is said so, and programs get out."""
    since = seat.world.mark()
    with seat.session("netns", "--network", "open") as person:
        person.wait_for_prompt()
        person.ask(seat.reach("github.com:443"))
        screen = person.leave()
        assert person.journal("egress_blocked") == []
    assert screen.count(NETWORK_OPEN) == 1
    assert "github.com:443 was reached" in screen
    assert connections(seat.world.seen(since, seat.world.mark())) == {443: 1}
    print(screen)


@every_enforced
def test_without_a_terminal_it_is_the_same(layer: str, seat: Seat) -> None:
    """A commit by one message: its text comes from the model, its hook gets nowhere, and it is said beside it."""
    set_up(HOOKED, seat.repo, seat.home, seat.world.ollama)
    since = seat.world.mark()
    ended = seat.without_terminal(layer, "--", *PLAIN, "--message", "/commit")
    seen = seat.world.seen(since, seat.world.mark())
    log = ["git", "log", "-1", "--format=%s"]
    subject = subprocess.run(log, cwd=seat.repo, capture_output=True, text=True, check=True).stdout
    print(ended, seen, subject)
    assert outside(seen) == []


@every_enforced
def test_it_holds_while_the_sidecar_is_replaced(layer: str, seat: Seat) -> None:
    """A sidecar killed during a loop of attempts lets none of them out; the next one serves door and relays."""
    since = seat.world.mark()
    with seat.session(layer, "--allow", "github.com:22") as person:
        person.wait_for_prompt()
        prompts, sidecars = (
            len(person.journal("prompt_shown")),
            len(person.journal("sidecar_started")),
        )
        person.say(seat.loop())
        person.wait_for(lambda: seat.rounds() >= ROUNDS)
        os.kill(person.sidecar_pid(), signal.SIGKILL)
        person.wait_for_event("sidecar_started", sidecars + 1)
        after = seat.rounds()
        person.wait_for(lambda: seat.rounds() >= after + ROUNDS)
        seat.enough()
        person.wait_for_prompt(prompts + 1)
        assert outside(seat.world.seen(since, seat.world.mark())) == []
        since = seat.world.mark()
        person.ask(HELLO)
        assert ANSWER in person.text()
        person.ask(seat.reach("github.com:22"))
        assert "github.com:22 was reached" in person.words()
        rounds = seat.rounds()
        screen = person.leave()
        blocked = person.places("egress_blocked")
    print(screen, rounds, blocked)
    assert connections(seat.world.seen(since, seat.world.mark())) == {22: 1}


@every_enforced
def test_the_next_aider_is_in_the_same_air_gap(layer: str, seat: Seat) -> None:
    """After a restart, attempts are blocked, named and counted together with those before it, and messages answered."""
    since = seat.world.mark()
    with seat.session(layer) as person:
        person.wait_for_prompt()
        person.ask(seat.reach("looped.example.com:443"))
        network = network_of(person.aider_pid())
        asked = seat.without_terminal(layer, "restart")
        assert asked.returncode == 0, asked.stderr
        person.wait_for_event("aider_started", 2)
        person.wait_for(r"Aider restarted in [\d.]+ s")
        assert network_of(person.aider_pid()) == network
        person.ask(seat.reach("looped.example.com:443"))
        person.ask(HELLO)
        assert ANSWER in person.text()
        screen = person.leave()
        blocked = person.places("egress_blocked")
    print(screen, blocked)
    assert outside(seat.world.seen(since, seat.world.mark())) == []


@pytest.mark.parametrize("layer", ["netns", "seccomp", "asked"])
def test_the_doctor_names_the_layer(layer: str, seat: Seat) -> None:
    """The checks have a finding for the air gap: what keeps Aider in here, and why nothing better does."""
    ended = seat.without_terminal(layer, "doctor", "--json", "--", *PLAIN)
    (found,) = [one for one in json.loads(ended.stdout)["findings"] if one["id"] == "air-gap"]
    print(found)


def connections(seen: Sequence[Seen]) -> Counter[int]:
    """How often each port of the outside, or of the machine's other services, was connected to."""
    return Counter(one.port for one in seen if one.kind == "connection")


def outside(seen: Sequence[Seen]) -> list[str]:
    """Whatever has left."""
    return [str(one) for one in seen if one.is_outside]


def is_lookup(place: str) -> bool:
    """Whether it was only asked for the name's address."""
    return place.endswith(":53")


def network_of(pid: int) -> str:
    """The network namespace of a process."""
    return os.readlink(f"/proc/{pid}/ns/net")
