"""What a launch will be: the window, what was found, and what Aider is given. Decided from facts, nothing is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.findings import LEAVES, Finding
from aider_guard.core.fit import Fit, choose_window, fit
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ModelFacts, ServerReport
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.door_settings import DoorAddresses, door_settings, served_windows
from aider_guard.launch.environment import LocalEnvironment, local_environment
from aider_guard.launch.facts import Facts
from aider_guard.launch.pins import OtherServers, Pins, make_pins, read_settings
from aider_guard.launch.routes import find_routes
from aider_guard.launch.server_runtime import Placement, placement


@dataclass(frozen=True)
class Plan:
    """A launch as it will be. ``pins`` is None where Aider's own settings are not known."""

    findings: tuple[Finding, ...] = ()
    fit: Fit | Unavailable = Unavailable("not computed")
    pins: Pins | None = None
    environment: LocalEnvironment = field(default_factory=LocalEnvironment)
    network: Literal["offline", "open"] = "offline"
    door: DoorSettings | None = None
    """What the door serves with; None where the launch has none, or what Aider will use is not known."""
    window_tokens: int | Unavailable = Unavailable("not known")
    """The main model's window."""

    @property
    def said_at_start(self) -> tuple[str, ...]:
        """What every session says once, though nothing is wrong: the one other machine that the code goes to."""
        found = (one for one in self.findings if one.id == "remote-ollama")
        return tuple(one.what for one in found if one.severity == "info")

    @property
    def stops(self) -> tuple[Finding, ...]:
        """What speaks against this launch."""
        return tuple(finding for finding in self.findings if finding.severity == "stop")

    @property
    def leaks(self) -> bool:
        """Whether code would leave the machine."""
        return any(finding.id in LEAVES for finding in self.stops)

    @property
    def is_forbidden(self) -> bool:
        """Whether Aider must not be started: with an open network the user has answered for it."""
        return bool(self.stops) and self.network == "offline"


def make_plan(
    facts: Facts,
    *,
    ollama: str,
    refusing: str,
    corrections: Mapping[str, int],
    examine: Callable[[Facts], tuple[Finding, ...]],
    entrance: DoorAddresses | None = None,
) -> Plan:
    """The plan for a launch on the Ollama at this address.

    *refusing* is the proxy that takes no connection, *examine* makes findings of facts (checks/all.py), and
    *entrance* is where the door is: without one Aider is led nowhere else than it would go.

    Raises LaunchError when one of the user's own files cannot be merged.
    """
    settings, config = facts.settings, facts.config
    if isinstance(settings, Unavailable):
        return Plan(examine(facts), settings, network=config.network)
    entries = read_settings(settings.model_settings_files)
    routes = find_routes(settings, ollama, entries)
    urls = {} if entrance is None else entrance.urls(routes)
    placed = placement(facts.server, facts.memory, corrections)
    facts, pins = _settled(facts, settings, placed, urls)
    ours = local_environment(config, settings, ollama, refusing)
    window = window_of_main(facts, settings, pins)
    plan = Plan(examine(facts), facts.fit, pins, ours, config.network, window_tokens=window)
    if entrance is None:
        return plan
    door = door_settings(
        entrance,
        routes,
        facts,
        settings=settings,
        placed=placed,
        entries=entries,
        windows=pins.windows,
    )
    ours = replace(ours, set={**ours.set, **entrance.variables(routes)})
    return replace(plan, environment=ours, door=door)


def window_of_main(facts: Facts, settings: AiderSettings, pins: Pins) -> int | Unavailable:
    """The window of the main model: the pin, or what another server of this machine said."""
    main = settings.model or ""
    told = served_windows(facts).get(main, Unavailable("no model of this machine's"))
    return pins.windows.get(main, told)


def settled(
    facts: Facts, settings: AiderSettings, corrections: Mapping[str, int]
) -> tuple[Facts, Pins]:
    """The facts with the window that a session takes and whether the models fit with it, and the pins.

    Raises LaunchError when one of the user's own files cannot be merged.
    """
    return _settled(facts, settings, placement(facts.server, facts.memory, corrections), {})


def _settled(
    facts: Facts,
    settings: AiderSettings,
    placed: Placement | Unavailable,
    urls: Mapping[str, str],
) -> tuple[Facts, Pins]:
    fitting = None if isinstance(placed, Unavailable) else choose_window(*placed)
    others = OtherServers(served_windows(facts), urls)
    pins = make_pins(settings, facts.config.num_ctx, trained(facts.server), fitting, others)
    window = pins.window_tokens
    return replace(facts, window_tokens=window, fit=_fit(placed, window)), pins


def _fit(placed: Placement | Unavailable, window_tokens: int) -> Fit | Unavailable:
    if isinstance(placed, Unavailable):
        return placed
    candidates, cards, runtime = placed
    return fit(candidates, cards, window_tokens, runtime)


def trained(server: ServerReport | Unavailable) -> dict[str, int | Unavailable]:
    """The trained context of each model that was asked for and is there."""
    if isinstance(server, Unavailable):
        return {}
    models = server.models.items()
    return {name: model.trained_tokens for name, model in models if isinstance(model, ModelFacts)}
