"""Stands where Aider would: the launcher inside Aider's process imports it, and it becomes another program."""

__version__ = "0.86.2"
