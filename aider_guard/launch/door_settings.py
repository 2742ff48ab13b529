"""Makes the settings of a session's door from the facts of its plan. Pure."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aider_guard.core.chat.body import KEEP_SECONDS, RUNNER_OPTIONS
from aider_guard.core.chat.types import DoorRole, DoorSettings, RoleName, RunnerOption, WindowNeed
from aider_guard.core.fit import STEP_TOKENS, fit
from aider_guard.core.other_servers import planned_window
from aider_guard.core.readings import Unavailable
from aider_guard.core.server_report import ServedModel, ServerProcess, ServerReport
from aider_guard.launch.aider_settings import (
    EVERY_MODEL,
    AiderSettings,
    extra_params,
    ollama_name,
    whole_number,
)
from aider_guard.launch.facts import Facts
from aider_guard.launch.pins import DEFAULT_WINDOW_TOKENS, Entries
from aider_guard.launch.places import place
from aider_guard.launch.routes import DoorAddress, Routes
from aider_guard.launch.server_runtime import Placement
from aider_guard.ollama.access import valid_headers

NOT_ASKED = Unavailable("its server was not asked")
LEARNED = "tokens"
"""The folder in the state folder where ratios of tokens are remembered."""
_DURATION = re.compile(r"(-)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s?)?")
_SHARES = (3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8)
_SMALLEST_TOKENS = 2048
"""A smaller window has no room for Aider's own instructions."""
_ROLES: tuple[RoleName, ...] = ("main", "editor", "weak")


@dataclass(frozen=True)
class DoorAddresses:
    """Where Aider finds the door, and the folder where the door keeps what it learns between sessions."""

    address: DoorAddress
    state_dir: Path

    def urls(self, routes: Routes) -> dict[str, str]:
        """The door's addresses, by the server addresses that they replace."""
        return {key: self.address.url(prefix) for key, prefix in routes.prefixes.items()}

    def variables(self, routes: Routes) -> dict[str, str]:
        """The environment variables that send Aider's requests through the door."""
        prefixes = {"OLLAMA_API_BASE": "", **routes.variables}
        return {name: self.address.url(prefix) for name, prefix in prefixes.items()}


def door_settings(
    addresses: DoorAddresses,
    routes: Routes,
    facts: Facts,
    *,
    settings: AiderSettings,
    placement: Placement | Unavailable,
    entries: Entries,
    windows: Mapping[str, int],
) -> DoorSettings:
    """Make the door's settings for a session whose window is chosen (``facts.window_tokens``).

    *entries* are the user's model settings by name, *windows* the known windows by Aider's names.
    """
    # The window of Ollama's models, to which a session that begins on another server may turn.
    window = facts.window_tokens if isinstance(facts.window_tokens, int) else DEFAULT_WINDOW_TOKENS
    of_models = (extra_params(entries.get(name, {})) for name in (EVERY_MODEL, *settings.models))
    sets_keep_alive = any("keep_alive" in params for params in of_models)
    return DoorSettings(
        token=addresses.address.token,
        upstreams=routes.upstreams,
        roles=tuple(_roles(settings, routes, windows, entries)),
        window_tokens=window,
        user_keep_alive=sets_keep_alive or server_keeps_longer(facts.server),
        on_overflow=facts.config.on_overflow,
        read_ahead=facts.config.read_ahead,
        think_for_side_work=facts.config.think_for_side_work,
        shows_progress=facts.config.progress == "on",
        refuse_cloud=facts.config.network == "offline",
        smaller_windows=smaller_windows(placement, window),
        tokenizers=settings.tokenizers,
        learned_dir=str(addresses.state_dir / LEARNED),
        ollama_log=facts.config.ollama_log or "",
    )


def served_windows(facts: Facts) -> Mapping[str, int | Unavailable]:
    """The windows of models on other servers, by Aider's names: as these servers reported them, or as the door will
    have them loaded.
    """
    if isinstance(facts.settings, Unavailable):
        return {}
    models = {} if isinstance(facts.server, Unavailable) else facts.server.others
    names = (model.model for model in served_models(facts.settings))
    requested = facts.config.num_ctx or 0
    return {name: planned_window(models.get(name, NOT_ASKED), requested) for name in names}


