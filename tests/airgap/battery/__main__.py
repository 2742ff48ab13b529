"""Prints what came of each way, and the totals: ``PYTHONPATH=tests python -m airgap.battery [--all]``.

With ``--all`` every line, else those that failed and those that say nothing on this machine.
"""

from __future__ import annotations

import sys
from collections import Counter

from airgap.battery.results import Outcome, run_battery
from airgap.battery.way import LAYERS, USERS


def _line(one: Outcome) -> str:
    out = "; ".join(one.out) or "0"
    named = "yes" if one.is_named else one.silent or "NO"
    later = (
        f"; at the next start: {one.way.way.why_later(one.layer) or 'OUT'}" if one.out_later else ""
    )
    words = f"not counted: {one.lacks}" if one.lacks else f"out {out}{later}; named {named}"
    return f"{one.way.way.id:32} {one.layer:8} {one.user:5} {words}"


def main() -> int:
    """Run all, and return 1 when something came out or was not named."""
    battery = run_battery()
    if battery.no_box:
        print(f"skipped: {battery.no_box}")
        return 0
    outcomes = list(battery.outcomes())
    for one in outcomes:
        if "--all" in sys.argv or one.fails or one.lacks:
            print(_line(one))
    heads = f"{'out':>5} {'next start':>11} {'named':>6} {'unnamed':>8} {'by design':>10}"
    print(f"\n{'layer':8} {'user':5} {'ways':>5} {heads}")
    for layer in LAYERS:
        for user in USERS:
            those = [
                one for one in outcomes if (one.layer, one.user) == (layer, user) and not one.lacks
            ]
            silent = sum(bool(one.silent) and not one.is_named for one in those)
            named = sum(one.is_named for one in those)
            out = sum(bool(one.out) for one in those)
            later = sum(bool(one.out_later) for one in those)
            rest = len(those) - named - silent
            print(
                f"{layer:8} {user:5} {len(those):5} {out:5} {later:11} {named:6} {rest:8} {silent:10}"
            )
    for (layer, user), run in battery.runs.items():
        if strange := run.seen.get(-1):
            print(f"{layer} {user}: of no way: {strange}")
        if run.problem:
            print(f"{layer} {user}: {run.problem[-2000:]}")
        if layer != "open" and run.layers != {layer}:
            print(f"{layer} {user}: the sessions had {run.layers}")
        if "--all" in sys.argv:
            print(f"{layer} {user} showed: {run.shown}")
        faults = Counter(what["said"][-300:] for what in run.tried.values() if what["fault"])
        for said, count in faults.items():
            print(f"{layer} {user}: {count} faults: {said}")
    return int(any(one.fails for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
