"""What the air gap costs, beside none: its start, connections and requests in it, and whole turns on a real Ollama.

``python -m bench.airgap``. The ways take turns: ``--network open``, Aider asked to behave, and the kernel's two layers.
A start is one of a small program in an air gap that is made for it, then of a guard around an Aider that imports
nothing: first for one message, then in a terminal. What is called "asked" of a connection is what the hook in Aider's
own Python takes, which it has behind the other layers too; theirs is that of any program.
"""

from __future__ import annotations

import argparse
import operator
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from e2e.people import Guarded
from fakes.ollama_server import FakeModel, FakeOllama
from session.ptys import Person, child

from aider_guard.demo.layout import Rig, cache_folder, rig_in
from aider_guard.demo.sample import make_sample
from bench import inside, talks
from bench.door import ROOT
from bench.guard import bench_place
from bench.inside import LAYERS, Seconds, turned
from bench.relay import percentile

if TYPE_CHECKING:
    from session.guards import Place

    from aider_guard.core.egress import Layer

_ROW: Final = "{:34}{:>12}{:>12}{:>12}{:>12}   {}"
_SAYS: Final = b"READY"
_CALLS: Final = (
    ("door", "connect to the door, us", 1e6, "under 1,000 us added"),
    ("own", "connect to an own server, us", 1e6, "under 1,000 us added"),
    ("refused", "connect and be refused, us", 1e6, "under 1,000 us added"),
    ("kept", "request, connection kept, ms", 1e3, "under 0.3 ms added"),
    ("new", "request, new connection, ms", 1e3, "under 1.3 ms added"),
)


