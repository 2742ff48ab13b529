"""Plans the launches of one session: the window is the same for all, however the memory changes in between."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aider_guard import paths
from aider_guard.airgap.served import Sandbox
from aider_guard.checks.all import examine
from aider_guard.config import Config
from aider_guard.core.egress import LayerChoice
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.launch.aider import Aider
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.cloud_variables import OLLAMA_ADDRESSES
from aider_guard.launch.door_settings import DoorAddresses
from aider_guard.launch.environment import LocalEnvironment, local_environment
from aider_guard.launch.facts import NOT_TRIED, Facts, RepoFacts
from aider_guard.launch.ollama_address import may_be_asked, ollama_access, ollama_address
from aider_guard.launch.plan import Plan, make_plan
from aider_guard.launch.repository import runner_of_tests, tracked_files
from aider_guard.launch.routes import DoorAddress
from aider_guard.launch.server_runtime import read_corrections
from aider_guard.ollama.access import ServerAccess
from aider_guard.session import registry
from aider_guard.session.start_aider import DoorListener


@dataclass
class Planner:
    """Makes the plan of each launch.

    ``refusing`` is the address of the proxy that refuses everything, ``state_dir`` our own folder, ``door`` where Aider
    finds the door of this session.
    """

    config: Config
    aider: Aider
    environment: Mapping[str, str]
    refusing: str
    state_dir: Path
    door: DoorAddress | None = None
    air_gap: LayerChoice | Unavailable = NOT_TRIED
    arguments: tuple[str, ...] = ()
    """The user's own for Aider."""
    _windows: dict[tuple[str, ...], int] = field(default_factory=dict)

    def server(self, settings: AiderSettings) -> str:
        """Return the address of this session's Ollama."""
        return ollama_address(self.config, settings, self.environment)

    def access(self, settings: AiderSettings) -> ServerAccess:
        """Return this session's Ollama, with the key and headers that Aider sends it."""
        return ollama_access(self.config, settings, self.environment)

    def first_access(self) -> ServerAccess:
        """Return what is probably Ollama, before Aider has named its settings."""
        return ollama_access(self.config, Unavailable("not said yet"), self.environment)

    def patience_seconds(self, usual: float) -> float:
        """Return how long to wait for a reading before Aider begins: the *usual* time, but in tests."""
        return paths.patience_seconds(usual, self.environment)

    def may_ask(self, settings: AiderSettings) -> bool:
        """Whether Ollama may be asked: it is on this machine, or at an address that the user gave."""
        return self.config.network == "open" or may_be_asked(
            self.config, settings, self.environment
        )

    def local_environment(self, settings: AiderSettings) -> LocalEnvironment:
        """Return the variables that keep a session local, without the addresses of the door."""
        return local_environment(self.config, settings, self.server(settings), self.refusing)

    def plan(
        self,
        settings: AiderSettings | Unavailable,
        server: ServerReport | Unavailable,
        memory: MemoryReading | Unavailable,
    ) -> Plan:
        """Make the plan for a launch. Raises LaunchError when one of the user's own files cannot be merged."""
        models = settings.models if isinstance(settings, AiderSettings) else ()
        plan = make_plan(
            self._facts(settings, server, memory, self._windows.get(models, self.config.num_ctx)),
            ollama=self.server(settings) if isinstance(settings, AiderSettings) else "",
            refusing_proxy=self.refusing,
            corrections=read_corrections(self.state_dir),
            examine=examine,
            door_addresses=DoorAddresses(self.door, self.state_dir)
            if self.door is not None
            else None,
        )
        if plan.pins is not None:
            self._windows[models] = plan.pins.window_tokens
        return plan

    def _facts(
        self,
        settings: AiderSettings | Unavailable,
        server: ServerReport | Unavailable,
        memory: MemoryReading | Unavailable,
        window_tokens: int | None,
    ) -> Facts:
        return Facts(
            config=replace(self.config, num_ctx=window_tokens),
            settings=settings,
            server=server,
            memory=memory,
            # To find git's hooks a program would have to run, and the guard's loop waits for none: they are left out.
            repo=RepoFacts(test_runner=runner_of_tests(settings), **_size_of_repository(settings)),
            state_free_bytes=paths.free_bytes(self.state_dir),
            aider_script=self.aider.script,
            air_gap=self.air_gap,
            arguments=self.arguments,
            held_windows=registry.windows_of_others(self.state_dir / "sessions", os.getpid()),
            environment={name: self.environment.get(name, "") for name in OLLAMA_ADDRESSES},
        )


def _size_of_repository(settings: AiderSettings | Unavailable) -> dict[str, Any]:
    root = settings.git_root if isinstance(settings, AiderSettings) else None
    if not root:
        return {}
    ignores = (Path(root) / ".aiderignore").exists()
    return {"tracked_files": tracked_files(Path(root)), "has_aiderignore": ignores}


def planner_behind(
    sandbox: Sandbox,
    listener: DoorListener,
    *,
    config: Config,
    aider: Aider,
    environment: Mapping[str, str],
) -> Planner:
    """Make the planner of a session, or of a run without a conversation, inside this sandbox."""
    return Planner(
        config,
        aider,
        environment,
        sandbox.proxy_url,
        paths.state_dir(environment),
        DoorAddress(listener.port, listener.token),
        sandbox.choice,
    )
