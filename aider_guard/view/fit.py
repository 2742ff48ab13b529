"""Runs ``aider-guard fit``: whether models fit, alone and together, the largest window, and what would fit instead."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

from aider_guard import paths
from aider_guard.catalogue import catalogue_entries
from aider_guard.config import Config
from aider_guard.core.fit import (
    Card,
    distinct,
    fit,
    fits_alone,
    hand_overs,
    largest_window,
    rooms,
    spilled_bytes,
)
from aider_guard.core.model_memory import Candidate, KvType, Runtime
from aider_guard.core.readings import MemoryReading, Unavailable
from aider_guard.core.server_report import ServerReport
from aider_guard.errors import ConfigError
from aider_guard.launch.gathering import read_memory
from aider_guard.launch.server_runtime import read_corrections, runtime_of
from aider_guard.ollama.client import OllamaClient
from aider_guard.ollama.survey import survey
from aider_guard.view.fit_models import (
    RequestedModel,
    cards_here,
    file_model,
    is_file_name,
    known_model,
    named_cards,
    plain_name,
    server_address,
)
from aider_guard.view.fit_page import Alternative, FitAnswer, as_data, render
from aider_guard.view.page import columns_of

_MOST_INSTEAD = 6


def ask_server(base: str, names: Sequence[str]) -> ServerReport:
    """Ask the server at this URL about itself and these models. Takes seconds at most."""
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
    memory: Callable[[], MemoryReading] = read_memory,
    state_dir: Path | None = None,
    out: TextIO | None = None,
) -> int:
    """Print whether the models fit; the exit status is 0 when all fit at once, else 1.

    *vram* gives cards by their GiB (``16``, ``2x24``); without it this machine's are taken, with what other programs
    leave free. *kv* is the type of the cache, else the server's. Installed models are looked up in Ollama when it
    answers; a name that ends in ``.gguf`` is a file.

    Raises:
        ConfigError: neither Ollama nor the catalogue has a model, a file cannot be read, or no card is known.
    """
    if not models:
        raise ConfigError("name at least one model, such as qwen3:8b")
    names = dict.fromkeys(each if is_file_name(each) else plain_name(each) for each in models)
    cards = named_cards(vram)
    files = {name: file_model(name) for name in names if is_file_name(name)}
    base = server_address(config, environment)
    asked = [name for name in names if name not in files]
    server = base if isinstance(base, Unavailable) else ask(base, asked)
    corrections = read_corrections(state_dir or paths.state_dir())
    requested = tuple(files.get(name) or known_model(name, server, corrections) for name in names)
    cards = cards or cards_here(server, memory)
    runtime = Runtime()  # where no server answers, the defaults of the newest Ollama
    if isinstance(server, ServerReport) and isinstance(server.version, str):
        runtime = runtime_of(server)
    answer = _answer(requested, cards, num_ctx, replace(runtime, kv_type=kv) if kv else runtime)
    out = out or sys.stdout
    text = (
        json.dumps(as_data(answer), indent=2) + "\n" if as_json else render(answer, columns_of(out))
    )
    out.write(text)
    return 0 if answer.fit.fits else 1


def _answer(
    requested: Sequence[RequestedModel],
    cards: Sequence[Card],
    num_ctx: int | None,
    runtime: Runtime,
) -> FitAnswer:
    candidates = [model.candidate for model in requested]
    answer = fit(candidates, cards, num_ctx, runtime)
    models = distinct(candidates)
    spilled = (spilled_bytes(model, cards, answer.num_ctx, runtime) for model in models)
    return FitAnswer(
        requested=tuple(requested),
        models=models,
        cards=tuple(cards),
        room_bytes=sum(rooms(cards, runtime)),
        runtime=runtime,
        window_asked=num_ctx is not None,
        fit=answer,
        hand_overs=() if answer.fits else hand_overs(candidates),
        spilled=tuple(spilled),
        instead=() if answer.alone else _instead(candidates, cards, answer.num_ctx, runtime),
    )


def _instead(
    requested: Sequence[Candidate], cards: Sequence[Card], num_ctx: int, runtime: Runtime
) -> tuple[Alternative, ...]:
    """The models of the catalogue that fit by themselves with at least this window, largest first."""
    excluded = {name for model in requested for name in (model.name, model.blob)}
    fitting: list[Alternative] = []
    for entry in catalogue_entries():
        if entry.name in excluded:
            continue
        model = [entry.candidate]
        window = largest_window(model, partial(fits_alone, model, cards, runtime=runtime))
        if window >= num_ctx:
            fitting.append(Alternative(entry.name, entry.size_bytes, window))
    return tuple(sorted(fitting, key=lambda model: -model.weights_bytes)[:_MOST_INSTEAD])
