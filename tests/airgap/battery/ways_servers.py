"""Servers that other machines could reach: each waits for a visitor, whom the other machine sends over the cable."""

from __future__ import annotations

from airgap.battery.way import Way

_SILENT = {"both": "a server that waits names no place"}
_NO_6 = "if not os.path.exists('/proc/net/if_inet6'): lacks('no IPv6')\n"
_SERVE = """
def visited(server, family=4, kind="tcp"):
    def serve():
        with trying():
            if kind == "tcp": server.accept()[0].send(WORD)
            else: server.sendto(WORD, server.recvfrom(9)[1])
    threading.Thread(target=serve, daemon=True).start()
    outside(f"visit {kind} {family} {SERVER}")
def listening(host="0.0.0.0", family=2, protocol=0):
    one = socket.socket(family, 1, protocol)
    one.bind((host, SERVER)); one.listen()
    return one
def receiving(host="0.0.0.0", family=2):
    one = socket.socket(family, 2)
    one.bind((host, SERVER))
    return one
"""
_UNDUMPABLE = "libc.prctl(4, 0, 0, 0, 0)\n"
_OWN_DESCRIPTORS = """
def work():
    libc.unshare(0x400)  # CLONE_FILES, for this thread
    visited(listening())
thread = threading.Thread(target=work); thread.start(); thread.join()
"""
_PASSED = """
ours, theirs = socket.socketpair()
if os.fork() == 0:
    one = socket.socket(); one.bind(("0.0.0.0", SERVER)); socket.send_fds(theirs, [b"."], [one.fileno()]); os._exit(0)
_, fds, _, _ = socket.recv_fds(ours, 9, 1)
one = socket.socket(fileno=fds[0]); one.listen(); visited(one)
"""
_UNBOUND = """
one = listening()
with trying(): one.setsockopt(1, 25, b"")
with trying(): one.setsockopt(1, 62, struct.pack("i", 0))
visited(one)
"""


def _server(name: str, code: str) -> Way:
    return Way(name, "servers", _SERVE + code, silent=_SILENT)


WAYS = (
    _server("server", "visited(listening())"),
    _server("server-6", _NO_6 + "visited(listening('::', 10), 6)"),
    _server("server-dual", _NO_6 + "visited(listening('::', 10), 4)"),
    _server("server-own-address", "visited(listening('192.0.2.1'))"),
    _server("server-mptcp", "visited(listening(protocol=262))"),
    _server("server-not-on-lo", _UNBOUND),
    _server("server-undumpable", _UNDUMPABLE + "visited(listening())"),
    _server("server-undumpable-6", _NO_6 + _UNDUMPABLE + "visited(listening('::', 10), 6)"),
    _server("server-own-descriptors", _OWN_DESCRIPTORS),
    _server("server-passed", _PASSED),
    _server("server-udp", "visited(receiving(), kind='udp')"),
    _server("server-udp-6", _NO_6 + "visited(receiving('::', 10), 6, 'udp')"),
    _server("server-udp-undumpable", _UNDUMPABLE + "visited(receiving(), kind='udp')"),
)
