"""What programs inside the seccomp layer send by the guard: large messages, descriptors, waiting, signals, users."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
from airgap.seccomp_world import World, world

from aider_guard.airgap import notify, rules
from aider_guard.airgap.rules import OwnServers
from aider_guard.airgap.unix_sockets import KnownSockets

PAIRS = """
import hashlib
def tcp_pair():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    return client, server.accept()[0]
pairs = {"unix": lambda: socket.socketpair(), "tcp": tcp_pair,
         "packets": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)}
one, other = pairs[arguments]()
"""


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_large_message_of_a_stream(here: World, kind: str) -> None:
    """A blocking call sends all of it, however slowly it is read, in its order, while others are served."""
    code = """
sent = os.urandom(3_000_000)
heard = hashlib.sha256()
def hear():
    os.read(go[0], 1)
    while piece := other.recv(100_000):
        heard.update(piece)
go = os.pipe()
thread = threading.Thread(target=hear); thread.start()
def send():
    count.append(one.sendmsg([sent[:7], sent[7:1_000_000], b"", sent[1_000_000:]]))
    one.shutdown(socket.SHUT_WR)
count = []
sender = threading.Thread(target=send); sender.start()
for _ in range(20):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
os.write(go[1], b".")
sender.join(); thread.join()
tell([count, heard.hexdigest() == hashlib.sha256(sent).hexdigest()])
"""
    assert here.run(PAIRS + code, kind) == [[3_000_000], True]
    assert here.attempts == []


@pytest.mark.parametrize("kind", ["unix", "tcp", "packets"])
def test_a_full_socket(here: World, kind: str) -> None:
    """A non-blocking call sends what there is room for, then fails; one with a timeout of the kernel's ends with it."""
    code = """
data = bytes(100_000)
one.setblocking(False)
counts = []
send = lambda: counts.append(one.sendmsg([data]))
while not (error := error_of(send)):
    pass
sent = sum(counts)
one.setblocking(True)
one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 60000))
late = error_of(one.sendmsg, [data])
heard = 0
other.settimeout(5)
while heard < sent:
    heard += len(other.recv(200_000))
tell([error, late, heard - sent])
"""
    assert here.run(PAIRS + code, kind) == ["EAGAIN", "EAGAIN", 0]


@pytest.mark.parametrize("kind", ["unix", "tcp", "packets"])
def test_a_signal_ends_a_call_that_waits(here: World, kind: str) -> None:
    """Its handler runs at once, as Ctrl-C must; the call goes on afterwards where the handler wants that."""
    code = """
import signal
def fill():
    one.setblocking(False)
    while not error_of(one.sendmsg, [bytes(100_000)]):
        pass
    one.setblocking(True)
fill()
seen = []
def interrupt(*_):
    seen.append(1)
    if len(seen) == 2:
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
try:
    while True:  # the kernel may find a little more room in a full socket
        one.sendmsg([bytes(100_000)])
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0)
    tell(seen)
"""
    assert here.run(PAIRS + code, kind) == [1, 1]


def test_a_stream_that_is_not_read_any_more(here: World) -> None:
    """The program gets the signal that it would get outside, unless it asks for none."""
    code = """
import signal
other.close()
quiet = error_of(one.sendmsg, [b"x"], [], socket.MSG_NOSIGNAL)
pid = os.fork()
if not pid:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    one.sendmsg([b"x"])
    os._exit(1)
tell([quiet, os.waitpid(pid, 0)[1]])
"""
    assert here.run(PAIRS + code, "unix") == ["EPIPE", 13]


