"""Whole sessions of real Aider behind the air gap: what is let through and reported, and what holds when parts die."""

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
from e2e.egress_people import ANSWER, LOOPED, PLAIN, Seat
from e2e.leaks import HELLO, LEAKS, set_up
from e2e.people import PATIENCE_SECONDS
from e2e.world import SERVICE

from aider_guard.core.egress import Layer
from aider_guard.core.egress_messages import NETWORK_OPEN
from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample
from aider_guard.errors import LaunchRefusedError

LOCAL = f"127.0.0.1:{SERVICE}"
HOOKED = next(leak for leak in LEAKS if leak.id == "user-commands")
ROUNDS = 5
DOCTOR: dict[str, tuple[str, str, list[str]]] = {
    "netns": ("info", "the kernel blocks: Aider runs in a network of its own", []),
    "seccomp": ("info", "the kernel blocks: each connection of Aider's is decided", ["netns"]),
    "asked": ("warn", "nothing is blocked", ["netns", "seccomp"]),
}
"""What the checks say of each layer: how grave, in which words, and which better ones there are not."""
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
def test_what_is_allowed_gets_through_and_nothing_beside_it(layer: Layer, seat: Seat) -> None:
    """An allowed service and an allowed port are reached, seen and written down; other ports of their hosts are not."""
    ollama = seat.world.ollama.removeprefix("http://")
    since = seat.world.mark()
    with seat.session(layer, "--allow", LOCAL, "--allow", "github.com:22") as person:
        person.wait_for_prompt(seconds=PATIENCE_SECONDS)
        person.ask(seat.reach(LOCAL, "github.com:22", "github.com:443", ollama))
        person.ask(seat.reach(LOCAL, "github.com:443"))
        screen = person.leave()
        (chosen,) = person.journal("air_gap_chosen")
        allowed, blocked = person.places("egress_allowed"), person.places("egress_blocked")
    assert chosen["layer"] == layer
    assert connections(seat.world.seen(since, seat.world.mark())) == {SERVICE: 2, 22: 1}
    assert screen.count(f"{LOCAL} was reached") == 2
    assert "github.com:22 was reached" in screen
    assert screen.count("github.com:443 failed: ") == 2
    assert f"{ollama} failed: " in screen
    assert allowed == {LOCAL: 2, "github.com:22": 1}
    assert blocked == {"github.com:443": 2, ollama: 1}
    assert screen.endswith(f"let through: {LOCAL} 2 times, github.com:22 once")


@every_enforced
def test_a_new_destination_is_said_once_and_the_last_line_sums_up(layer: Layer, seat: Seat) -> None:
    """The first attempt is a notice above the next prompt, with what is known of the host or the program; repeated ones
    are in the sum only.
    """
    since = seat.world.mark()
    with seat.session(layer) as person:
        person.wait_for_prompt(seconds=PATIENCE_SECONDS)
        person.ask(seat.reach("github.com:443"))
        person.wait_for("blocked github.com:443: GitHub, tried by reach.py", PATIENCE_SECONDS)
        assert "aider-guard --allow github.com:443 lets it through" in person.words()
        person.ask(seat.reach("unknown.example.com:443"))
        person.wait_for("blocked unknown.example.com:443: tried by reach.py", PATIENCE_SECONDS)
        notice, rule, prompt = person.written()[-3:]
        assert notice.endswith("tried by reach.py")
        assert set(rule) == {"\u2500"}
        assert prompt == ">"
        person.ask(seat.reach("unknown.example.com:443"))
        screen = person.leave()
    assert screen.count("blocked github.com:443") == 1
    assert screen.count("blocked unknown.example.com:443") == 1
    each = "unknown.example.com:443 2 times, github.com:443 once"
    assert screen.endswith(f"aider-guard: blocked by the kernel: 3 attempts to 2 hosts ({each})")
    assert outside(seat.world.seen(since, seat.world.mark())) == []


def test_nothing_tried_to_leave(seat: Seat) -> None:
    """A session of one message without an attempt ends with that line."""
    since = seat.world.mark()
    with seat.session("netns") as person:
        person.wait_for_prompt(seconds=PATIENCE_SECONDS)
        person.ask(HELLO)
        assert person.wrote(ANSWER)
        screen = person.leave()
        assert person.journal("egress_blocked") == []
    assert screen.endswith("aider-guard: nothing tried to leave")
    assert outside(seat.world.seen(since, seat.world.mark())) == []


