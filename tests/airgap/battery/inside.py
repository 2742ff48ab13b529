"""Stands where Aider would: tries each way out in a process of its own, and writes down what came of it.

Runs with the standard library alone. Its argument is a JSON file with the ways and the facts that they need. The names
below are what the code of a way may use.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

CAP_SECONDS = 20.0
socket.setdefaulttimeout(3)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
FACTS: dict[str, Any] = {}
"""Of the way: its ports, its word, and what stage.py tells to all. Its code has them by their names in capitals."""


class LackingError(Exception):
    """This machine lacks what the way is about."""


def lacks(what: str) -> NoReturn:
    """End: it cannot be tried here."""
    raise LackingError(what)


def trying() -> contextlib.AbstractContextManager[None]:
    """Go on after an error: only the witness counts."""
    return contextlib.suppress(OSError, subprocess.SubprocessError, ValueError)


def address(host: str, port: int) -> bytes:
    """A struct sockaddr_in, or sockaddr_in6."""
    if ":" in host:
        return struct.pack("=H", 10) + struct.pack(
            "!HI16sI", port, 0, socket.inet_pton(10, host), 0
        )
    return struct.pack("=H", 2) + struct.pack("!H4s8x", port, socket.inet_aton(host))


def call(number: int, *words: int) -> int:
    """Make a system call by its number; -1 for an error."""
    result: int = libc.syscall(*map(ctypes.c_long, (number, *words)))
    return result


def speak(to: Any = None, family: int = 2, kind: int = 1, protocol: int = 0) -> None:
    """Connect and send the word."""
    with trying(), socket.socket(family, kind, protocol) as one:
        one.settimeout(3)
        one.connect(to or (FACTS["out"], FACTS["port"]))
        one.send(FACTS["word"])


def unix(path: str, kind: str = "stream") -> None:
    """Send the word to a socket with a path, or a name with @ before it."""
    with trying(), socket.socket(socket.AF_UNIX, getattr(socket, f"SOCK_{kind.upper()}")) as one:
        one.settimeout(3)
        one.connect(path.replace("@", "\0", 1) if path.startswith("@") else path)
        one.send(FACTS["word"])


def outside(order: str) -> None:
    """Have the other machine do something, and wait until it has."""
    with open(FACTS["asking"], "wb", 0) as asking, open(FACTS["answering"], "rb", 0) as answering:
        asking.write(order.encode() + b"\n")
        assert select.select([answering], [], [], 5)[0]
        answering.read(1)


def bystander(order: str = "") -> dict[str, Any]:
    """What a program of the same user outside tells of itself; with an order it does something first (bystander.py)."""
    home = FACTS["home"]
    with open(f"{home}/till/.poke", "wb", 0) as poke, open(f"{home}/till/.poked", "rb", 0) as poked:
        poke.write(order.encode() + b"\n")
        assert select.select([poked], [], [], 5)[0]
        answer: dict[str, Any] = json.loads(poked.read(4096))
        return answer


def sidecar() -> int:
    """The process of the guard's sidecar."""
    for name in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208  # it starts faster without pathlib
        with trying(), open(f"/proc/{name}/cmdline", "rb") as file:
            if b"aider_guard.sidecar" in file.read():
                return int(name)
    return lacks("no sidecar runs")


def compiled() -> str:
    """The programs of attacks.c; each is named by its first argument."""
    return str(FACTS["attacks"] or lacks("no C compiler"))


def attack(name: str, *words: object) -> str:
    """Run one of them, and return what it says."""
    arguments = [compiled(), name, *map(str, words)]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, timeout=CAP_SECONDS
    )
    if done.returncode == 77:
        lacks(done.stdout.strip() or f"no {name}")
    return done.stdout


def ask_guards_door(path: str) -> bytes:
    """Ask the guard's own door, also where the ways need none."""
    FACTS["door"] = FACTS["guards_door"]
    return ask_door("GET", FACTS["guards_base"] + path)