DESCRIPTORS = """
reading, writing = os.pipe()
def carry(sender, receiver, *to):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("ii", writing, writing))]
    sender.sendmsg([b"da", b"ta"], rights, 0, *to)
    data, fds, *_ = socket.recv_fds(receiver, 9, 4)
    os.write(fds[1], b"through")
    return [data.decode(), len(fds), os.read(reading, 9).decode()]
pair = lambda kind: socket.socketpair(socket.AF_UNIX, kind)
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); server.bind("\\0aider-guard-own-%d" % os.getpid())
client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
found = [carry(*pair(kind)) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)]
found.append(carry(client, server, server.getsockname()))
one, other = pair(socket.SOCK_STREAM)
bad = lambda control: error_of(one.sendmsg, [b"x"], control)
tell([found, bad([(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 999))]),
      bad([(socket.SOL_SOCKET, 2, struct.pack("iII", os.getpid(), os.geteuid(), os.getegid()))]),
      bad([(socket.SOL_SOCKET, 2, struct.pack("iII", 1, 0, 0))])])
"""


def test_descriptors_are_carried() -> None:
    """By each kind of Unix socket, with an address and without; not those that are not the program's own."""
    with world() as here:
        found, missing, own, others = here.run(DESCRIPTORS)

    assert found == [["data", 2, "through"]] * 4
    assert (missing, own, others) == ("EBADF", "", "EINVAL")


def test_many_messages_of_a_stream(here: World) -> None:
    """The first is sent, with its length; the program sends the rest."""
    code = """
class Many(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("length", ctypes.c_uint), ("parts", ctypes.c_void_p),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("clen", ctypes.c_size_t),
                ("flags", ctypes.c_size_t), ("sent", ctypes.c_size_t)]
text = ctypes.create_string_buffer(b"12345", 5)
part = (ctypes.c_size_t * 2)(ctypes.addressof(text), 5)
two = (Many * 2)(*[(None, 0, ctypes.addressof(part), 1, None, 0, 0, 0)] * 2)
result = libc.sendmmsg(one.fileno(), ctypes.byref(two), 2, 0)
tell([result, [found.sent for found in two], other.recv(20).decode()])
"""
    assert here.run(PAIRS + code, "unix") == [2, [5, 5], "1234512345"]


def test_fast_open_is_refused_for_every_socket(here: World) -> None:
    """With the place that was meant, whatever socket it was; a connection by the first thing that is sent, as any."""
    code = """
to, fast = ("192.0.2.10", 443), 0x20000000
raw = struct.pack("<H", 2) + struct.pack("!H4s8x", 443, socket.inet_aton("192.0.2.10"))
def sendto(sock):
    if libc.sendto(sock.fileno(), b"x", 1, fast, raw, 16) < 0:
        raise OSError(ctypes.get_errno(), "sendto")
tcp, late = socket.socket(), socket.socket()
late.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
tell([error_of(sendto, socket.socketpair()[0]), error_of(sendto, tcp), error_of(tcp.sendmsg, [b"x"], [], fast, to),
      error_of(late.connect, to)])
"""
    assert here.run(code) == ["EPERM"] * 3 + ["ECONNREFUSED"]
    assert here.kinds() == {("192.0.2.10", 443, "tcp")}
    assert len(here.attempts) == 4


