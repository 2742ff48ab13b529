"""Programs inside the seccomp layer that mean to get out: each way first shown to work without it, where it does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from airgap.seccomp_world import PRELUDE, HostServers, World, compiled, host_servers, world

from aider_guard.airgap.bpf import CALLS

TIMES = 400


@pytest.fixture(scope="module")
def flipping(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of flipping.c."""
    return compiled("flipping", tmp_path_factory.mktemp("flipping"))


@pytest.mark.parametrize("how", ["connect", "sendto", "sendmsg"])
def test_an_address_that_changes_meanwhile(
    here: World, host: HostServers, flipping: str, how: str
) -> None:
    """Another thread turns an allowed address into a forbidden one and back: none of hundreds comes through."""
    code = """
server = socket.create_server(("127.0.0.1", 0), backlog=4096)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0))
own = (server if arguments[1] == "connect" else udp).getsockname()[1]
import subprocess
subprocess.run([arguments[0], arguments[1], str(own), *arguments[2:]], check=True)
tell(own)
"""
    bare = subprocess.run([flipping, how, str(host.port), str(host.port), "1"], check=False)
    assert bare.returncode == 0
    assert host.seen() == 1

    assert here.run(code, [flipping, how, str(host.port), str(TIMES)])
    assert host.seen() == 0
    assert 0 < len(here.attempts) < TIMES  # the race was one: both addresses were seen


GUARD = """
import sys
sys.path[:0] = sys.argv[1:]
from airgap.seccomp_world import world
with world() as here:
    process = here.start('''
import time
udp, made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), [socket.socket() for _ in range(200)]
tell(os.getpid())
seen, until = set(), time.monotonic() + 15
while "ENOSYS" not in seen and time.monotonic() < until:
    seen.add(error_of(lambda: socket.socket().connect(("127.0.0.1", arguments))))
for tcp in made:
    seen.add(error_of(tcp.connect, ("127.0.0.1", arguments)))
    seen.add(error_of(udp.sendto, b"x", ("127.0.0.1", arguments)))
tell(sorted(seen))
''', PORT, stdout=None)
    here.loop.run(lambda: False)
"""


def test_the_guard_is_killed(host: HostServers) -> None:
    """kill -9 of the guard while a program tries and tries: not one connection, before or after."""
    tests, project = Path(__file__).parents[1], Path(__file__).parents[2]
    script = GUARD.replace("PORT", str(host.port))
    command = [sys.executable, "-c", script, str(tests), str(project)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as guard:
        assert guard.stdout is not None
        inside = int(guard.stdout.readline())
        try:
            guard.send_signal(signal.SIGKILL)
            result = guard.stdout.readline()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inside, signal.SIGKILL)

    assert "ENOSYS" in result
    assert '""' not in result
    assert host.seen() == 0


def test_the_guard_cannot_be_looked_into(here: World) -> None:
    """Neither its memory nor its descriptors are to be had; while it serves, it can look into what is inside."""
    code = """
fd = libc.syscall(434, arguments, 0)
taken = libc.syscall(438, fd, 0, 0)
error = errno.errorcode[ctypes.get_errno()]
tell([error_of(open, f"/proc/{arguments}/mem", "r+b"), taken, error, libc.ptrace(16, arguments, 0, 0)])
"""
    memory, taken, error, traced = here.run(code, os.getpid())

    assert memory in {"EACCES", "EPERM"}
    assert (taken, error) == (-1, "EPERM")
    assert traced == -1


LOOKS = """
fd = libc.syscall(434, arguments, 0)
tell([error_of(open, f"/proc/{arguments}/mem", "r+b"), libc.syscall(438, fd, 0, 0) >= 0,
      libc.ptrace(16, arguments, 0, 0)])
"""


def test_other_processes_of_the_user(here: World) -> None:
    """A shell outside cannot be made to connect: it may not be traced from inside, where it may be from outside."""
    outside = [sys.executable, "-I", "-S", "-c", PRELUDE + LOOKS]
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            number = str(bystander.pid)
            bare = subprocess.run([*outside, number], capture_output=True, text=True, check=True)
            result = here.run(LOOKS, bystander.pid)
        finally:
            bystander.kill()
    if bare.stdout != '["", true, 0]\n':
        pytest.skip("this system forbids it to everybody")

    assert result[0] in {"EACCES", "EPERM"}
    assert result[1:] == [False, -1]


def test_a_debugger_inside(here: World) -> None:
    """Programs inside may trace each other, as gdb and strace do; files move between folders as before."""
    code = """
import subprocess, tempfile
own = subprocess.Popen(["sleep", "60"])
try:
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(f"{folder}/a"); os.makedirs(f"{folder}/b")
        open(f"{folder}/a/x", "w").close(); os.rename(f"{folder}/a/x", f"{folder}/b/x")
        moved = os.listdir(f"{folder}/b")
    tell([error_of(open, f"/proc/{own.pid}/mem", "r+b"), moved])
finally:
    own.kill(); own.wait()
"""
    assert here.run(code) == ["", ["x"]]


