"""``python -m aider_guard`` and the command ``aider-guard``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, and end with its status."""
    from aider_guard.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
