"""Files inside a jail: sockets of daemons are hidden now and later, and ssh reads its settings."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from airgap.layers import best_of, open_gap

from aider_guard.airgap import kernel

pytestmark = pytest.mark.skipif(
    best_of("netns").layer != "netns",
    reason="this system allows no network namespaces",
)
REACH = """
import socket, sys
for path in sys.stdin:
    with socket.socket(socket.AF_UNIX) as one:
        print(one.connect_ex(path.strip()) == 0, flush=True)
"""
SERVE = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
    server.bind(sys.argv[1])
    server.listen()
    client.connect(sys.argv[1])
    print(*sorted(os.listdir(os.path.dirname(sys.argv[1]))))
"""


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A program in a jail that was made for a user with this environment."""
    with (
        open_gap("netns", environment=environment) as gap,
        gap.entering() as enter,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=enter,  # noqa: PLW1509  # the contract of Gap.entering
        ) as process,
    ):
        yield process


def output_of(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The output of a program in a jail."""
    with started(command, environment) as process:
        return process.communicate()[0]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of a user with Podman, in which sockets have short names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "podman").mkdir(parents=True)
    return tmp_path / "run"


@contextlib.contextmanager
def daemon(path: str) -> Iterator[None]:
    """A server that listens there."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        yield
        Path(path).unlink()


def test_a_daemon_that_starts_again_stays_hidden(runtime: Path) -> None:
    """And one that starts only then: its socket is a new one, in a folder that is hidden."""
    environment = {"XDG_RUNTIME_DIR": str(runtime), "HOME": "/nowhere"}
    path = "run/podman/podman.sock"

    def reached(process: subprocess.Popen[str]) -> bool:
        assert process.stdin is not None
        assert process.stdout is not None
        print(runtime / "podman" / "podman.sock", file=process.stdin, flush=True)
        return process.stdout.readline() == "True\n"

    first = contextlib.ExitStack()
    first.enter_context(daemon(path))
    with started([sys.executable, "-c", REACH], environment) as process, first:
        assert not reached(process)
        first.close()
        with daemon(path), socket.socket(socket.AF_UNIX) as outside:
            outside.connect(path)
            assert not reached(process)
        assert process.stdin is not None
        process.stdin.close()


def test_a_hidden_folder_is_for_those_inside(runtime: Path) -> None:
    """Its plain files are there; what they make in it is not seen outside."""
    (runtime / "podman" / "settings").write_text("as they are")
    environment = {"XDG_RUNTIME_DIR": str(runtime), "HOME": "/nowhere"}
    path = runtime / "podman" / "own"
    assert output_of([sys.executable, "-c", SERVE, str(path)], environment) == "own settings\n"
    assert output_of(["cat", f"{runtime}/podman/settings"], environment) == "as they are"
    assert [one.name for one in path.parent.iterdir()] == ["settings"]


def test_an_agent_in_such_a_folder_is_reached(runtime: Path) -> None:
    """Its folder is not hidden then, but the other sockets there are."""
    folder = runtime / "podman"
    environment = {
        "XDG_RUNTIME_DIR": str(runtime),
        "HOME": "/nowhere",
        "SSH_AUTH_SOCK": str(folder / "agent"),
    }
    with (
        daemon("run/podman/agent"),
        daemon("run/podman/other"),
        started([sys.executable, "-c", REACH], environment) as process,
    ):
        assert process.communicate(f"{folder}/agent\n{folder}/other\n")[0] == "True\nFalse\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write the kernel's settings anyway")
@pytest.mark.parametrize("setting", ["/proc/sys/kernel/core_pattern", "/sys/kernel/profiling"])
def test_root_does_not_change_the_kernels_settings(setting: str) -> None:
    """The kernel would start a program of root's choice, outside."""
    if not os.path.exists(setting) or os.statvfs(setting).f_flag & os.ST_RDONLY:
        pytest.skip("they cannot be changed here anyway")
    assert "Read-only file system" in output_of(["sh", "-c", f": >> {setting}"], {})


def as_another_user(work: Callable[[int], None]) -> str:
    """What *work* writes to the descriptor, in a fork: an ordinary user there, with mounts of its own."""
    # Root's files are shown as those of the overflow user, who would own them.
    user = next(one for one in pwd.getpwall() if one.pw_uid not in {0, 65534})
    with open_gap("netns", environment={}):
        pass  # all is loaded now: an ordinary user may not be able to read this interpreter's files
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            kernel.unshare(kernel.CLONE_NEWNS)
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            settings_of_a_distribution()
            os.environ["HOME"] = "/nowhere"
            os.chdir("/")
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            kernel.allow_tracing()  # as after any execve(2)
            work(theirs)
        except BaseException as error:  # noqa: BLE001  # reported to the test
            os.write(theirs, repr(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, encoding="utf-8") as output:
        text = output.read()
    os.waitpid(child, 0)
    return text


def settings_of_a_distribution() -> None:
    """Settings of ssh's by links and files that include others, all of root's, as Fedora's and systemd's are."""
    subprocess.run(["mount", "-t", "tmpfs", "none", "/etc/ssh"], check=True)
    folder = Path("/etc/ssh/ssh_config.d")
    folder.mkdir()
    (folder.parent / "ssh_config").write_text(f"Include {folder}/*.conf\nPort 1022\n")
    (folder.parent / "vendor.txt").write_text('Match all\n  include = "crypto\'s.txt" # theirs\n')
    (folder.parent / "crypto's.txt").write_text("Compression yes\n")
    (folder / "20-x.conf").symlink_to("../vendor.txt")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh")
def test_ssh_reads_the_systems_settings_for_an_ordinary_user() -> None:
    """They stay root's for it, though in a user namespace with one user they would be the overflow user's."""

    def work(output: int) -> None:
        with open_gap("netns", environment={}) as gap, gap.entering() as enter:
            subprocess.run(
                ["ssh", "-G", "example.com"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                preexec_fn=enter,
            )

    lines = as_another_user(work).splitlines()
    assert {"port 1022", "compression yes"} <= set(lines), lines
