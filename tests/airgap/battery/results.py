"""Runs the battery, and tells of each way, layer and user what came out and whether the guard named it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airgap.battery.box import CHECKOUT, USER
from airgap.battery.catalogue import WAYS
from airgap.battery.way import LAYERS, USERS, Numbered
from airgap.battery.ways_processes import PLAINLY

_CAP_SECONDS = 600.0
_EVENTS = ("egress_blocked", "request_refused")


@dataclass(frozen=True)
class BoxRun:
    """What one box told."""

    lines: tuple[tuple[str, Any], ...]
    problem: str = ""
    """What was written to standard error."""

    @property
    def no_box(self) -> str:
        """Why there was no box; "" when there was one."""
        return next((str(what) for kind, what in self.lines if kind == "no_box"), "")

    @cached_property
    def seen(self) -> Mapping[int, list[str]]:
        """What the witness saw, by the number of the way; -1 for what no way sent."""
        return self._witnessed("before", "seen")

    @cached_property
    def later(self) -> Mapping[int, list[str]]:
        """What the witness saw of a way in later sessions than its own."""
        return self._witnessed("later")

    def _witnessed(self, *kinds: str) -> Mapping[int, list[str]]:
        seen: dict[int, list[str]] = {}
        for kind, what in self.lines:
            for number, words, count in what if kind in kinds else ():
                seen.setdefault(number, []).append(f"{words} {count} times" if count > 1 else words)
        return seen

    @cached_property
    def tried(self) -> Mapping[int, Mapping[str, Any]]:
        """What each way said, by its number."""
        return {what["number"]: what for kind, what in self.lines if kind == "tried"}

    @cached_property
    def named(self) -> frozenset[str]:
        """What the guard reported: ``HOST:PORT``, or the model of a refused request."""
        reports = [one for kind, what in self.lines if kind == "reports" for one in what]
        places = {_place(one) for one in reports if one["event"] in _EVENTS}
        return frozenset(places)

    @property
    def shown(self) -> list[str]:
        """What the sessions showed at their ends."""
        return [str(what) for kind, what in self.lines if kind == "shown"]

    @property
    def layers(self) -> set[str]:
        """The layers that the sessions in it had."""
        reports = [one for kind, what in self.lines if kind == "reports" for one in what]
        return {one["layer"] for one in reports if one["event"] == "air_gap_chosen"}


def _place(report: Mapping[str, Any]) -> str:
    if report["event"] == "request_refused":
        return str(report["model"])
    host = report["host"]
    return f"[{host}]:{report['port']}" if host.count(":") > 1 else f"{host}:{report['port']}"


def run_box(layer: str, user: str) -> BoxRun:
    """Run all ways in a box of their own; the layer "open" enforces nothing."""
    command = [sys.executable, "-m", "airgap.battery.stage", layer, user]
    environment = os.environ | {"PYTHONPATH": f"{CHECKOUT / 'tests'}:{CHECKOUT}"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, folder], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=_CAP_SECONDS,
        )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return BoxRun(tuple(next(iter(line.items())) for line in lines), done.stderr)


@dataclass(frozen=True)
class Outcome:
    """What came of one way in one layer, for one user."""

    way: Numbered
    layer: str
    user: str
    lacks: str
    """Why it says nothing here: without a guard it does not work either; "" when it does."""
    out: tuple[str, ...]
    out_later: tuple[str, ...]
    """What came out at the guard's next start."""
    is_named: bool

    @property
    def silent(self) -> str:
        """Why no report can name it; "" when one must."""
        return self.way.way.why_silent(self.layer)

    @property
    def fails(self) -> bool:
        """Whether something came out, or nothing was reported that had to be."""
        is_out = self.out or (self.out_later and not self.way.way.why_later(self.layer))
        return bool(not self.lacks and (is_out or not (self.is_named or self.silent)))


@dataclass(frozen=True)
class Battery:
    """The runs of all boxes, by layer and user."""

    runs: Mapping[tuple[str, str], BoxRun]

    def why_useless(self, way: Numbered, user: str) -> str:
        """Why a way says nothing for this user: the words of the way, or that it reached nothing without a guard."""
        control = self.runs["open", user]
        tried = control.tried.get(way.number)
        if tried is not None and tried["lacks"]:
            return str(tried["lacks"])
        if tried is not None and PLAINLY in tried["said"]:
            return "gained nothing, without a guard either"
        if control.seen.get(way.number) or control.later.get(way.number):
            return ""
        said = tried["said"].strip().rpartition("\n")[2] if tried is not None else ""
        return f"reached nothing, without a guard either; {said[:100]}".rstrip("; ")

    def outcomes(self) -> Iterator[Outcome]:
        """Of every way, in every layer, for every user."""
        for way in WAYS:
            for (layer, user), run in self.runs.items():
                if layer != "open":
                    lacks = self.why_useless(way, user)
                    wanted = way.name(0 if user == "root" else USER)
                    is_named = any(wanted.lower() in one.lower() for one in run.named)
                    out, later = (tuple(seen.get(way.number, ())) for seen in (run.seen, run.later))
                    yield Outcome(way, layer, user, lacks, out, later, is_named)

    @property
    def no_box(self) -> str:
        """Why there was no box; "" when all had one."""
        return next((run.no_box for run in self.runs.values() if run.no_box), "")


def run_battery(at_once: int = 2) -> Battery:
    """Run it all: without a guard, and in both layers; as root and as an ordinary user."""
    boxes = [(layer, user) for layer in ("open", *LAYERS) for user in USERS]
    with ThreadPoolExecutor(at_once) as pool:
        return Battery(dict(zip(boxes, pool.map(lambda one: run_box(*one), boxes), strict=True)))
