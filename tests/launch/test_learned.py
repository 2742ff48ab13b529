"""What was measured of models is kept, and a broken file costs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aider_guard.launch.server_runtime import CORRECTIONS_FILE, read_corrections, remember


def test_what_is_remembered_is_read_by_any_spelling_of_the_name(tmp_path: Path) -> None:
    """One entry a model, the newest one; the folder is made."""
    folder = tmp_path / "state"
    assert read_corrections(folder) == {}
    remember(folder, "Qwen3", 1)
    remember(folder, "library/qwen3:latest", -7)
    remember(folder, "other:1b", 3)
    assert read_corrections(folder) == {"qwen3:latest": -7, "other:1b": 3}
    assert [path.name for path in folder.iterdir()] == [CORRECTIONS_FILE]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"m": "1"}', '{"m": 1.5}', '{"m": true}'])
def test_what_is_no_number_of_bytes_is_no_correction(tmp_path: Path, text: str) -> None:
    """And the next thing that is learned puts the file in order."""
    (tmp_path / CORRECTIONS_FILE).write_text(text)
    assert read_corrections(tmp_path) == {}
    remember(tmp_path, "m:1", 5)
    assert json.loads((tmp_path / CORRECTIONS_FILE).read_text()) == {"m:1": 5}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_without_a_fault(tmp_path: Path, data: bytes) -> None:
    """A file that another program wrote."""
    (tmp_path / CORRECTIONS_FILE).write_bytes(data)
    assert all(isinstance(error, int) for error in read_corrections(tmp_path).values())


def test_a_number_beyond_all_memory_is_no_correction(tmp_path: Path) -> None:
    """A terabyte."""
    (tmp_path / CORRECTIONS_FILE).write_text(
        json.dumps({"m:1": 1 << 50, "n:1": -(1 << 50), "o:1": 1})
    )
    assert read_corrections(tmp_path) == {"o:1": 1}


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    """The old one stands, and nothing half-written is left."""
    remember(tmp_path, "m:1", 5)
    (tmp_path / CORRECTIONS_FILE).rename(tmp_path / "kept")
    (tmp_path / CORRECTIONS_FILE).mkdir()
    (tmp_path / CORRECTIONS_FILE / "x").touch()
    with pytest.raises(OSError, match=r"."):
        remember(tmp_path, "m:1", 6)
    assert {path.name for path in tmp_path.iterdir()} == {CORRECTIONS_FILE, "kept"}
