"""Which Python runs the user's Aider: every form of script that installers write."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from aider_guard.errors import LaunchError
from aider_guard.launch.aider import Aider, find_aider

PIP = "import sys\nfrom aider.main import main\nsys.exit(main())\n"
LONG = "/home/some user/" + "d" * 200 + "/bin/python3"

SCRIPTS: list[tuple[str, str, tuple[str, ...]]] = [
    ("pip", "#!/venv/bin/python3\n", ("/venv/bin/python3",)),
    ("a blank after the mark", "#! /venv/bin/python\n", ("/venv/bin/python",)),
    ("a version", "#!/usr/bin/python3.12\n", ("/usr/bin/python3.12",)),
    ("pypy", "#!/opt/bin/pypy3\n", ("/opt/bin/pypy3",)),
    ("pipx", "#!/pipx/venvs/aider-chat/bin/python -E\n", ("/pipx/venvs/aider-chat/bin/python", "-E")),
    ("two flags", "#!/venv/bin/python3 -E -s\n", ("/venv/bin/python3", "-E", "-s")),
    ("env", "#!/usr/bin/env python3\n", ("python3",)),
    ("env with flags", "#!/usr/bin/env -S python3 -E\n", ("python3", "-E")),
    ("Windows line ends", "#!/venv/bin/python3\r\n", ("/venv/bin/python3",)),
    ("pip, a blank in the path", f"#!/bin/sh\n'''exec' \"{LONG}\" \"$0\" \"$@\"\n' '''\n", (LONG,)),
    ("pip, a long path", "#!/bin/sh\n'''exec' /a/bin/python3 \"$0\" \"$@\"\n' '''\n", ("/a/bin/python3",)),
    ("uv, a blank in the path", "#!/bin/sh\n'''exec' '/a b/bin/python' \"$0\" \"$@\"\n' '''\n", ("/a b/bin/python",)),
    ("pipx, a blank", "#!/bin/sh\n'''exec' \"/a b/bin/python\" -E \"$0\" \"$@\"\n' '''\n", ("/a b/bin/python", "-E")),
    ("not only letters", "#!/größe/bin/python3\n", ("/größe/bin/python3",)),
]  # fmt: skip


def script(folder: Path, text: str | bytes, name: str = "aider") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("what", "first", "interpreter"), SCRIPTS, ids=[s[0] for s in SCRIPTS])
def test_the_interpreter_is_that_of_the_script(
    tmp_path: Path, what: str, first: str, interpreter: tuple[str, ...]
) -> None:
    """The script's first line, or its first two, name the Python and its flags."""
    path = script(tmp_path, first + PIP)
    assert find_aider(str(path)) == Aider(str(path), interpreter), what


def test_bytes_that_are_no_text_survive(tmp_path: Path) -> None:
    """A path is bytes: what is no UTF-8 reaches the system as it is."""
    path = script(tmp_path, b"#!/\xff/bin/python3\n")
    (interpreter,) = find_aider(str(path)).interpreter
    assert os.fsencode(interpreter) == b"/\xff/bin/python3"


NO_SCRIPTS: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("a program", b"\x7fELF\x02\x01\x01\x00" * 10),
    ("no first line", b"import aider\n"),
    ("another language", b"#!/usr/bin/env node\n"),
    ("nothing after the mark", b"#!\n"),
    ("env alone", b"#!/usr/bin/env\n"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "text"), NO_SCRIPTS, ids=[s[0] for s in NO_SCRIPTS])
def test_what_is_no_python_script_is_refused_in_words(
    tmp_path: Path, what: str, text: bytes
) -> None:
    """The sentence names the file and the flag that helps, and the status is that of a wrong configuration."""
    path = script(tmp_path, text)
    with pytest.raises(LaunchError, match=r"aider is not a Python script.*--aider") as raised:
        find_aider(str(path))
    assert raised.value.exit_code == 78, what


WRAPPERS: list[tuple[str, str, str]] = [
    ("pyenv", "shims/aider", '#!/usr/bin/env bash\nset -e\nexec "/p/libexec/pyenv" exec "aider" "$@"\n'),
    ("asdf", "shims/aider", '#!/usr/bin/env bash\nexec /opt/asdf/bin/asdf exec "aider" "$@"\n'),
    ("mise", "shims/aider", "\x7fELF"),
    ("a user's own", "bin/aider", '#!/bin/sh\nexec /opt/venv/bin/aider "$@"\n'),
    ("with a flag", "bin/aider", '#!/bin/bash -eu\nexec /opt/venv/bin/aider "$@"\n'),
]  # fmt: skip


