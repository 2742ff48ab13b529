"""Plans a launch from facts: the window, the findings, and what Aider is given. Starts and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from aider_guard.core.chat.types import DoorSettings
from aider_guard.core.findings import ELSEWHERE, LEAVES, Finding
from aider_guard.core.fit import Fit, choose_window, fit
from aider_guard.core.model_names import same_model
from aider_guard.core.readings import ModelsReading, Unavailable
from aider_guard.core.server_report import ModelFacts, ServerReport
from aider_guard.launch.aider_settings import AiderSettings, ollama_name
from aider_guard.launch.door_settings import DoorAddresses, door_settings, served_windows
from aider_guard.launch.environment import (
    LocalEnvironment,
    cloud_addresses,
    local_environment,
)
from aider_guard.launch.facts import Facts
from aider_guard.launch.pins import (
    DEFAULT_WINDOW_TOKENS,
    OtherServers,
    Pins,
    make_pins,
    read_settings,
)
from aider_guard.launch.routes import find_routes
from aider_guard.launch.server_runtime import Placement, make_placement


@dataclass(frozen=True)
class Plan:
    """A launch as it will be. ``pins`` is None where Aider's own settings are not known."""

    findings: tuple[Finding, ...] = ()
    fit: Fit | Unavailable = Unavailable("not computed")
    pins: Pins | None = None
    environment: LocalEnvironment = field(default_factory=LocalEnvironment)
    network: Literal["offline", "open"] = "offline"
    door: DoorSettings | None = None
    """The door's settings; None where the launch has no door, or what Aider will use is not known."""
    window_tokens: int | Unavailable = Unavailable("not known")
    """The main model's window."""

    @property
    def start_messages(self) -> tuple[str, ...]:
        """What every session says once, though nothing is wrong: the one other machine that the code goes to."""
        return tuple(
            finding.what
            for finding in self.findings
            if finding.id in ELSEWHERE and finding.severity == "info"
        )

    @property
    def stops(self) -> tuple[Finding, ...]:
        """The findings that forbid this launch while the network is offline."""
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
    refusing_proxy: str,
    corrections: Mapping[str, int],
    examine: Callable[[Facts], tuple[Finding, ...]],
    door_addresses: DoorAddresses | None = None,
) -> Plan:
    """Plan a launch on the Ollama at this address.

    *refusing_proxy* is the address of a proxy that accepts no connection, *examine* makes findings of facts
    (checks/all.py), and *door_addresses* says where the door is; without it Aider's addresses stay as they are.

    Raises LaunchError when one of the user's own files cannot be merged.
    """
    settings, config = facts.settings, facts.config
    if isinstance(settings, Unavailable):
        return Plan(examine(facts), settings, network=config.network)
    entries = read_settings(settings.model_settings_files)
    routes = find_routes(settings, ollama, entries)
    urls = {} if door_addresses is None else door_addresses.urls(routes)
    placement = make_placement(facts.server, facts.memory, corrections)
    facts, pins = pin_window(facts, settings, placement, urls)
    environment = local_environment(config, settings, ollama, refusing_proxy)
    main = settings.model or ""
    reported = served_windows(facts).get(main, Unavailable("no model of this machine's"))
    window = pins.windows.get(main, reported)
    plan = Plan(examine(facts), facts.fit, pins, environment, config.network, window_tokens=window)
    if door_addresses is None:
        return plan
    door = door_settings(
        door_addresses,
        routes,
        facts,
        settings=settings,
        placement=placement,
        entries=entries,
        windows=pins.windows,
    )
    clouds = cloud_addresses(config, settings, ollama, door_addresses.address)
    variables = {**environment.set, **clouds, **door_addresses.variables(routes)}
    return replace(plan, environment=replace(environment, set=variables), door=door)


def shared_window(model: str, facts: Facts, largest: int | None) -> int | None:
    """The window that a session takes over, so that it and others do not reload the model by turns; None for none.

    It is the one that another running session fixes, else the one with which the model is loaded, as it may be left
    from an earlier session: one of at least three quarters of the largest that fits (8192 where that is not known), as
    other programs load models with Ollama's small default, and no larger one than fits that is partly on the CPU.
    """
    held = next(
        (tokens for name, tokens in facts.held_windows.items() if same_model(name, model)), 0
    )
    if held:
        return held
    reading = facts.server.loaded if isinstance(facts.server, ServerReport) else None
    loaded = reading.models if isinstance(reading, ModelsReading) else ()
    listed = next((each for each in loaded if same_model(each.name, model)), None)
    if listed is None or not isinstance(listed.window_tokens, int):
        return None
    if largest is None:
        return listed.window_tokens if listed.window_tokens >= DEFAULT_WINDOW_TOKENS else None
    is_spilled = 0 < listed.vram_bytes < listed.size_bytes and listed.window_tokens > largest
    return None if is_spilled or 4 * listed.window_tokens < 3 * largest else listed.window_tokens


def pin_window(
    facts: Facts,
    settings: AiderSettings,
    placement: Placement | Unavailable,
    urls: Mapping[str, str],
) -> tuple[Facts, Pins]:
    """Choose the session's window: the facts with it and with whether the models fit, and the pins that fix it.

    Where the user's settings fix none, it is that of the main model's own file (``PARAMETER num_ctx``, which Ollama
    takes where a request names none), else the one that is shared with others (``shared_window``), else the largest
    that fits.

    *urls* are the door's addresses by those that they replace.

    Raises LaunchError when one of the user's own files cannot be merged.
    """
    largest = None if isinstance(placement, Unavailable) else choose_window(*placement)
    others = OtherServers(served_windows(facts), urls)
    models = {} if isinstance(facts.server, Unavailable) else facts.server.models
    trained = {
        name: model.trained_tokens
        for name, model in models.items()
        if isinstance(model, ModelFacts)
    }
    name = ollama_name(settings.model or "") or ""
    main = models.get(name)
    own = main.num_ctx_parameter if isinstance(main, ModelFacts) else 0
    automatic = own or shared_window(name, facts, largest) or largest
    pins = make_pins(settings, facts.config.num_ctx, trained, automatic, others)
    window = pins.window_tokens
    if isinstance(placement, Unavailable):
        told = window if pins.windows or not others.windows else _first_reason(others)
        return replace(facts, window_tokens=told, fit=placement), pins
    candidates, cards, runtime = placement
    return replace(facts, window_tokens=window, fit=fit(candidates, cards, window, runtime)), pins


def _first_reason(others: OtherServers) -> int | Unavailable:
    """Why the window of the first model is not known, where none of them is."""
    return next(iter(others.windows.values()))