def _roles(
    settings: AiderSettings, routes: Routes, windows: Mapping[str, int], entries: Entries
) -> Iterator[DoorRole]:
    """The roles whose requests pass the door, with their models as their servers know them."""
    roles = {role.role: role for role in reversed(settings.roles) if role.model}
    for name in filter(roles.get, _ROLES):
        model, location = roles[name].model, place(roles[name], settings)
        prefix = "" if location.kind == "ollama" else None
        if location.kind == "server":
            prefix = routes.prefix(location.address)
        if prefix is not None:
            window = 0 if ollama_name(model) is not None else windows.get(model, 0)
            path = prefix.lstrip("/")
            options = runner_options_of(entries, model)
            yield DoorRole(name, name_on_server(model), path, window, options)


def runner_options_of(entries: Entries, model: str) -> tuple[RunnerOption, ...]:
    """The options in the user's model settings that decide how this model's process is started. The entry for every
    model wins, as in Aider's models.py. The window is not among them: it is the session's.
    """
    models = (entries.get(name, {}) for name in (EVERY_MODEL, model))
    extra = ChainMap(*map(extra_params, models))
    options = ((name, extra.get(name)) for name in RUNNER_OPTIONS if name != "num_ctx")
    whole = (
        (name, value if isinstance(value, bool) else whole_number(value)) for name, value in options
    )
    return tuple(RunnerOption(name, value) for name, value in whole if value is not None)


def server_keeps_longer(server: ServerReport | Unavailable) -> bool:
    """Whether the server is known to keep models loaded for ever, or for longer than the door asks for.

    ``OLLAMA_KEEP_ALIVE`` is a duration of Go's or seconds (envconfig/config.go); negative is for ever.
    """
    process = server.process if isinstance(server, ServerReport) else None
    settings = process.settings if isinstance(process, ServerProcess) else None
    duration = settings.get("OLLAMA_KEEP_ALIVE", "") if isinstance(settings, dict) else ""
    match = _DURATION.fullmatch(duration.strip())
    if match is None:
        return False
    minus, hours, minutes, seconds = match.groups()
    total = 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds or 0)
    return bool(minus) or total > KEEP_SECONDS


def served_models(settings: AiderSettings) -> tuple[ServedModel, ...]:
    """The models on other servers of this machine."""
    locations = [(role, place(role, settings)) for role in settings.roles]
    models = {
        role.model: ServedModel(
            *(role.model, name_on_server(role.model), location.address),
            headers=valid_headers(role.headers),
        )
        for role, location in locations
        if location.kind == "server" and ollama_name(role.model) is None
    }
    return tuple(models.values())


def name_on_server(model: str) -> str:
    """A model's name without Aider's prefix for the provider, as its server knows it."""
    name = ollama_name(model)
    return name if name is not None else model.partition("/")[2] or model


def smaller_windows(
    placement: Placement | Unavailable, window_tokens: int
) -> tuple[WindowNeed, ...]:
    """A few windows below this one and the bytes that the models need with each, largest window first.

    Where the models fit only one at a time, it is what the largest of them needs. Empty where it cannot be computed.
    """
    if isinstance(placement, Unavailable):
        return ()
    candidates, cards, runtime = placement
    windows: list[WindowNeed] = []
    sizes = (int(window_tokens * share) // STEP_TOKENS * STEP_TOKENS for share in _SHARES)
    for size in dict.fromkeys(sizes):
        if _SMALLEST_TOKENS <= size < window_tokens:
            result = fit(candidates, cards, size, runtime)
            needs = [need.total_bytes for need in result.needs]
            together = result.fits or not result.alone
            windows.append(WindowNeed(size, sum(needs) if together else max(needs)))
    return tuple(windows)
