"""Lists the Unix sockets of daemons that would act outside for a program inside: containers, resolvers, D-Bus.

A pathname socket is reached through the file system and not through the network, so a network namespace does not keep
programs from it. These sockets are hidden inside (airgap/mounts.py). A folder with nothing but such sockets is
hidden as a whole: a daemon that starts later, or again, makes its new socket there.
"""

from __future__ import annotations

import contextlib
import glob
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

_SYSTEM: Final = (
    "/run/docker.sock",
    "/var/run/docker.sock",  # where this is no link to the other
    "/run/docker/",  # and what it starts
    "/run/podman/",
    "/run/containerd/",
    "/run/crio/",
    "/run/buildkit/",
    "/run/libvirt/",
    "/run/snapd*.socket",
    "/run/multipass_socket",
    "/var/snap/multipass/common/multipass_socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/snap/lxd/common/lxd-user/unix.socket",
    "/var/lib/incus/unix.socket*",
    "/run/nscd/",
    "/run/systemd/resolve/",  # its plain files are what /etc/resolv.conf may lead to
    "/run/systemd/private",
    "/run/systemd/io.systemd.Manager",
    "/run/avahi-daemon/",
    "/run/dbus/",
    "/run/WSL/",
    "/run/screen/",
)
"""Sockets of the system. ``*`` is any part of a name; a ``/`` at the end means the whole folder."""
_USERS: Final = (
    "{runtime}/bus",
    "{runtime}/at-spi/",
    "{home}/.cache/at-spi/",
    "{runtime}/systemd/",
    "{runtime}/docker.sock",
    "{runtime}/docker/",
    "{runtime}/podman/",
    "{runtime}/containerd*/",
    "{runtime}/buildkit*/",
    "{runtime}/libvirt/",
    "{runtime}/gnupg/S.dirmngr",  # fetches keys and certificate lists for GnuPG
    "{home}/.gnupg/S.dirmngr",
    "{home}/.ssh/*",  # a shared connection of ssh's leads to where it is open (ControlPath, ssh_config(5))
    "{home}/.ssh/*/*",
    "{home}/.docker/run/",
    "{home}/.docker/desktop/*.sock",
    "{home}/.rd/docker.sock",  # Rancher Desktop
    "{home}/.colima/*/*.sock",
    "{home}/.config/colima/*/*.sock",
    "{home}/.lima/*/*.sock",
    "{home}/.lima/*/sock/",
    "{home}/.colima/_lima/*/*.sock",
    # Terminal multiplexers and window managers start programs in their own, outside.
    "{tmux}/tmux-{uid}/",
    "{home}/.screen/",
    "{runtime}/zellij/",
    "/tmp/zellij-{uid}/",  # noqa: S108  # zellij's own place
    "{runtime}/wezterm/",
    "{runtime}/hypr/",
    "{runtime}/sway-ipc.*",
    "{runtime}/i3/",
)
_VARIABLES: Final = (
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "DBUS_SESSION_BUS_ADDRESS",
    "WSL_INTEROP",
    "TMUX",
    "I3SOCK",
    "SWAYSOCK",
    "KITTY_LISTEN_ON",
    "WEZTERM_UNIX_SOCKET",
)
"""Variables that name a socket; a scheme before its path and a list after it are removed."""


def masked_paths(environment: Mapping[str, str], *, also_absent: bool = False) -> tuple[str, ...]:
    """Return the real paths of the sockets, and of the folders of sockets, that exist now, each once.

    With *also_absent* also those that do not exist yet, as far as their whole names are known.
    """
    # These must stay visible: ssh's agent, which only signs, the home, and the current folder.
    visible = [environment.get("SSH_AUTH_SOCK"), environment.get("HOME")]
    with contextlib.suppress(OSError):  # a folder that was removed
        visible.append(os.getcwd())
    needed = [os.path.realpath(path) for path in visible if path]
    masked: list[str] = []
    for pattern in patterns(environment):
        is_path = also_absent and not glob.has_magic(pattern)
        for path in [pattern] if is_path else glob.iglob(pattern):  # noqa: PTH207  # patterns are of whole paths
            masked += _masked(path, needed, also_absent=also_absent)
    return tuple(dict.fromkeys(masked))


def patterns(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths where the system's and the user's daemons listen, as patterns for glob."""
    uid = os.getuid()
    known = {
        "runtime": glob.escape(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"),
        "home": glob.escape(environment.get("HOME") or "/nonexistent"),
        "uid": str(uid),
        "tmux": glob.escape(environment.get("TMUX_TMPDIR") or "/tmp"),  # noqa: S108  # tmux's own place
    }
    users = (pattern.format(**known) for pattern in _USERS)
    values = (value for name in _VARIABLES for value in environment.get(name, "").split(";"))
    paths = (value.partition("/")[2].partition(",")[0].strip("/") for value in values)
    return (*_SYSTEM, *users, *(glob.escape(f"/{path}") for path in paths if path))


def _masked(path: str, needed: Sequence[str], *, also_absent: bool) -> Iterator[str]:
    """What to mask at a path: the path itself, or only the sockets in it where the folder must stay visible."""
    real = os.path.realpath(path)
    if not path.endswith("/"):
        if real not in needed and _is(stat.S_ISSOCK, real, otherwise=also_absent):
            yield real
    elif any(f"{path}/".startswith(f"{real}/") for path in needed):
        # The folder may be absent, or closed to this user.
        with contextlib.suppress(OSError), os.scandir(real) as entries:
            for entry in entries:
                yield from _masked(entry.path, needed, also_absent=False)
    elif _is(stat.S_ISDIR, real, otherwise=also_absent):
        yield real


def _is(kind: Callable[[int], bool], path: str, *, otherwise: bool) -> bool:
    """Whether the file at this path is of this kind; *otherwise* where there is none."""
    try:
        return kind(os.stat(path).st_mode)
    except FileNotFoundError:
        return otherwise
    except OSError:
        return False
