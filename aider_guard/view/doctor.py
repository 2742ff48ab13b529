"""Runs ``aider-guard doctor``: prints what the checks found on one screen, or as JSON."""

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
from aider_guard.launch.places import by_model, roles
from aider_guard.session.registry import windows_of_others
from aider_guard.view.page import Page, wrapped

_HEAD = ("aider", "ollama")
_COUNTED = {
    "stop": ("problem that stops a session", "problems that stop a session"),
    "warn": ("warning", "warnings"),
    "unknown": ("check that could not be made", "checks that could not be made"),
    "info": ("note", "notes"),
}
_PATIENCE_SECONDS = 0.5


def run_doctor(
    config: Config,
    aider_args: Sequence[str],
    *,
    state_dir: Path,
    as_json: bool = False,
    as_report: bool = False,
    verbose: bool = False,
    environment: Mapping[str, str] = os.environ,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Check everything, print it, and return the exit status: 0 no problem, 1 problems, 2 something is not known.

    *as_report* prints all findings and the versions of everything, without secrets, for a bug report.
    """
    out, err = out or sys.stdout, err or sys.stderr
    with _progress(err):
        held = windows_of_others(state_dir / "sessions", os.getpid())
        facts = gather(
            config, aider_args, environment=environment, state_dir=state_dir, held_windows=held
        )
        findings = examine(facts)
    if as_json:
        text = json.dumps(as_data(findings), indent=2) + "\n"
    elif as_report:
        from aider_guard.view.doctor_report import report_text

        text = report_text(facts, findings, environment=environment)
    else:
        size = shutil.get_terminal_size()
        is_plain = environment.get("NO_COLOR") or environment.get("TERM") == "dumb"
        colour = out.isatty() and not is_plain
        rows = size.lines if out.isatty() else 0
        page = Page(size.columns, rows, colour=colour)
        text = render(facts, findings, page, verbose=verbose)
    out.write(text)
    return doctor_status(findings)


def as_data(findings: Sequence[Finding]) -> dict[str, object]:
    """The findings as ``doctor --json`` prints them."""
    keys = ("id", "severity", "what", "evidence", "fix")
    items = [{key: getattr(finding, key) for key in keys} for finding in findings]
    return {"ok": doctor_status(findings) == 0, "findings": items}


def render(facts: Facts, findings: Sequence[Finding], page: Page, *, verbose: bool = False) -> str:
    """The page: what would run, the findings, worst first, and how many there are.

    Notes are shown with *verbose* only, and lose their fixes where the page would be longer than the screen.
    """
    head: list[str] = []
    for each in findings:
        head += page.headline(each.what, each.evidence) if each.id in _HEAD else []
    used = by_model(roles(facts)).items()
    models = (f"{model} ({', '.join(role.role for role in each)})" for model, each in used)
    window = facts.window_tokens
    size = "window not known" if isinstance(window, Unavailable) else f"window {window:,} tokens"
    head += page.headline(", ".join(models) or "no model", size)
    body = [finding for finding in findings if finding.id not in _HEAD]
    shown = [finding for finding in body if verbose or finding.severity != "info"]
    hidden = len(body) - len(shown)
    how = " (-v shows them)" if hidden > 1 else " (-v shows it)" if hidden else ""
    end = [*wrapped([_summary(body) + how], page.columns, 2)]
    lines = [*head, "", *_with_space(_body(shown, page, SEVERITIES)), *end]
    if not page.holds(lines):
        lines = [*head, "", *_with_space(_body(shown, page, SEVERITIES[:-1])), *end]
    return "".join(f"{line}\n" for line in lines)


def _body(findings: Sequence[Finding], page: Page, with_fix: Sequence[Severity]) -> list[str]:
    blocks = (page.finding(each, with_fix=each.severity in with_fix) for each in findings)
    return [line for lines in blocks for line in lines]


def _with_space(lines: Sequence[str]) -> list[str]:
    return [*lines, ""] if lines else []


def _summary(findings: Sequence[Finding]) -> str:
    """The last line: how many findings of each kind there are, "no problems" first where there are none."""
    counts = Counter(finding.severity for finding in findings)
    parts = [
        f"{counts[each]} {_COUNTED[each][counts[each] > 1]}" for each in SEVERITIES if counts[each]
    ]
    return ", ".join(parts if counts["stop"] or counts["warn"] else ["no problems", *parts])


@contextmanager
def _progress(err: TextIO, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """Show a growing line on a terminal while the checks take long, and erase it at the end."""
    is_over = threading.Event()

    def show() -> None:
        words = "asking Aider and Ollama "
        while not is_over.wait(patience_seconds):
            words += "."
            err.write(f"\r{words}")
            err.flush()
        if words.endswith("."):
            err.write("\r\x1b[2K")
            err.flush()

    if not err.isatty():
        yield
        return
    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
