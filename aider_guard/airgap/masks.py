"""Sockets of daemons that act for whoever asks, outside the air gap: containers, resolvers, D-Bus, and their like.

A pathname socket is reached through the file system and not through the network, so that a network namespace does not
hold it. Where one of these daemons would go out for a program, its socket is shown as /dev/null inside.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

_SYSTEM: Final = (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
    "/run/libvirt/libvirt-sock*",
    "/run/snapd*.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve*",
    "/run/systemd/private",
    "/run/avahi-daemon/socket",
    "/run/dbus/system_bus_socket",
    "/run/WSL/*_interop",
)
"""Of the system. ``*`` stands for any part of a name."""
_USERS: Final = (
    "{runtime}/bus",
    "{runtime}/systemd/private",
    "{runtime}/docker.sock",
    "{runtime}/podman/podman.sock",
    "{runtime}/buildkit/buildkitd.sock",
    "{runtime}/gnupg/S.dirmngr",  # fetches keys and certificate lists for GnuPG
    "{home}/.gnupg/S.dirmngr",
    "{home}/.ssh/*",  # a shared connection of ssh's leads to where it is open (ControlPath, ssh_config(5))
    "{home}/.ssh/*/*",
    "{home}/.docker/run/docker.sock",
    "{home}/.docker/desktop/*.sock",
    "/tmp/tmux-{uid}/*",  # noqa: S108  # tmux's own place: a server of tmux starts programs where it runs itself
    "/run/screen/S-{user}/*",
)
_NEEDED: Final = "SSH_AUTH_SOCK"
"""An agent of ssh's signs, and connects to nobody."""
_VARIABLES: Final = (
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "DBUS_SESSION_BUS_ADDRESS",
    "WSL_INTEROP",
    "TMUX",
)
"""Variables that name one; a scheme before its path and a list after it are taken off."""


def masked_sockets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The sockets that are there now, by their real paths, each once."""
    needed = os.path.realpath(environment.get(_NEEDED) or os.devnull)
    found = _sockets((*patterns(environment), *_named(environment)))
    return tuple(dict.fromkeys(path for path in found if path != needed))


def patterns(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Where the system's and the user's daemons listen, as patterns for glob."""
    uid = os.getuid()
    known = {
        "runtime": glob.escape(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"),
        "home": glob.escape(environment.get("HOME") or "/nonexistent"),
        "uid": str(uid),
        "user": glob.escape(environment.get("USER") or "nobody"),
    }
    return (*_SYSTEM, *(pattern.format(**known) for pattern in _USERS))


def _named(environment: Mapping[str, str]) -> Iterator[str]:
    for name in _VARIABLES:
        value = environment.get(name, "")
        for part in value.split(";"):
            path = part[part.find("/") :].partition(",")[0] if "/" in part else ""
            if path.startswith("//"):
                path = path[1:]  # unix:///run/…
            if path:
                yield glob.escape(path.lstrip("/") and "/" + path.lstrip("/"))


def _sockets(found: Iterable[str]) -> Iterator[str]:
    for pattern in found:
        for path in glob.iglob(pattern):  # noqa: PTH207  # patterns are of whole paths
            real = os.path.realpath(path)
            try:
                is_socket = stat.S_ISSOCK(os.stat(real).st_mode)
            except OSError:
                continue
            if is_socket:
                yield real