@pytest.mark.parametrize(("what", "name", "text"), WRAPPERS, ids=[w[0] for w in WRAPPERS])
def test_a_wrapper_is_recognised(tmp_path: Path, what: str, name: str, text: str) -> None:
    """Which Aider it starts is not guessed; the sentence says how to find out."""
    (tmp_path / name).parent.mkdir()
    path = script(tmp_path, text, name)
    with pytest.raises(
        LaunchError, match=r"a wrapper that starts one; name .*--aider .*which aider"
    ):
        find_aider(str(path))
    assert what


LINKS: list[tuple[str, str, str]] = [
    ("pipx", ".local/share/pipx/venvs/aider-chat/bin", "python"),
    ("pipx before 1.2", ".local/pipx/venvs/aider-chat/bin", "python"),
    ("uv tool", ".local/share/uv/tools/aider-chat/bin", "python"),
    ("a venv", "aider-venv/bin", "python3.12"),
]


@pytest.mark.parametrize(("what", "folder", "python"), LINKS, ids=[link[0] for link in LINKS])
def test_a_link_on_the_path_leads_to_its_installation(
    tmp_path: Path, what: str, folder: str, python: str
) -> None:
    """pipx and uv link into ~/.local/bin: the script is called by the link, and read where it is."""
    home = tmp_path / folder
    home.mkdir(parents=True)
    real = script(home, f"#!{home}/{python}\n{PIP}")
    links = tmp_path / ".local/bin"
    links.mkdir(parents=True, exist_ok=True)
    (links / "aider").symlink_to(real)
    found = find_aider("aider", search_path=str(links))
    assert found == Aider(str(links / "aider"), (f"{home}/{python}",)), what


def test_a_link_that_leads_nowhere_is_not_found(tmp_path: Path) -> None:
    """As after an uninstallation by hand."""
    (tmp_path / "aider").symlink_to(tmp_path / "gone")
    with pytest.raises(LaunchError, match="was not found"):
        find_aider("aider", search_path=str(tmp_path))


def test_a_missing_aider_is_reported_with_the_way_to_get_it(tmp_path: Path) -> None:
    """Neither a name that is not on the path nor a path that is not there."""
    for name in ("aider", str(tmp_path / "aider")):
        with pytest.raises(LaunchError, match=r"was not found as .*pipx install aider-chat"):
            find_aider(name, search_path=str(tmp_path))


def test_a_file_that_may_not_be_run_is_not_found(tmp_path: Path) -> None:
    """As for a shell: only what can be executed counts, and no folder does."""
    script(tmp_path, "#!/venv/bin/python3\n").chmod(0o644)
    (tmp_path / "folder" / "aider").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "folder"):
        with pytest.raises(LaunchError, match="was not found"):
            find_aider("aider", search_path=str(folder))


def test_the_first_on_the_path_is_taken(tmp_path: Path) -> None:
    """A bare name is searched for as a shell does."""
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(script(tmp_path / name, f"#!/{name}/bin/python3\n"))
    both = os.pathsep.join(str(path.parent) for path in found)
    assert find_aider("aider", search_path=both).script == str(found[0])


def test_the_home_folder_may_be_abbreviated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``~`` in a settings file is the user's home: no shell has expanded it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = script(tmp_path, "#!/venv/bin/python3\n")
    assert find_aider("~/aider").script == str(path)


def test_the_encodings_are_looked_for_beside_the_interpreter(tmp_path: Path) -> None:
    """In the litellm of the same Python; "" when there is none."""
    aider = Aider("aider", (str(tmp_path / "bin" / "python3"),))
    assert aider.likely_tokenizers() == ""
    folder = tmp_path / "lib/python3.12/site-packages/litellm/litellm_core_utils/tokenizers"
    folder.mkdir(parents=True)
    assert aider.likely_tokenizers() == str(folder)


def test_this_pythons_own_scripts_are_found() -> None:
    """A script that an installer really wrote: pytest's own, whose Python is the one that runs this."""
    folder = Path(sys.executable).parent
    if not (folder / "pytest").exists():
        pytest.skip("pytest has no script beside this Python")
    (interpreter,) = find_aider("pytest", search_path=str(folder)).interpreter
    assert os.path.realpath(interpreter) == os.path.realpath(sys.executable)
