"""``python -m aider_guard.demo`` is ``aider-guard demo``."""

import sys

from aider_guard.demo.demo import run_demo

if __name__ == "__main__":
    sys.exit(run_demo())
