"""What the checks found, for people on one screen and for programs as JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core.findings import SEVERITIES, Finding, Severity, doctor_status
from aider_guard.core.readings import Unavailable
from aider_guard.launch.facts import Facts
from aider_guard.launch.gathering import gather
from aider_guard.launch.places import roles
from aider_guard.view.page import Page

_HEAD = ("aider", "ollama")
_COUNTED = {
    "stop": "to stop for",
    "warn": "to look at",
    "unknown": "not known",
    "info": "to know",
}
_PATIENCE_SECONDS = 0.5


def run_doctor(
    config: Config,
    aider_args: Sequence[str],
    *,
    state_dir: Path,
    as_json: bool = False,
    environment: Mapping[str, str] = os.environ,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Check everything, say it, and return the exit status: 0 fine, 1 something is wrong, 2 something is not known."""
    out, err = out or sys.stdout, err or sys.stderr
    with _alive(err):
        facts = gather(config, aider_args, environment=environment, state_dir=state_dir)
        findings = examine(facts)
    if as_json:
        text = json.dumps(as_data(findings), indent=2) + "\n"
    else:
        size = shutil.get_terminal_size()
        colour = out.isatty() and not environment.get("NO_COLOR")
        rows = size.lines if out.isatty() else 0
        text = render(facts, findings, Page(size.columns, rows, colour=colour))
    out.write(text)
    return doctor_status(findings)


def as_data(findings: Sequence[Finding]) -> dict[str, object]:
    """The findings as ``doctor --json`` prints them."""
    keys = ("id", "severity", "what", "evidence", "fix")
    shown = [{key: getattr(finding, key) for key in keys} for finding in findings]
    return {"ok": doctor_status(findings) == 0, "findings": shown}


def render(facts: Facts, findings: Sequence[Finding], page: Page) -> str:
    """The page: what would run, what was found, worst first, and how much that is.

    The fixes of what needs nothing are left out where the page would be longer than the screen.
    """
    head = [page.headline(one.what, one.evidence) for one in findings if one.id in _HEAD]
    head += [page.headline(*_models(facts))]
    body = [one for one in findings if one.id not in _HEAD]
    last = _counts(findings)
    whole = [*head, "", *_body(body, page, SEVERITIES), "", last]
    if not page.holds(whole):
        whole = [*head, "", *_body(body, page, SEVERITIES[:-1]), "", last]
    return "".join(f"{line}\n" for line in whole)


def _body(findings: Sequence[Finding], page: Page, with_fix: Sequence[Severity]) -> list[str]:
    shown = (page.finding(one, with_fix=one.severity in with_fix) for one in findings)
    return [line for lines in shown for line in lines]


def _models(facts: Facts) -> tuple[str, str]:
    used: dict[str, list[str]] = {}
    for role in roles(facts):
        used.setdefault(role.model, []).append(role.role)
    models = ", ".join(f"{model} ({', '.join(jobs)})" for model, jobs in used.items())
    window = facts.window_tokens
    known = "window not known" if isinstance(window, Unavailable) else f"window {window:,} tokens"
    return models or "no model", known


def _counts(findings: Sequence[Finding]) -> str:
    counted = Counter(finding.severity for finding in findings if finding.id not in _HEAD)
    parts = [f"{counted[each]} {_COUNTED[each]}" for each in SEVERITIES if counted[each]]
    verdict = {0: "all fine", 1: "not fine", 2: "fine, as far as it is known"}[
        doctor_status(findings)
    ]
    return f"{verdict}: {', '.join(parts)}" if parts else verdict


@contextmanager
def _alive(err: TextIO, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """On a terminal, a line that grows while it takes long, and is erased at the end."""
    done = threading.Event()

    def show() -> None:
        words = "asking Aider and Ollama "
        while not done.wait(patience_seconds):
            words += "."
            err.write(f"\r{words}")
            err.flush()
        if words.endswith("."):
            err.write("\r\x1b[2K")
            err.flush()

    if not err.isatty():
        yield
        return
    thread = threading.Thread(target=show, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
