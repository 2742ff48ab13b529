"""``aider-guard fit``: does it fit, alone and together, the largest window that does, and what would fit instead."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from aider_guard import paths
from aider_guard.catalogue import published
from aider_guard.config import Config
from aider_guard.core.fit import (
    Candidate,
    Card,
    KvType,
    Runtime,
    distinct,
    fit,
    fits_alone,
    hand_overs,
    largest_window,
    rooms,
    spilled_bytes,
)
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.errors import ConfigError
from aider_guard.launch.gathering import read_memory_within
from aider_guard.launch.learned import read_corrections
from aider_guard.launch.ollama_address import may_be_asked, ollama_address
from aider_guard.launch.server_runtime import MAIN_MEMORY, cards_of, runtime_of
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.survey import survey
from aider_guard.view.fit_models import RequestedModel, known_model, named_cards, plain_name
from aider_guard.view.fit_page import Alternative, FitAnswer, as_data, render

GIVE_VRAM = "give the card's memory in GiB: --vram 16"
_MOST_INSTEAD = 6
_NO_AIDER = Unavailable("Aider is not asked")


def ask_server(base: str, names: Sequence[str]) -> ServerReport:
    """The server at this URL and what it knows of these models; seconds at most."""
    with closing(OllamaClient(base)) as client:
        return survey(client, names)


def run_fit(
    config: Config,
    models: Sequence[str],
    *,
    vram: Sequence[str] = (),
    num_ctx: int | None = None,
    kv: KvType | None = None,
    as_json: bool = False,
    environment: Mapping[str, str] = os.environ,
    ask: Callable[[str, Sequence[str]], ServerReport] = ask_server,
    memory: Callable[[], MemoryReading] = read_memory_within,
    state_dir: Path | None = None,
    out: TextIO | None = None,
) -> int:
    """Say whether the models fit; the exit status is 0 when all fit at once, else 1.

    *vram* names cards by their GiB (``16``, ``2x24``), else those of this machine are taken, with what others leave
    free. *kv* is the type of the cache, else the server's. Installed models are looked up in Ollama when it answers.

    Raises:
        ConfigError: a model is known neither to Ollama nor to the catalogue, or no card is known.
    """
    if not models:
        raise ConfigError("name at least one model, such as qwen3:8b")
    names = tuple(dict.fromkeys(map(plain_name, models)))
    cards = named_cards(vram)
    server = _server(config, names, environment, ask)
    corrections = read_corrections(state_dir or paths.state_dir())
    known = tuple(known_model(name, server, corrections) for name in names)
    cards = cards or _cards_here(server, memory)
    answer = _answer(known, cards, num_ctx, _runtime(server, kv))
    text = json.dumps(as_data(answer), indent=2) + "\n" if as_json else render(answer)
    (out or sys.stdout).write(text)
    return 0 if answer.fit.fits else 1


def _server(
    config: Config,
    names: Sequence[str],
    environment: Mapping[str, str],
    ask: Callable[[str, Sequence[str]], ServerReport],
) -> ServerReport | Unavailable:
    """The server where the guard would look for it without Aider's help."""
    if not may_be_asked(config, _NO_AIDER, environment):
        return Unavailable("Ollama's own cloud is not asked")
    return ask(ollama_address(config, _NO_AIDER, environment), names)


def _cards_here(
    server: ServerReport | Unavailable, memory: Callable[[], MemoryReading]
) -> tuple[Card, ...]:
    """The GPUs of this machine. Main memory is no answer here: whoever asks ``fit`` means a card."""
    if isinstance(server, Unavailable):
        raise ConfigError(f"{server.reason}; {GIVE_VRAM}")
    cards = cards_of(server, memory())
    if isinstance(cards, Unavailable):
        raise ConfigError(f"{cards.reason}; {GIVE_VRAM}")
    if cards[0].name == MAIN_MEMORY:
        raise ConfigError(f"no GPU was found here; {GIVE_VRAM}")
    return cards


def _runtime(server: ServerReport | Unavailable, kv: KvType | None) -> Runtime:
    """As the server runs models; the newest Ollama with its defaults where none answers."""
    silent = isinstance(server, Unavailable) or isinstance(server.version, Unavailable)
    runtime = Runtime() if silent or isinstance(server, Unavailable) else runtime_of(server)
    return replace(runtime, kv_type=kv) if kv else runtime


def _answer(
    known: Sequence[RequestedModel],
    cards: Sequence[Card],
    num_ctx: int | None,
    runtime: Runtime,
) -> FitAnswer:
    candidates = [model.candidate for model in known]
    answer = fit(candidates, cards, num_ctx, runtime)
    return FitAnswer(
        known=tuple(known),
        models=distinct(candidates),
        cards=tuple(cards),
        room_bytes=sum(rooms(cards, runtime)),
        runtime=runtime,
        window_asked=num_ctx is not None,
        fit=answer,
        hand_overs=() if answer.fits else hand_overs(candidates),
        spilled=tuple(
            spilled_bytes(model, cards, answer.num_ctx, runtime) for model in distinct(candidates)
        ),
        instead=() if answer.alone else _instead(candidates, cards, answer.num_ctx, runtime),
    )


def _instead(
    asked: Sequence[Candidate], cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> tuple[Alternative, ...]:
    """What fits by itself with at least this window, largest first; of the catalogue."""
    not_again = {name for model in asked for name in (model.name, model.blob)}
    fitting = [
        Alternative(entry.name, entry.size_bytes, window)
        for entry in published()
        if entry.name not in not_again
        and (window := _largest_alone(entry.candidate, cards, runtime)) >= num_ctx
    ]
    return tuple(sorted(fitting, key=lambda one: -one.weights_bytes)[:_MOST_INSTEAD])


def _largest_alone(model: Candidate, cards: Sequence[Card], runtime: Runtime) -> int:
    return largest_window([model], lambda window: fits_alone([model], cards, window, runtime))
