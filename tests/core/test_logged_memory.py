"""The memory that is computed for the models of today, beside what llama.cpp and Ollama logged of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from core.logged_memory import LOGGED, LoggedMemory, markdown_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fit.md"


def label(row: LoggedMemory) -> str:
    """A row's name in a test."""
    return f"{row.model}-{row.num_ctx}-{row.batch}-{row.kv}"


@pytest.mark.parametrize("row", LOGGED, ids=label)
def test_the_cache_is_what_was_logged(row: LoggedMemory) -> None:
    """All caches and states together, to a thousandth."""
    assert row.computed[0] == pytest.approx(row.cache, rel=0.001)


@pytest.mark.parametrize("row", LOGGED, ids=label)
def test_all_that_was_logged_is_computed_within_5_percent(row: LoggedMemory) -> None:
    """Never too small by more than 3 per cent, never too large by more than 5."""
    assert -3 <= row.error_percent <= 5


def test_the_documentation_has_these_tables() -> None:
    """docs/fit.md shows each row with what is computed now."""
    page = PAGE.read_text(encoding="utf-8")
    assert len(LOGGED) >= 25
    assert markdown_table(LOGGED) in page
