"""What is wrong with Aider's files, in sentences that carry nothing of their text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aider_guard.launch.inside.files import check_metadata, readable_config_files

SECRET = "sk-secret"
CONFIGS: list[tuple[str, bytes, str]] = [
    ("no YAML", b"model: a\nkey: b: c " + SECRET.encode(), "line 2 cannot be read as YAML"),
    ("a tab", b"model: a\n\tkey: " + SECRET.encode(), "line 2 cannot be read as YAML"),
    ("a list", b"- " + SECRET.encode(), "has no 'key: value' pairs"),
    ("a word", SECRET.encode(), "has no 'key: value' pairs"),
    ("empty", b"", "has no 'key: value' pairs"),
    ("comments only", b"# nothing\n", "has no 'key: value' pairs"),
    ("other bytes", b"model: \xff\xfe", "cannot be read as YAML: it is not encoded as expected"),
]


@pytest.mark.parametrize(("what", "text", "problem"), CONFIGS, ids=[c[0] for c in CONFIGS])
def test_a_broken_configuration_is_a_sentence(
    tmp_path: Path, what: str, text: bytes, problem: str
) -> None:
    """With the file, and the line where there is one; the other files are used."""
    broken, fine, absent = (str(tmp_path / name) for name in ("broken", "fine", "absent"))
    Path(broken).write_bytes(text)
    Path(fine).write_text("model: x\n")
    problems: list[str] = []
    assert readable_config_files([broken, fine, absent], problems) == [fine, absent]
    (sentence,) = problems
    assert sentence.startswith(broken), what
    assert problem in sentence
    assert SECRET not in sentence


def test_a_folder_in_place_of_a_file_is_a_sentence(tmp_path: Path) -> None:
    """As any other fault of the system's: its own words."""
    problems: list[str] = []
    assert readable_config_files([str(tmp_path)], problems) == []
    assert problems == [f"{tmp_path} cannot be read: Is a directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    """The sentence names the file and the reason."""
    path = tmp_path / ".aider.conf.yml"
    path.write_text("model: x\n")
    path.chmod(0)
    problems: list[str] = []
    assert readable_config_files([str(path)], problems) == []
    assert problems == [f"{path} cannot be read: Permission denied"]


def test_aider_stops_at_the_first_broken_metadata(tmp_path: Path) -> None:
    """One sentence for it, and none for those after it, which Aider does not read."""
    paths = [str(tmp_path / name) for name in ("absent", "empty", "fine", "list", "second list")]
    for path, text in zip(paths[1:], ("", '{"a": {}}', "[1]", "[2]"), strict=True):
        Path(path).write_text(text)
    problems: list[str] = []
    check_metadata(paths, problems)
    (sentence,) = problems
    assert sentence.startswith(f"{paths[3]} cannot be read as model metadata: ")
    assert sentence.endswith("Aider then reads no metadata file after it")
