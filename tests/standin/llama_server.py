"""Serves one model with llama.cpp's own server, as the ``llama-server`` below a real Ollama does: the child program.

It runs in the private Aider's Python, with ``xllamacpp`` and the tests' folder on its path. The first line of its
stdin is a JSON list: the command line with which a real ``llama-server`` would have been started. Others see that one.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from typing import Any

from standin import process_title

LOG_VERBOSITY = 4


def main() -> None:
    """Serve until a signal ends it, or until the process that started it ends."""
    process_title.end_with_parent(int(sys.argv[1]), signal.SIGKILL)
    words: list[str] = json.loads(sys.stdin.readline())
    process_title.show(words)
    server = serve(words)
    signal.pause()
    del server


def serve(words: list[str]) -> Any:
    """Start the server that this command line describes; it listens before it has loaded its model."""
    xllamacpp = importlib.import_module("xllamacpp")
    values = dict(zip(words, [*words[1:], ""], strict=True))
    parameters = xllamacpp.CommonParams()
    parameters.model.path = values["--model"]
    parameters.hostnames = [values["--host"]]
    parameters.port = int(values["--port"])
    parameters.n_ctx = int(values["-c"])
    parameters.n_parallel = int(values["-np"])
    parameters.n_batch = int(values["-b"])
    parameters.n_ubatch = int(values["-ub"])
    parameters.verbosity = LOG_VERBOSITY
    parameters.ui = False
    # It would find that all fits, as there is no card, in half the time of a start.
    parameters.fit_params = False
    parameters.offline = True
    parameters.ctx_shift = "--context-shift" in values
    parameters.n_keep = int(values.get("--keep", 0))
    if "--no-jinja" in values:
        parameters.use_jinja = False
        parameters.chat_template = values["--chat-template"]
    if values.get("--load-mode") == "none":
        parameters.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    # With two threads on a busy machine of two cores, each waits for the other at every layer: 2 tokens/s, not 25.
    threads = int(values.get("-t", 1))
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    main()
