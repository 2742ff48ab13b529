"""docs/doctor.md describes every finding, and the checks make no other."""

from __future__ import annotations

import re
from pathlib import Path

from aider_guard.core.findings import (
    CHECKS,
    IDS,
    LEAKS,
    SEVERITIES,
    Finding,
    doctor_status,
    worst_first,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    *(ROOT / "aider_guard" / "checks").glob("*.py"),
    ROOT / "aider_guard/launch/ollama_address.py",
)


def documented(heading: str) -> dict[str, str]:
    """The ids below a heading of docs/doctor.md, with their subjects."""
    text = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", section, re.MULTILINE))


def test_every_id_is_documented_in_the_words_of_the_table() -> None:
    """The two tables of the page are those of the code, in their order."""
    assert list(documented("Ways out").items()) == list(LEAKS.items())
    assert list(documented("Everything else").items()) == list(CHECKS.items())


def test_every_id_is_made_somewhere_and_no_other_is() -> None:
    """An id that no check makes is as wrong as one that is not in the table."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    made = set(re.findall(r"\b(?:stop|warn|info|unknown|severity|say)\(\s*\"([a-z-]+)\"", text))
    paths = set(re.findall(r"return \"([a-z-]+)\"(?: if| else|$)", text, re.MULTILINE))
    paths |= set(re.findall(r"else \"([a-z-]+)\"$", text, re.MULTILINE))

    assert made <= set(IDS)
    assert set(IDS) <= made | paths


def test_ids_are_kebab_case_words_of_one_table() -> None:
    """They are for scripts: one meaning each."""
    assert not set(LEAKS) & set(CHECKS)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", each) for each in IDS)


def test_the_exit_status_follows_the_worst_finding() -> None:
    """0 fine, 1 wrong, 2 not known; what is wrong goes before what is not known."""
    stop, warn, unknown, info = (Finding("x", each, "x") for each in SEVERITIES)

    assert doctor_status([]) == doctor_status([info]) == 0
    assert doctor_status([info, unknown]) == 2
    assert doctor_status([unknown, warn]) == doctor_status([stop]) == 1


def test_findings_of_one_severity_stay_in_order() -> None:
    """Sorting by severity moves nothing else."""
    findings = [Finding(str(number), SEVERITIES[number % 2], "x") for number in range(6)]

    assert [finding.id for finding in worst_first(findings)] == ["0", "2", "4", "1", "3", "5"]
