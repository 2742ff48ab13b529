"""``python -m bench``: every number in one run, beside a plain pty and script(1), each with its aim."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fakes.ollama_server import FakeModel, FakeOllama

import aider_guard
from aider_guard.demo.layout import cache_folder, rig_in
from bench import airgap, checks, counted, counting, door, gpu, guard, relay, turns

COLUMNS = "{:34}{:>12}{:>12}{:>12}{:>12}   {}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--keys", type=int, default=1000, help="keys typed in each round")
    parser.add_argument("--megabytes", type=int, default=20, help="output in each round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the ways taking turns")
    parser.add_argument("--requests", type=int, default=100, help="requests of each way")
    parser.add_argument("--starts", type=int, default=15, help="starts of each way, taking turns")
    parser.add_argument("--turns", type=int, default=10, help="messages of each session; 0: none")
    parser.add_argument("--idle-seconds", type=float, default=20, help="how long idle is watched")
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory(prefix="aider-guard-bench-") as folder, ollama() as address:
        rows(Path(folder), address, options)


def rows(folder: Path, address: str, options: argparse.Namespace) -> None:
    print(COLUMNS.format("", "plain pty", "script", "aider-guard", "difference", "aim"))
    place = guard.bench_place(folder / "relay", address)
    ways = {**relay.direct_ways(), "aider-guard": guard.guarded_way(place)}
    print_relay(relay.measure(ways, options.rounds, options.keys, options.megabytes))
    print_door(door.measure(options.requests))
    print_counted(counted.measure(options.requests, counted.SIDECARS))
    # Nothing of an Aider that imports nothing hides the guard's own start and the checks behind it.
    print_start("no imports", guard.fake_start(folder / "start", address), options, aim="")
    aider = os.environ.get("AIDER_GUARD_BENCH_AIDER") or str(rig_in(cache_folder()).aider_command)
    if Path(aider).exists():
        start = guard.real_start(folder / "real", address, aider)
        print_start("Aider", start, options, aim="under 300 ms added, checks included")
        aim = "under 100 ms added"
        print_start("Aider", start, options, aim=aim, what="prompt", sign=guard.PROMPT)
        print_doctor(checks.doctor(folder / "doctor", address, aider), options)
    print_idle(guard.idle(folder / "idle", address, options.idle_seconds))
    gpu.print_reading(options.requests)
    rig = rig_in(cache_folder())
    if rig.aider_command.exists():
        counting.print_counting(rig)
    if options.turns and rig.aider_command.exists():
        turns.print_turns(rig, options.turns, rounds=2)
    layers = airgap.print_costs(folder / "airgap", address, options.starts, options.requests)
    if options.turns and rig.aider_command.exists():
        airgap.print_turns(rig, layers, turns=min(options.turns, 4), sessions=1)


@contextlib.contextmanager
def ollama() -> Iterator[str]:
    """The Ollama that is polled: a real one if it is named."""
    named = os.environ.get("AIDER_GUARD_BENCH_OLLAMA")
    if named:
        yield named
        return
    with FakeOllama(models=(FakeModel("small:latest"),), loaded=["small"]) as fake:
        yield fake.url


def print_machine() -> None:
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    print(
        f"aider-guard {aider_guard.__version__}, Python {platform.python_version()},"
        f" {platform.system()} {platform.release()}, {os.cpu_count()} cores, load {load}"
    )


def print_relay(measured: dict[str, relay.Measured]) -> None:
    plain, script, guarded = (measured.get(name) for name in ("plain pty", "script", "aider-guard"))
    assert plain
    assert guarded
    for percent, aim in ((50, ""), (99, "p99 within 1 ms of plain")):
        values = [
            relay.percentile(way.echoes, percent) * 1000 if way else None
            for way in (plain, script, guarded)
        ]
        difference = (values[2] or 0) - (values[0] or 0)
        print_row(f"keystroke echo p{percent}, ms", values, f"{difference:+.3f}", aim, digits=3)
    speeds = [statistics.median(way.speeds) if way else None for way in (plain, script, guarded)]
    base, name = (speeds[1], "script") if speeds[1] else (speeds[0], "plain")
    share = f"{100 * (speeds[2] or 0) / (base or 1):.0f} %"
    print_row("bulk output, MB/s (median)", speeds, share, f"at least 80 % of {name}")
    spread = [min(guarded.speeds), max(guarded.speeds)]
    print(COLUMNS.format("  lowest, highest", "", "", *(f"{speed:.1f}" for speed in spread), ""))


def print_door(measured: dict[str, door.Answers]) -> None:
    for row in door.rows(measured):
        name = f"{row.name} (plain: direct)"
        print_row(name, [row.direct, None, row.door], row.added, row.aim, digits=3)


def print_counted(measured: counted.Counted) -> None:
    for row in counted.rows(measured):
        print_row(row.name, [row.direct, None, row.door], row.added, row.aim, digits=3)
    print(counted.memory_line(measured))


def print_start(
    name: str,
    start: guard.Starts,
    options: argparse.Namespace,
    *,
    aim: str,
    what: str = "byte",
    sign: bytes = b"",
) -> None:
    plain, guarded = start.measure(options.starts, sign)
    added = statistics.median(after - before for before, after in zip(plain, guarded, strict=True))
    for word, of in (("median", statistics.median), ("lowest", min)):
        difference = f"{added * 1000:+.0f}" if of is statistics.median else ""
        values = [of(plain) * 1000, None, of(guarded) * 1000]
        print_row(
            f"first {what}, ms, {word}: {name}",
            values,
            difference,
            aim if difference else "",
            digits=0,
        )


def print_doctor(doctor: checks.Doctor, options: argparse.Namespace) -> None:
    imports, whole = doctor.measure(options.starts)
    for word, of in (("median", statistics.median), ("lowest", min)):
        values = [of(imports) * 1000, None, of(whole) * 1000]
        name = f"doctor, ms, {word} (plain: imports)"
        print_row(name, values, "", "under 1,500 ms", digits=0)


def print_idle(idle: guard.Idle) -> None:
    megabytes = {name: rss / 1e6 for name, rss in idle.resident_bytes.items()}
    total = sum(megabytes.values())
    print_row("resident after 5 s, MB (RSS)", [None, None, total], "", "under 80 MB together")
    for name, size in megabytes.items():
        print_row(f"  {name}", [None, None, size], "", "")
    if idle.proportional_bytes:
        print_row("  proportional (PSS)", [None, None, idle.proportional_bytes / 1e6], "", "")
    for name, percent in idle.cpu_percent.items():
        aim = "under 0.5 %" if name == "together" else ""
        print_row(f"idle CPU, % of a core: {name}", [None, None, percent], "", aim, digits=2)


def print_row(
    name: str, values: list[float | None], difference: str, aim: str, *, digits: int = 1
) -> None:
    cells = ["" if value is None else f"{value:.{digits}f}" for value in values]
    print(COLUMNS.format(name, *cells, difference, aim).rstrip())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
