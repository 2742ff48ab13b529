"""Files inside a jail: the kernel's settings are read-only, and ssh reads its settings."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from airgap.layers import best_of, open_gap

from aider_guard.airgap import kernel
from aider_guard.loop import Loop

pytestmark = pytest.mark.skipif(
    best_of("netns").layer != "netns",
    reason="this system allows no network namespaces",
)


def output_of(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The output of a program in a jail."""
    with open_gap("netns", environment=environment) as gap:
        with gap.entering() as enter:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=enter,  # noqa: PLW1509  # the contract of Gap.entering
            )
        return process.communicate()[0]


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
        with open_gap("netns", environment={}) as gap, Loop() as loop:
            with gap.entering() as enter:
                process = subprocess.Popen(
                    ["ssh", "-G", "example.com"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    preexec_fn=enter,  # noqa: PLW1509  # as above
                )
            gap.watch(loop, lambda _attempt: None)
            while process.poll() is None:
                loop.run_once(0.1)

    lines = as_another_user(work).splitlines()
    assert {"port 1022", "compression yes"} <= set(lines), lines
