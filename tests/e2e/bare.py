"""A person who runs Aider itself, without the guard."""

from __future__ import annotations

import re

from e2e.people import Onlooker

UNASKED = ("--no-show-release-notes", "--no-analytics", "--no-check-update")
"""What would be asked or fetched at a first start of bare Aider; the guard says so itself."""


class Bare(Onlooker):
    """Bare Aider keeps no journal: the screen tells when it waits for a message."""

    def is_asked(self) -> bool:
        """Whether the last line on the screen is the main prompt."""
        return re.search(r"(^|\n)\w*>$", self.text().rstrip()) is not None

    def say(self, line: str, question: str = "") -> None:
        """Type a line at the prompt, or at the question, and wait until the screen shows it."""
        self.wait_for(question or self.is_asked)
        self.type(line.encode() + b"\r")
        self.wait_for(lambda: line in self.text())
