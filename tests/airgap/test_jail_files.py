"""Files inside a jail: ssh reads its settings, and root does not change the kernel's."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from aider_guard.airgap import kernel, readable
from aider_guard.airgap.choose import find_layer, open_gap

SWITCH = "AIDER_GUARD_TEST_NO_LAYER"
pytestmark = pytest.mark.skipif(
    find_layer({SWITCH: "seccomp"}).layer != "netns",
    reason="this system allows no network namespaces",
)


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


def said(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """All that a program in a jail says."""
    with started(command, environment) as process:
        return process.communicate()[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write the kernel's settings anyway")
@pytest.mark.parametrize("setting", ["/proc/sys/kernel/core_pattern", "/sys/kernel/profiling"])
def test_root_does_not_change_the_kernels_settings(setting: str) -> None:
    """The kernel would start a program of root's choice, outside."""
    if not os.path.exists(setting) or os.statvfs(setting).f_flag & os.ST_RDONLY:
        pytest.skip("they cannot be changed here anyway")
    assert "Read-only file system" in said(["sh", "-c", f": >> {setting}"], {})


def as_another_user(work: Callable[[int], None]) -> str:
    """What *work* writes to the descriptor, in a fork: an ordinary user there, with mounts of its own."""
    # Root's files are shown as those of the overflow user, who would have them for their own.
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
            readable.by_the_guard()  # as after any execve(2)
            work(theirs)
        except BaseException as error:  # noqa: BLE001  # told to the test
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
    """They stay root's for it, though in a user namespace with one user they would be nobody's."""

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