def ask_door(
    method: str, path: str, body: object = None, headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """Send a request to the door, and return what it says. A body is JSON, or bytes as they are."""
    content = (
        body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    )
    lines = [f"{method} {path} HTTP/1.1", f"Host: {FACTS['door_host']}", "Connection: close"]
    names = {name.lower() for name, _ in headers}
    if content and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(content)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return say_to_door("\r\n".join([*lines, "", ""]).encode("latin-1") + content)


def say_to_door(data: bytes) -> bytes:
    """Send these bytes to the door, and return all that it says."""
    said = b""
    with trying(), socket.create_connection(tuple(FACTS["door"]), 3) as door:
        door.sendall(data)
        while more := door.recv(65536):
            said += more
    print(said[:300], flush=True)
    return said


def wait_for_end_of(process: int) -> None:
    """Wait until another process has ended."""
    with trying():
        ended = call(434, process, 0)  # pidfd_open(2)
        select.select([ended], [], [])


def is_left_behind() -> bool:
    """Whether this is the process that lives on: it holds the pipe that shows when all such processes have ended."""
    if os.fork():
        return False
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.open(FACTS["life"], os.O_WRONLY)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    return True


@contextlib.contextmanager
def other_thread(work: Any) -> Iterator[None]:
    """Do this again and again in another thread."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            with trying():
                work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _run(one: dict[str, Any]) -> None:
    """Try it; in the child. The exit status is 77 where the machine lacks something."""
    os.setpgid(0, 0)
    FACTS.update(one["facts"], word=one["facts"]["word"].encode())
    names = dict(globals(), **{key.upper(): value for key, value in FACTS.items()})
    status = 0
    try:
        exec(compile(one["code"], one["id"], "exec"), names)  # what this file is for
    except LackingError as error:
        print(error, flush=True)
        status = 77
    except (OSError, subprocess.SubprocessError) as error:
        print(repr(error), flush=True)
    except SystemExit:
        pass
    except BaseException:  # noqa: BLE001  # a fault of the way
        traceback.print_exc(file=sys.stdout)
        status = 70
    sys.stdout.flush()
    os._exit(status)


def try_way(one: dict[str, Any]) -> dict[str, Any]:
    """Try one way, and wait for all its processes but those that are left behind."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        for number in (1, 2):
            os.dup2(writing, number)
        os.close(writing)
        _run(one)
    os.close(writing)
    said, until = b"", time.monotonic() + CAP_SECONDS
    is_over = False
    while not is_over and select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        more = os.read(reading, 65536)
        said, is_over = said + more, not more
    os.close(reading)
    if not is_over:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    how = os.waitstatus_to_exitcode(status)
    return {
        "number": one["number"],
        "lacks": said.decode("utf-8", "replace").strip() if how == 77 else "",
        "said": said[-2000:].decode("utf-8", "replace"),
        "fault": how == 70 or not is_over,
    }


def main() -> None:
    """Try all, in their order."""
    with open(sys.argv[1], encoding="utf-8") as file:
        batch = json.load(file)
    door = os.environ.get("OLLAMA_API_BASE", "http://127.0.0.1:1")
    host, _, token = door.removeprefix("http://").partition("/")
    place, base = (host.rpartition(":")[0], int(host.rpartition(":")[2])), f"/{token}".rstrip("/")
    facts = {
        "guard": os.getppid(),
        "door": place,
        "door_host": host,
        "base": base,
        "guards_door": place,
        "guards_base": base,
        **batch["facts"],
    }
    print("begun", flush=True)
    with open(batch["results"], "a", encoding="utf-8") as results:
        for one in batch["ways"]:
            began = time.monotonic()
            one["facts"] = {**facts, **one["facts"]}
            result = {**try_way(one), "seconds": time.monotonic() - began}
            results.write(json.dumps(result) + "\n")
            results.flush()


_USED_BY_WAYS = (errno, fcntl)

if __name__ == "__main__":
    main()
