"""The facts that the checks look at, as plain values. launch/gathering.py and the session gather them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aider_guard.config import Config
from aider_guard.core.egress import ENFORCED, LayerChoice
from aider_guard.core.fit import Fit
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch.aider_settings import AiderSettings

NOT_ASKED = Unavailable("not asked: nothing is sent to an address that only the repository names")
"""In place of a report on a server that was not asked."""
NOT_TRIED = Unavailable("which layer this system allows was not tried")


@dataclass(frozen=True)
class RepoFacts:
    """What of the repository matters: active git hooks, the program that runs its tests, and its size."""

    hooks: tuple[str, ...] = ()
    test_runner: str = ""
    tracked_files: int | Unavailable = Unavailable("git's index was not read")
    """How many files git has in the repository."""
    has_aiderignore: bool = False


@dataclass(frozen=True)
class Facts:
    """What is known before the first prompt.

    ``window_tokens`` is the window that the session pins, ``fit`` says whether the models fit with it.
    """

    config: Config
    settings: AiderSettings | Unavailable
    server: ServerReport | Unavailable
    memory: MemoryReading | Unavailable = Unavailable("the memory was not read")
    window_tokens: int | Unavailable = Unavailable("the window is not chosen yet")
    fit: Fit | Unavailable = Unavailable("not computed")
    repo: RepoFacts = field(default_factory=RepoFacts)
    state_free_bytes: int | Unavailable = Unavailable("not read")
    aider_script: str = ""
    aider_problem: str = ""
    """Why no Aider can be started; "" when one can."""
    arguments: tuple[str, ...] = ()
    """The user's own arguments for Aider, which a command to paste repeats."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the guard's own environment that matter (addresses only, no keys)."""
    held_windows: Mapping[str, int] = field(default_factory=dict)
    """The windows that other running sessions fix, in tokens, by Ollama's names for their models."""
    air_gap: LayerChoice | Unavailable = NOT_TRIED
    """The best layer of the air gap that this system allows."""

    @property
    def is_held(self) -> bool:
        """Whether the kernel keeps Aider and everything it starts from reaching other machines."""
        is_enforced = isinstance(self.air_gap, LayerChoice) and self.air_gap.layer in ENFORCED
        return is_enforced and self.config.network == "offline"