def measure_one_shots(place: Place, layers: Sequence[Layer], count: int) -> Seconds:
    """Until the first byte of an Aider that is started for one message."""

    def first_byte_seconds(layer: Layer) -> float:
        command, env = _guarded(place, layer, child("exits_with", 0))
        started = time.perf_counter()
        with subprocess.Popen(
            [*command, "--message", "Hello."],
            env=env,
            cwd=place.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout
            said = process.stdout.readline()
            seconds = time.perf_counter() - started
        assert said.startswith(_SAYS), said
        return seconds

    return _in_turns(first_byte_seconds, layers, count)


def measure_sessions(place: Place, layers: Sequence[Layer], count: int) -> Seconds:
    """Until the first byte of an Aider in a terminal."""

    def first_byte_seconds(layer: Layer) -> float:
        command, env = _guarded(place, layer, child("echo_raw", 1))
        started = time.perf_counter()
        with Person(command, env=env, cwd=str(place.work)) as person:
            person.until(_SAYS)
            return time.perf_counter() - started

    return _in_turns(first_byte_seconds, layers, count)


def _guarded(
    place: Place, layer: Layer, program: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    command = place.guarded(options=_options(layer), layers=[layer])
    return command, place.env(program)


def _options(layer: Layer) -> tuple[str, ...]:
    return ("--network", "open") if layer == "open" else ()


def _in_turns(seconds: Callable[[Layer], float], layers: Sequence[Layer], count: int) -> Seconds:
    """The first of each is not counted."""
    found: Seconds = {layer: [] for layer in layers}
    for number in range(count + 1):
        for layer in turned(layers, number):
            measured = seconds(layer)
            found[layer] += [measured] if number else []
    return found


@dataclass
class Turns:
    """Of turns of real sessions: from Enter to the next prompt, and what of it was Ollama's."""

    whole: Seconds = field(default_factory=dict)
    ollama: Seconds = field(default_factory=dict)

    @property
    def rest(self) -> Seconds:
        """Aider's own, and the guard's."""
        return {
            layer: list(map(operator.sub, whole, self.ollama[layer]))
            for layer, whole in self.whole.items()
        }


def measure_turns(rig: Rig, layers: Sequence[Layer], count: int, sessions: int) -> Turns:
    """So many turns in each session, after a first one, which loads the model and is not counted."""
    found = Turns({layer: [] for layer in layers}, {layer: [] for layer in layers})
    with talks.place(rig, talks.TURNS[: count + 1]) as bench:
        for number in range(sessions):
            for layer in turned(layers, number):
                for whole, ollama in _session(bench, f"{layer}-{number}", layer)[1:]:
                    found.whole[layer].append(whole)
                    found.ollama[layer].append(ollama)
    return found


def _session(bench: talks.Bench, name: str, layer: Layer) -> list[tuple[float, float]]:
    place = bench_place(bench.folder / name, bench.tap.url)
    repo = make_sample(bench.folder / name / "till")
    options = ("--num-ctx", str(talks.WINDOW_TOKENS), *_options(layer))
    env = place.env((), PYTHONPATH=str(ROOT))
    aider = str(bench.rig.aider_command)
    with Guarded(
        aider, talks.ARGUMENTS, options=options, layers=[layer], env=env, cwd=repo, rows=40
    ) as person:
        person.wait_for_prompt()
        (chosen,) = person.journal("air_gap_chosen")
        assert chosen["layer"] == layer, chosen
        found = [_turn(bench, person, line, seen) for seen, line in enumerate(bench.turns, 1)]
        person.type(b"/exit\r")
        person.end()
    return found


def _turn(bench: talks.Bench, person: Guarded, line: str, seen: int) -> tuple[float, float]:
    before = len(bench.tap.asked)
    seconds = talks.timed(person, line, talks.prompted(person, seen + 1))
    return seconds, sum(asked.seconds for asked in bench.tap.asked[before:])


def rows(
    name: str, found: Seconds, per_second: float, aim: str = "", digits: int = 1
) -> Iterator[str]:
    """The median, the 95th percentile, and by how much each is above none: the median of each turn's difference."""

    def cells(number: Callable[[list[float]], float], sign: str = "") -> list[str]:
        values = {layer: number(seconds) * per_second for layer, seconds in found.items()}
        return [f"{values[layer]:{sign}.{digits}f}" if layer in values else "" for layer in LAYERS]

    def added(seconds: list[float]) -> float:
        pairs = zip(seconds, found["open"], strict=True)
        return statistics.median(after - before for after, before in pairs)

    for percent in (50, 95):
        values = cells(partial(percentile, percent=percent))
        yield _ROW.format(f"{name}, p{percent}", *values, "").rstrip()
    yield _ROW.format("  added, median", "", *cells(added, "+")[1:], aim).rstrip()


def print_costs(folder: Path, ollama: str, starts: int, requests: int) -> list[Layer]:
    """All that needs no model; the layers that this system allows."""
    at_most = "under 20 ms added"
    print(_ROW.format("air gap", *LAYERS, "aim"))
    started = inside.measure_starts(starts)
    layers = list(started)
    _print("start: a program, ms", started, 1e3, at_most)
    place = bench_place(folder / "one-shot", ollama)
    _print("start: a message, ms", measure_one_shots(place, layers, starts), 1e3, at_most)
    place = bench_place(folder / "session", ollama)
    _print("start: a session, ms", measure_sessions(place, layers, starts), 1e3, at_most)
    calls = inside.measure_calls(layers, rounds=max(1, requests // inside.BATCH))
    for kind, name, per_second, aim in _CALLS:
        _print(name, calls[kind], per_second, aim, digits=1 if per_second == 1e6 else 3)
    return layers


def print_turns(rig: Rig, layers: Sequence[Layer], turns: int, sessions: int) -> None:
    """Whole turns on a real Ollama."""
    found = measure_turns(rig, layers, turns, sessions)
    _print("a turn, s", found.whole, 1, "nothing measurable", digits=3)
    _print("  of which Ollama's, s", found.ollama, 1, digits=3)
    _print("  the rest, ms", found.rest, 1e3, "nothing measurable")


def _print(name: str, found: Seconds, per_second: float, aim: str = "", digits: int = 1) -> None:
    for row in rows(name, found, per_second, aim, digits):
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.airgap", description=__doc__)
    parser.add_argument("--starts", type=int, default=15, help="starts of each way")
    parser.add_argument("--requests", type=int, default=200, help="calls of each way and kind")
    parser.add_argument("--turns", type=int, default=4, help="turns of each session; 0: none")
    parser.add_argument("--sessions", type=int, default=3, help="sessions of each way")
    options = parser.parse_args()
    models = (FakeModel("small:latest"),)
    with (
        tempfile.TemporaryDirectory(prefix="aider-guard-bench-") as folder,
        FakeOllama(models=models, loaded=["small"]) as ollama,
    ):
        layers = print_costs(Path(folder), ollama.url, options.starts, options.requests)
    if options.turns:
        print_turns(rig_in(cache_folder()), layers, options.turns, options.sessions)


if __name__ == "__main__":
    main()
