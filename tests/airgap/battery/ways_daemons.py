"""Sockets of daemons, which act outside for any client; and names by which a hidden one might still be reached.

``{runtime}`` and ``{uid}`` in a path are those of the session's user.
"""

from __future__ import annotations

from collections.abc import Mapping

from airgap.battery.way import Way
from airgap.battery.ways_processes import UNREADABLE

_APART = {"netns": "a name without a file belongs to another network: the kernel finds none there"}
_DISPLAY = {"both": "programs with a window try this name first, and go on to the file"}
_SPOKEN_TO = (
    ("docker", "/run/docker.sock stream"),
    ("podman", "/run/podman/podman.sock stream"),
    ("podman-user", "{runtime}/podman/podman.sock stream"),
    ("docker-user", "{runtime}/docker.sock stream"),
    ("containerd", "/run/containerd/containerd.sock stream"),
    ("buildkit", "/run/buildkit/buildkitd.sock stream"),
    ("libvirt", "/run/libvirt/libvirt-sock stream"),
    ("snapd", "/run/snapd.socket stream"),
    ("nscd", "/run/nscd/socket stream"),
    ("resolved", "/run/systemd/resolve/io.systemd.Resolve stream"),
    ("avahi", "/run/avahi-daemon/socket stream"),
    ("d-bus", "/run/dbus/system_bus_socket stream"),
    ("d-bus-user", "{runtime}/bus stream"),
    ("systemd", "/run/systemd/private stream"),
    ("systemd-user", "{runtime}/systemd/private stream"),
    ("systemd-notify", "/run/systemd/notify dgram"),
    ("journal", "/run/systemd/journal/socket dgram"),
    ("journal-stream", "/run/systemd/journal/stdout stream"),
    ("syslog", "/run/systemd/journal/dev-log dgram"),
    ("udev", "/run/udev/control seqpacket"),
    ("polkit", "/run/polkit/agent-helper.socket stream"),
    ("wsl", "/run/WSL/1_interop stream"),
    ("cups", "/run/cups/cups.sock stream"),
    ("supervisor", "/run/supervisor.sock stream"),
    ("supervisor-tmp", "/tmp/supervisor.sock stream"),
    ("nix", "/nix/var/nix/daemon-socket/socket stream"),
    ("watchman", "/tmp/.watchman.tester stream"),
    ("watchman-state", "/home/tester/.local/state/watchman/tester-state/sock stream"),
    ("pm2", "/home/tester/.pm2/rpc.sock stream"),
    ("pm2-pub", "/home/tester/.pm2/pub.sock stream"),
    ("tmux", "/tmp/tmux-{uid}/default stream"),
    ("tmux-other-user", "/tmp/tmux-1234/default stream"),
    ("tmux-custom", "/tmp/my-own-tmux stream"),
    ("tmux-in-home", "/home/tester/.tmux/server.sock stream"),
    ("screen", "/run/screen/S-tester/1.pts stream"),
    ("zellij", "{runtime}/zellij/0.40/session stream"),
    ("wezterm", "{runtime}/wezterm/gui-sock-1 stream"),
    ("kitty", "/tmp/mykitty-1 stream"),
    ("alacritty", "{runtime}/Alacritty-wayland-0-1.sock stream"),
    ("foot", "{runtime}/foot-wayland-0.sock stream"),
    ("niri", "{runtime}/niri.wayland-1.1.sock stream"),
    ("sway", "{runtime}/sway-ipc.1000.1.sock stream"),
    ("i3", "{runtime}/i3/ipc-socket.1 stream"),
    ("hyprland", "{runtime}/hypr/abc/.socket.sock stream"),
    ("kdeinit", "{runtime}/kdeinit5__0 stream"),
    ("dirmngr", "{runtime}/gnupg/S.dirmngr stream"),
    ("dirmngr-home", "/home/tester/.gnupg/S.dirmngr stream"),
    ("ssh-shared", "/home/tester/.ssh/control-host stream"),
    ("pipewire", "{runtime}/pipewire-0 stream"),
    ("other-user", "/run/user/4321/bus stream"),
    ("emacs", "{runtime}/emacs/server stream"),
    ("vscode", "{runtime}/vscode-ipc-1.sock stream"),
    ("unknown", "/run/a-daemon-that-nothing-lists.sock stream"),
    ("unknown-datagrams", "/run/a-daemon-of-datagrams.sock dgram"),
)
"""A name for each, its path and its kind. Whether a list of the guard's holds it does not matter."""

_LISTED = tuple(
    Way(f"daemon-{name}", "daemons", f"unix({path.split()[0]!r}.format(runtime=RUNTIME, uid=UID), {path.split()[1]!r})",
        path.split()[0], sockets=(path,))
    for name, path in _SPOKEN_TO
)  # fmt: skip


def _trick(
    name: str, code: str, kind: str = "stream", silent: Mapping[str, str] | None = None
) -> Way:
    """Another way to a socket in a folder of sockets of a daemon."""
    path = f"/run/podman/{name}.sock"
    return Way(
        f"socket-{name}",
        "sockets",
        f"PATH = {path!r}\n{code}",
        path,
        silent or {},
        (f"{path} {kind}",),
    )


