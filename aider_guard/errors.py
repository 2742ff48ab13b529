"""Declares the errors that end aider-guard itself.

GuardError
├── ConfigError      a setting is wrong: says which, where it came from and what is allowed   (exit 64)
├── TerminalError    the terminal cannot be used as one                                       (exit 69)
└── LaunchError      Aider cannot be started                                                  (exit 78)
    └── LaunchRefusedError   Aider could be started, and must not be: the findings say why

Readings never raise: what cannot be measured is ``Unavailable(reason)`` (core/readings.py).
Exit codes are those of sysexits(3), so that they cannot be taken for Aider's own 0, 1 and 2.
"""

from __future__ import annotations


class GuardError(Exception):
    """One clear sentence for the user, and the exit status that goes with it."""

    exit_code = 70


class ConfigError(GuardError):
    """A flag, environment variable or settings file holds something that cannot be used."""

    exit_code = 64


class TerminalError(GuardError):
    """The terminal went away or cannot do what a terminal must."""

    exit_code = 69


class LaunchError(GuardError):
    """Aider was not found, or cannot be started."""

    exit_code = 78


class LaunchRefusedError(LaunchError):
    """The checks forbid this launch; the text is their findings with the fixes."""
