"""Real Aider with all that it asks the outside for switched on: counted without the guard, and with it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from airgap.layers import guard_program
from e2e.bare import Bare
from e2e.box import TESTS, Box, Seen, box, why_not
from e2e.leaks import HELLO, SMALL
from e2e.people import PATIENCE_SECONDS, Guarded, Onlooker

from aider_guard.core.egress import ENFORCED, Layer
from aider_guard.demo.layout import Rig
from aider_guard.demo.sample import make_sample

TALKATIVE = [
    "--model", SMALL, "--analytics", "--check-update", "--no-show-release-notes", "--no-gitignore", "--map-tokens", "0"
]  # fmt: skip
ANSWER = "It is well"
NOT_QUIET = """
import argparse, os, sys
if sys.prefix == AIDER:
    quiet = {"--no-check-update", "--no-analytics"}
    os.environ.pop("LITELLM_LOCAL_MODEL_COST_MAP", None)
    parse = argparse.ArgumentParser.parse_known_args

    def not_quiet(self, args=None, *more, **others):
        return parse(self, args and [one for one in args if one not in quiet], *more, **others)

    argparse.ArgumentParser.parse_known_args = not_quiet
"""
"""Makes Aider connect to the outside although its flags forbid it: else the air gap had nothing to block."""
_FEWEST_HOSTS = 2
ANALYTICS = ("us.i.posthog.com", 443)
"""Sent in batches of what gathers in half a second, each of them tried again: how often depends on the machine."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One box for these tests."""
    if reason := why_not():
        pytest.skip(reason)
    with box(tmp_path_factory.mktemp("box")) as one:
        yield one


@pytest.fixture(scope="module")
def counted(
    world: Box, rig: Rig, tmp_path_factory: pytest.TempPathFactory
) -> Counter[tuple[str, int]]:
    """How often bare Aider is seen at which host and port, for one message."""
    folder = tmp_path_factory.mktemp("bare")
    repo, env = set_up(folder, world, rig)
    since = world.mark()
    with Bare(
        world.inside([str(rig.aider_command), *TALKATIVE], repo), env=env, cwd=repo
    ) as person:
        person.wait_for(person.is_asked, PATIENCE_SECONDS)
        person.say(HELLO)
        person.wait_for(lambda: person.wrote(ANSWER), PATIENCE_SECONDS)
        person.wait_for(person.is_asked)
        person.type(b"/exit\r")
        assert person.end() == 0
    return Counter((one.host, one.port) for one in left(world.seen(since, world.mark())))


class GuardedInside(Guarded):
    """A person who runs aider-guard in the box."""

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: Path) -> None:
        self.state = Path(env["AIDER_GUARD_STATE_DIR"])
        Onlooker.__init__(self, command, env=env, cwd=cwd, columns=160)


@pytest.mark.parametrize("layer", ENFORCED)
def test_what_aider_asks_for_stays_inside_and_is_written_down(
    layer: Layer, counted: Counter[tuple[str, int]], world: Box, rig: Rig, tmp_path: Path
) -> None:
    """The answer arrives, no host outside is reached, and the journal has exactly the hosts that bare Aider reached."""
    assert len(counted) >= _FEWEST_HOSTS, (
        "bare Aider reaches too few hosts: the test proves nothing"
    )
    repo, env = set_up(tmp_path, world, rig)
    guard = [*guard_program([layer]), "--aider", str(rig.aider_command)]
    command = world.inside([*guard, "--probe", "never", "--", *TALKATIVE], repo)
    since = world.mark()
    with GuardedInside(command, env, repo) as person:
        person.wait_for_prompt(seconds=PATIENCE_SECONDS)
        person.ask(HELLO)
        assert person.wrote(ANSWER)
        person.type(b"/exit\r")
        assert person.end() == 0
        (chosen,) = person.journal("air_gap_chosen")
        blocked = person.journal("egress_blocked")
    assert [one for one in world.seen(since, world.mark()) if one.is_outside] == []
    assert chosen["layer"] == layer
    told: Counter[tuple[str, int]] = Counter()
    for one in blocked:
        if one["protocol"] == "tcp":
            told[one["host"], one["port"]] += one["count"]
    assert told.keys() == counted.keys()
    del told[ANALYTICS]
    assert told <= counted, "the pins spare Aider some questions; none is added"


def set_up(folder: Path, world: Box, rig: Rig) -> tuple[Path, dict[str, str]]:
    """A sample repository, and the whole environment of a person who agreed to analytics."""
    home = folder / "home"
    (home / ".aider").mkdir(parents=True)
    asked = {"uuid": "00000000-0000-4000-8000-000000000000", "asked_opt_in": True}
    (home / ".aider" / "analytics.json").write_text(json.dumps(asked))
    (home / "sitecustomize.py").write_text(NOT_QUIET.replace("AIDER", repr(str(rig.aider))))
    return make_sample(folder / "till"), {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PYTHONPATH": os.pathsep.join([str(home), str(TESTS.parent)]),
        "AIDER_GUARD_STATE_DIR": str(home / "state"),
        "OLLAMA_API_BASE": world.ollama,
    }


def left(seen: Iterable[Seen]) -> list[Seen]:
    """The connections to the outside."""
    return [one for one in seen if one.kind == "connection"]