_LATE = 'outside(f"daemon {NUMBER} {PATH} stream")\nunix(PATH)'


def _late(name: str, path: str) -> Way:
    code = f"PATH = {path!r}.format(runtime=RUNTIME, uid=UID)\n{_LATE}"
    return Way(f"late-{name}", "sockets made later", code, path)


_LINK = 'os.symlink(PATH, f"/tmp/link-{NUMBER}"); unix(f"/tmp/link-{NUMBER}")'
_RELATIVE = 'os.chdir(os.path.dirname(PATH)); unix("./" + os.path.basename(PATH))'
_BY_DESCRIPTOR = 'fd = os.open(PATH, os.O_PATH); unix(f"/proc/self/fd/{fd}")'
_BY_FOLDER = 'fd = os.open(os.path.dirname(PATH), os.O_PATH); unix(f"/proc/self/fd/{fd}/" + os.path.basename(PATH))'
_ROOT_OF = """
for process in (%s):
    with trying(): unix(f"/proc/{process}/root{PATH}")
"""
_SENT_TO = "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(WORD, PATH)"
_SENT_RIGHTS = """
one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendmsg([WORD], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))], 0, PATH)
"""
_NEW_MOUNTS = """
uid, gid = os.getuid(), os.getgid()
if libc.unshare(0x10000000 | 0x00020000): print("refused")
else:
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with trying(), open(f"/proc/self/{name}", "w") as file: file.write(text)
there = f"/tmp/there-{NUMBER}"; os.mkdir(there)
libc.mount(b"/run", there.encode(), None, 0x1000, None)
unix(there + PATH.removeprefix("/run"))
libc.umount2(os.path.dirname(PATH).encode(), 2)
libc.umount2(PATH.encode(), 2)
unix(PATH)
"""
_CHANGED_ROOT = """
if os.getuid(): lacks("only root changes its root")
os.chroot("/run"); unix(PATH.removeprefix("/run"))
"""
_IN_THREAD = "thread = threading.Thread(target=unix, args=(PATH,)); thread.start(); thread.join()"
_CURL = "subprocess.run(['curl', '-sm', '3', '--unix-socket', PATH, 'http://x/' + WORD.decode()])"
_UNDUMPABLE = "libc.prctl(4, 0, 0, 0, 0)\nunix(PATH)"
_OTHER_USER = """
if os.getuid(): lacks("only root changes its user")
try: os.setresuid(1234, 1234, 1234)
except OSError: lacks("no other user is mapped here")
unix(PATH)
"""
_RENAMED = """
os.rename(PATH, PATH + ".moved"); unix(PATH + ".moved")
"""
_SECOND_NAME = """
os.link(PATH, PATH + ".second"); unix(PATH + ".second")
"""

TRICKS = (
    _trick("link", _LINK),
    _trick("relative", _RELATIVE),
    _trick("descriptor", _BY_DESCRIPTOR),
    _trick("folder", _BY_FOLDER),
    _trick("own-root", _ROOT_OF % "'self', 'thread-self'"),
    _trick("guards-root", _ROOT_OF % "GUARD, 1"),
    _trick("datagram", _SENT_TO, "dgram"),
    _trick("rights", _SENT_RIGHTS, "dgram"),
    _trick("packets", "unix(PATH, 'seqpacket')", "seqpacket"),
    _trick("new-mounts", _NEW_MOUNTS),
    _trick("changed-root", _CHANGED_ROOT),
    _trick("thread", _IN_THREAD),
    _trick("curl", _CURL),
    _trick("undumpable", _UNDUMPABLE, silent=UNREADABLE),
    _trick("other-user", _OTHER_USER),
    _trick("renamed", _RENAMED),
    _trick("second-name", _SECOND_NAME),
)

LATER = (
    _late("docker", "/run/docker.sock"),
    _late("in-folder", "/run/podman/late.sock"),
    _late("in-new-folder", "/run/libpod/late/api.sock"),
    _late("runtime", "{runtime}/late-bus"),
    _late("tmp", "/tmp/late-tmux"),
)

NAMELESS = (
    Way("abstract", "names without a file", "unix('@of-a-service')", "@of-a-service", _APART,
        ("@of-a-service stream",)),
    Way("abstract-datagram", "names without a file", "unix('@of-datagrams', 'dgram')", "@of-datagrams", _APART,
        ("@of-datagrams dgram",)),
    Way("abstract-packets", "names without a file", "unix('@of-packets', 'seqpacket')", "@of-packets", _APART,
        ("@of-packets seqpacket",)),
    Way("abstract-bus", "names without a file", "unix('@/tmp/dbus-abc')", "@/tmp/dbus-abc", _APART,
        ("@/tmp/dbus-abc stream",)),
    Way("abstract-display", "names without a file", "unix('@/tmp/.X11-unix/X0')", "@/tmp/.X11-unix/X0", _DISPLAY,
        ("@/tmp/.X11-unix/X0 stream",)),
)  # fmt: skip

WAYS = (*_LISTED, *TRICKS, *NAMELESS, *LATER)
"""Those that come later are last: they make folders that were not there."""