def test_where_nothing_is_enforced_they_are_asked(seat: Seat) -> None:
    """Aider's Python and programs that honour proxies are refused and counted; others get out, and notices say so."""
    word, since = seat.await_word(), seat.world.mark()
    with seat.session("asked", arguments=["--disable-playwright"]) as person:
        person.wait_for_prompt(seconds=PATIENCE_SECONDS)
        person.ask("/web http://docs.example.com/")
        person.wait_for("asked to stay away from docs.example.com:80: tried by", PATIENCE_SECONDS)
        person.ask("/run curl -sS -m 5 http://curl.example.com/")
        person.wait_for(
            "asked to stay away from curl.example.com:80: tried by curl", PATIENCE_SECONDS
        )
        word.write_text("tracker.example.com")
        person.wait_for(
            "asked to stay away from tracker.example.com:443: tried by aider", PATIENCE_SECONDS
        )
        assert outside(seat.world.seen(since, seat.world.mark())) == []
        person.ask(seat.reach("github.com:22"))
        assert "github.com:22 was reached" in person.words()
        screen = person.leave()
        (chosen,) = person.journal("air_gap_chosen")
        told = person.places("egress_blocked")
    assert chosen["layer"] == "asked"
    places = ["docs.example.com:80", "curl.example.com:80", "tracker.example.com:443"]
    assert told == dict.fromkeys(places, 1)
    assert "blocked" not in screen.replace("not blocked", "").replace("nothing is blocked", "")
    each = ", ".join(f"{place} once" for place in places)
    assert screen.endswith(
        f"aider-guard: asked to behave, not blocked: 3 attempts to 3 hosts ({each})"
        " what a program sends past proxies is not seen, and not held back"
    )
    assert connections(seat.world.seen(since, seat.world.mark())) == {22: 1}


def test_a_required_air_gap_is_refused_where_there_is_none(seat: Seat) -> None:
    """With --require-airgap it ends with status 78 and the reason, before Aider starts, with a terminal and without."""
    since = seat.world.mark()
    with seat.session("asked", "--require-airgap") as person:
        assert person.end(PATIENCE_SECONDS) == LaunchRefusedError.exit_code == 78
        screen = person.words()
    message = [*PLAIN, "--message", HELLO]
    ended = seat.without_terminal("asked", "--require-airgap", "--", *message)
    assert ended.returncode == 78
    assert ended.stdout == ""
    for said in (screen, " ".join(ended.stderr.split())):
        assert re.fullmatch(
            "aider-guard: require-airgap is set, and the kernel does not enforce the air gap here: .*",
            said,
        )
    assert seat.world.seen(since, seat.world.mark()) == []


def test_an_open_network_is_said_once_and_lets_out(seat: Seat) -> None:
    """With --network open a notice says so, and programs get out."""
    since = seat.world.mark()
    with seat.session("netns", "--network", "open") as person:
        person.wait_for_prompt(seconds=PATIENCE_SECONDS)
        person.ask(seat.reach("github.com:443"))
        screen = person.leave()
        assert person.journal("egress_blocked") == []
    assert screen.count(NETWORK_OPEN) == 1
    assert "github.com:443 was reached" in screen
    assert "nothing tried to leave" not in screen
    assert connections(seat.world.seen(since, seat.world.mark())) == {443: 1}