def test_a_kernel_that_gives_descriptors_in_two_steps(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One older than 5.14 knows no flag that answers as well: the socket is the guard's there, too."""
    monkeypatch.setattr(notify, "_AND_SEND", 1 << 30)
    code = """
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
tell([sock.getsockopt(socket.SOL_SOCKET, 25, 16).rstrip(b"\\0").decode(), os.get_inheritable(sock.fileno())])
"""
    assert here.run(code) == ["lo", False]


def test_every_internet_socket_stays_on_the_loopback(here: World) -> None:
    """From its creation on: TCP, MPTCP, what is accepted, and after its association ended. No option changes it."""
    code = """
def device(sock):
    return sock.getsockopt(socket.SOL_SOCKET, 25, 16).rstrip(b"\\0").decode()
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted = server.accept()[0]
six = socket.socket(socket.AF_INET6)
several = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
several.connect(server.getsockname())
found = [device(one) for one in (server, client, accepted, six, several)]
libc.connect(client.fileno(), bytes(16), 16)  # AF_UNSPEC
found.append(device(client))
options = [(1, 25, b""), (1, 25, b"eth0"), (1, 62, bytes(4)), (0, 50, struct.pack("!I", 1)), (41, 76, bytes(4))]
errors = {error_of(sock.setsockopt, *option) for sock in (client, accepted, six) for option in options}
tell([sorted({*found}), sorted(errors), error_of(socket.socketpair, 30, 5)])
"""
    assert here.run(code) == [["lo"], ["EPERM"], "EAFNOSUPPORT"]


def test_an_undumpable_server_is_reached_from_inside(here: World) -> None:
    """The guard knows its socket from its creation on, and need not look into it."""
    code = """
ready, go = os.pipe(), os.pipe()
pid = os.fork()
if not pid:
    libc.prctl(4, 0, 0, 0, 0)
    server = socket.create_server(("127.0.0.1", 0))
    os.write(ready[1], struct.pack("i", server.getsockname()[1]))
    os._exit(server.accept()[0].recv(9) != b"hello")
port, = struct.unpack("i", os.read(ready[0], 4))
socket.create_connection(("127.0.0.1", port)).sendall(b"hello")
tell(os.waitpid(pid, 0)[1])
"""
    assert here.run(code) == 0
    assert here.attempts == []


def test_an_ssh_agent(here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forbids to be looked into, and serves all the same."""
    if shutil.which("ssh-agent") is None or shutil.which("ssh-add") is None:
        pytest.skip("no ssh-agent")
    monkeypatch.chdir(tmp_path)
    code = """
import subprocess
agent = subprocess.Popen(["ssh-agent", "-D", "-a", "agent"], stdout=subprocess.PIPE)
agent.stdout.readline()
done = subprocess.run(["ssh-add", "-l"], env={**os.environ, "SSH_AUTH_SOCK": "agent"}, capture_output=True)
agent.kill(); agent.wait()
tell([done.returncode, done.stdout.decode()])
"""
    assert here.run(code) == [1, "The agent has no identities.\n"]


OTHER_USER = """
pid = os.fork()
if not pid:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    os.chdir(arguments)
    errors = [error_of(socket.socket(socket.AF_UNIX).connect, name) for name in ("closed", "open")]
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    errors.append(error_of(datagram.sendto, b"x", "closed-too"))
    tell(errors)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_the_guard_connects_as_the_programs_user() -> None:
    """A program of another user's reaches what that one may, and who is asked hears that one."""
    folder = Path("/tmp") / f"aider-guard-users-{os.getpid()}"  # one that others may enter
    folder.mkdir(mode=0o755)
    known = KnownSockets(tuple(str(folder / name) for name in ("closed", "open", "closed-too")))
    try:
        with (
            world(known=known) as here,
            socket.socket(socket.AF_UNIX) as closed,
            socket.socket(socket.AF_UNIX) as opened,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closed_too,
        ):
            for sock, name, mode in (
                (closed, "closed", 0o600),
                (opened, "open", 0o666),
                (closed_too, "closed-too", 0o600),
            ):
                sock.bind(str(folder / name))
                (folder / name).chmod(mode)
            closed.listen()
            opened.listen()
            assert here.run(OTHER_USER, str(folder)) == ["EACCES", "", "EACCES"]
            with opened.accept()[0] as peer:
                raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            assert [int.from_bytes(raw[at : at + 4], "little") for at in (4, 8)] == [65534, 65534]
        assert (os.geteuid(), os.getegid()) == (0, 0)
    finally:
        shutil.rmtree(folder)


def test_servers_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sockets are made after them; those that are closed are."""
    monkeypatch.setattr(rules, "_MOST", 64)
    own = OwnServers()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        own.add(server.fileno())
        own.add(udp.fileno())
        for _ in range(500):
            with socket.socket() as client:
                own.add(client.fileno())
        assert own.at("tcp", *server.getsockname()) == own.at("udp", *udp.getsockname()) == "own"
        assert len(own._inodes) <= 64 + 1