def test_the_guard_itself_is_not_to_be_looked_into(host: HostServers) -> None:
    """While it serves, also to processes of the same user that are not inside; afterwards it is as before."""
    with host_servers(), world() as here:
        before = os.stat("/proc/self/mem").st_uid
        assert here.run("tell(1)") == 1
        during = os.stat("/proc/self/mem").st_uid
    after = os.stat("/proc/self/mem").st_uid

    assert (before, during, after) == (os.geteuid(), 0, os.geteuid())
    assert host.seen() == 0


def test_a_datagram_socket_never_leaves_the_loopback(here: World) -> None:
    """By the kernel, from its beginning on and after each use: also what the guard did not see would stay."""
    code = """
import fcntl
def device(sock):
    return sock.getsockopt(socket.SOL_SOCKET, 25, 16).rstrip(b"\\0").decode()
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
told = [device(plain), device(six), os.get_blocking(plain.fileno()), os.get_blocking(six.fileno()),
        fcntl.fcntl(six.fileno(), fcntl.F_GETFD)]
raw = libc.socket(2, 2, 0)
told.append(fcntl.fcntl(raw, fcntl.F_GETFD))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); server.bind(("127.0.0.1", 0))
plain.connect(server.getsockname())
libc.connect(plain.fileno(), bytes(16), 16)  # AF_UNSPEC: ends it, and forgets the device
told += [device(plain), error_of(plain.setsockopt, socket.SOL_SOCKET, 25, b"")]
tell(told)
"""
    assert here.run(code) == ["lo", "lo", True, False, 1, 0, "lo", "EPERM"]


def test_too_many_descriptors(here: World) -> None:
    """The error is the program's own."""
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))
held, error = [], ""
while not error and len(held) < 9:
    error = error_of(lambda: held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
tell(error)
"""
    assert here.run(code) == "EMFILE"
    assert here.attempts == []


def test_a_thread_with_descriptors_of_its_own(here: World, host: HostServers) -> None:
    """The guard takes sockets from the process: a thread whose numbers mean others is refused."""
    code = """
pair = socket.socketpair()
number = pair[0].fileno()
told = []
to = ("127.0.0.1", arguments)
def other():
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    os.dup2(udp.fileno(), number)
    again = socket.socket(fileno=number)
    told.append(error_of(udp.sendmsg, [b"x"], [], 0, to))
    told.append(error_of(again.sendmsg, [b"x"], [], 0, to))
    again.detach()
thread = threading.Thread(target=other); thread.start(); thread.join()
tell(told)
"""
    result = here.run(code, host.port)

    assert set(result) <= {"EPERM", "EBADF"}
    assert "EPERM" in result
    assert host.seen() == 0


def test_bad_pointers_and_lengths(here: World) -> None:
    """Whatever the arguments are, the guard answers with an error and goes on."""
    code = """
sock = socket.socket(); udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); pair = socket.socketpair()[0]
here = ctypes.create_string_buffer(256)
wild = [0, 1, 8, 16, 128, 1 << 31, (1 << 32) - 1, 1 << 47, 1 << 63, (1 << 64) - 1, ctypes.addressof(here)]
sixty_four = lambda *values: [ctypes.c_uint64(value) for value in values]
calls = {"x86_64": (42, 44, 46, 307, 49, 50), "aarch64": (203, 206, 211, 269, 200, 201)}[os.uname().machine]
import random
chance = random.Random(7)
count = 0
for _ in range(600):
    fd = chance.choice([sock.fileno(), udp.fileno(), unix.fileno(), pair.fileno(), 0, 99, (1 << 32) - 1])
    result = libc.syscall(*sixty_four(chance.choice(calls), fd, *[chance.choice(wild) for _ in range(5)]))
    count += 1
tell(count)
"""
    assert here.run(code) == 600
    assert here.run("tell(1)") == 1


SECOND_LISTENER = """
import time
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
code = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000))  # allow every call
program = Program(1, ctypes.addressof(code))
def listen():
    if libc.syscall(arguments[1], 1, 8, ctypes.byref(program)) < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
tell(error_of(listen))
os.read(arguments[0], 1)
tell(error_of(listen))
"""


def test_a_listener_of_its_own_once_the_guards_is_closed() -> None:
    """It would answer in the guard's place; the kernel itself allows one again when the first is gone."""
    reading, writing = os.pipe()
    number = CALLS[os.uname().machine].seccomp
    with os.fdopen(writing, "wb", 0) as go, os.fdopen(reading, "rb", 0):
        with world() as here:
            program = here.start(SECOND_LISTENER, [reading, number], pass_fds=(reading,))
            before = here.next(program)
        go.write(b".")
        assert program.stdout is not None
        with program.stdout:
            after = json.loads(program.stdout.readline())
        program.wait()
    assert (before, after) == ("EBUSY", "EBUSY")
