"""Has all code of the guard and its helpers loaded before Aider begins, where the kernel holds what runs inside.

What a program inside writes on the disk is then not run outside in this session: not by the guard, which loads nothing
more from files that this user may change, and not by a helper that is started again (process_starter.py).
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Final

from aider_guard.airgap.served import Sandbox
from aider_guard.core.egress import ENFORCED
from aider_guard.process_starter import ProcessStarter, forbid_loading

HELPERS: Final = (
    # What the processes for drivers load; what the sidecar loads, then or later, and the libraries it uses; the
    # counter's.
    "aider_guard.sidecar.nvml",
    "aider_guard.sidecar.drm",
    "encodings.idna",
    "psutil",
    "yaml",
    "anyio._backends._asyncio",
    "httpcore._backends.anyio",
    "httpcore._backends.sync",
    "uvicorn.lifespan.off",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.httptools_impl",
    "tiktoken_ext.openai_public",
    "aider_guard.counting.files",
    "aider_guard.paths",
    "aider_guard.ollama.log_files",
    "aider_guard.door.log_watch",
    "aider_guard.door.model_info",
    "aider_guard.door.prompt_counter",
    "aider_guard.door.residency",
    "aider_guard.door.server",
    "aider_guard.sidecar.gpu",
    "aider_guard.sidecar.machine_use",
    "aider_guard.sidecar.memory",
    "aider_guard.sidecar.other_gpus",
    "aider_guard.sidecar.relays",
    "aider_guard.sidecar.unloading",
    "aider_guard.sidecar.__main__",
    "aider_guard.counting.process",
)
"""The modules of the sidecar and its helpers, for a ``ProcessStarter``."""
_GUARD: Final = (
    "encodings.idna",
    "psutil",
    "aider_guard.airgap.filter_server",
    "aider_guard.airgap.proxy",
    "aider_guard.airgap.unix_sockets",
    "aider_guard.core.egress_messages",
    "aider_guard.journal",
    "aider_guard.session.notices",
)
"""What the guard itself loads late."""


@contextmanager
def helper_starter(sandbox: Sandbox) -> Iterator[ProcessStarter | None]:
    """Start what starts the helpers; None where the air gap is not enforced: there the guard starts them itself."""
    if sandbox.gap.layer in ENFORCED and sys.platform == "linux":
        with ProcessStarter(HELPERS) as starter:
            yield starter
    else:
        yield None


def finish_loading(starter: ProcessStarter | None, encoding: str = "utf-8") -> None:
    """Load what the guard needs later, and nothing from then on. Called before each time that Aider begins.

    ``encoding`` is that of Aider's files: Python loads the module of one when it is used first.
    """
    if starter is not None and not starter.is_final:
        for module in _GUARD:
            import_module(module)
        with suppress(LookupError):  # Aider refuses it
            codecs.lookup(encoding)
        forbid_loading()
        starter.is_final = True
