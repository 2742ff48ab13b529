"""Runs in the private Aider's Python: ``serve_llama.py MODEL.gguf WINDOW_TOKENS``, until stdin closes.

The server's address is the first line on stdout.
"""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Serve one model with one slot, on a free port of loopback, which is the default of these bindings."""
    xllamacpp = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.n_ctx = int(sys.argv[2])
    parameters.n_parallel = 1
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
