"""Whether the main model is in memory while nobody asks it for anything, and whether it should be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Presence:
    """What is known of the main model between two requests."""

    listed: bool = False
    """Whether Ollama's newest list has it."""
    due: bool = False
    """Whether it is to be loaded at the next prompt: it left the list, or Ollama was not there to load it before."""
    brought_back: bool = False
    """Whether that was done already since the last request: who unloads it once more wants the memory."""
    talked_to: str = ""
    """The model that the newest message went to."""