@every_enforced
def test_without_a_terminal_it_is_the_same(layer: Layer, seat: Seat) -> None:
    """A commit by one message: its text comes from the model, its hook gets nowhere, and standard error and
    the journal say so.
    """
    set_up(HOOKED, seat.repo, seat.home, seat.world.ollama)
    since = seat.world.mark()
    ended = seat.without_terminal(layer, "--", *PLAIN, "--message", "/commit")
    seen = seat.world.seen(since, seat.world.mark())
    log = ["git", "log", "-1", "--format=%s"]
    subject = subprocess.run(log, cwd=seat.repo, capture_output=True, text=True, check=True).stdout
    assert ended.returncode == 0, ended.stderr
    assert subject.strip() == ANSWER
    asked = [one for one in seen if one.path == "/api/chat"]
    assert len([one for one in asked if "_debug_render_only" not in one.text]) == 1
    assert outside(seen) == []
    last = "aider-guard: blocked by the kernel: 1 attempt to 1 host (hooks.example.com:80 once)"
    assert " ".join(ended.stderr.split()).endswith(last)
    (journal,) = (seat.home / "state" / "sessions").glob("*/journal.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    blocked = [line for line in lines if line["event"] == "egress_blocked"]
    assert {(one["host"], one["port"]) for one in blocked} == {("hooks.example.com", 80)}
    assert "request_finished" in {line["event"] for line in lines}


@every_enforced
def test_it_holds_while_the_sidecar_is_replaced(layer: Layer, seat: Seat) -> None:
    """A sidecar killed during a loop of attempts lets none of them out; the next one serves the door and the relays."""
    since = seat.world.mark()
    with seat.session(layer, "--allow", "github.com:22") as person:
        person.wait_for_prompt(seconds=PATIENCE_SECONDS)
        sidecars = len(person.journal("sidecar_started"))
        person.say(seat.loop())
        person.wait_for(lambda: seat.rounds() >= ROUNDS, PATIENCE_SECONDS)
        os.kill(person.sidecar_pid(), signal.SIGKILL)
        person.wait_for_event("sidecar_started", sidecars + 1, PATIENCE_SECONDS)
        after = seat.rounds()
        person.wait_for(lambda: seat.rounds() >= after + ROUNDS, PATIENCE_SECONDS)
        seat.enough()
        person.wait_for_prompt(2, PATIENCE_SECONDS)
        assert outside(seat.world.seen(since, seat.world.mark())) == []
        person.ask(HELLO)
        assert person.wrote(ANSWER)
        person.ask(seat.reach("github.com:22"))
        assert "github.com:22 was reached" in person.words()
        person.leave()
        allowed, blocked = person.places("egress_allowed"), person.places("egress_blocked")
    assert allowed == {"github.com:22": 1}
    tried = {place: times for place, times in blocked.items() if not place.endswith(":53")}
    assert tried == dict.fromkeys(LOOPED, seat.rounds())
    assert connections(seat.world.seen(since, seat.world.mark())) == {22: 1}


@every_enforced
def test_the_next_aider_is_in_the_same_air_gap(layer: Layer, seat: Seat) -> None:
    """After a restart attempts are blocked and counted with those before it, and messages are answered."""
    since = seat.world.mark()
    with seat.session(layer) as person:
        person.wait_for_prompt(seconds=PATIENCE_SECONDS)
        person.ask(seat.reach("before.example.com:443", "both.example.com:443"))
        before, network = person.aider_pid(), network_of(person.aider_pid())
        asked = seat.without_terminal(layer, "restart")
        assert asked.returncode == 0, asked.stderr
        person.wait_for(r"Aider restarted in [\d.]+ s", PATIENCE_SECONDS)
        assert person.aider_pid() != before
        assert network_of(person.aider_pid()) == network
        person.ask(seat.reach("both.example.com:443", "after.example.com:443"))
        person.wait_for("blocked after.example.com:443: tried by", PATIENCE_SECONDS)
        person.ask(HELLO)
        assert person.wrote(ANSWER)
        screen = person.leave()
        assert len(person.journal("air_gap_chosen")) == 1
    each = "both.example.com:443 2 times, before.example.com:443 once, after.example.com:443 once"
    assert screen.endswith(f"aider-guard: blocked by the kernel: 4 attempts to 3 hosts ({each})")
    assert outside(seat.world.seen(since, seat.world.mark())) == []


@pytest.mark.parametrize("layer", DOCTOR)
def test_the_doctor_names_the_layer(layer: Layer, seat: Seat) -> None:
    """The checks have a finding for the air gap: what keeps Aider in here, and why nothing better does."""
    since = seat.world.mark()
    ended = seat.without_terminal(layer, "doctor", "--json", "--", *PLAIN)
    (found,) = [one for one in json.loads(ended.stdout)["findings"] if one["id"] == "air-gap"]
    severity, what, better = DOCTOR[layer]
    assert found["severity"] == severity
    assert what in found["what"]
    assert re.findall(r"(\w+) was not tried", found["evidence"]) == better
    assert outside(seat.world.seen(since, seat.world.mark())) == []


def connections(seen: Sequence[Seen]) -> Counter[int]:
    """How often each port of the outside, or of the machine's other services, was connected to."""
    return Counter(one.port for one in seen if one.kind == "connection")


def outside(seen: Sequence[Seen]) -> list[str]:
    """Whatever has left."""
    return [str(one) for one in seen if one.is_outside]


def network_of(pid: int) -> str:
    """The network namespace of a process."""
    return os.readlink(f"/proc/{pid}/ns/net")
