"""Which models for which cards: main, editor and weak model, one window for all, computed with core/fit.py. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aider_guard.core.fit import (
    COMFORTABLE_TOKENS,
    Candidate,
    Card,
    Fit,
    Runtime,
    choose_window,
    fit,
)
from aider_guard.core.model_names import canonical_name, is_cloud_name
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import OLLAMA_PREFIXES, ollama_name
from aider_guard.launch.conf_file import Setting, sets
from aider_guard.launch.detect_tests import TestCommand
from aider_guard.launch.pins import EVERY_MODEL

PAIR_WINDOW_TOKENS = 16_384
"""A second model is worth its memory only while both keep a window in which a few files can be discussed."""
UNLISTED_WEIGHTS_BYTES = 2 * 10**9
"""About a model of four billion parameters at 4 bits: smaller ones do not hold to Aider's edit formats."""


@dataclass(frozen=True)
class Preference:
    """A family of models by the beginning of their names, strongest at code first. Below ``useful_tokens`` a smaller
    model with a larger window serves better. One that does not edit well is no editor for an architect.
    """

    names: tuple[str, ...]
    reason: str
    useful_tokens: int = COMFORTABLE_TOKENS
    edits: bool = True


_LARGEST = "the largest that fits with a useful window"
# The order is a judgement: made for code before general, then by size. Extend it as models come and go.
PREFERENCES = (
    Preference(
        ("qwen3-coder:480b", "deepseek-v3", "qwen3:235b", "deepseek-coder-v2:236b"), _LARGEST
    ),
    Preference(("qwen3-coder-next", "gpt-oss:120b", "llama3.3:70b"), _LARGEST, PAIR_WINDOW_TOKENS),
    Preference(
        ("qwen3-coder:30b", "qwen3-coder:latest"),
        "made for code; 3 of its 30 billion parameters work on a token, so it is fast",
    ),
    Preference(("qwen3:32b", "qwen2.5-coder:32b"), _LARGEST, PAIR_WINDOW_TOKENS),
    Preference(
        ("qwen3:30b",),
        "3 of its 30 billion parameters work on a token, so it is fast, and its cache is small",
    ),
    Preference(
        (
            *("devstral", "codestral", "gpt-oss:20b", "gemma3:27b"),
            *("mistral-small", "mistral-small3.1", "mistral-small3.2"),
        ),
        _LARGEST,
    ),
    Preference(("qwen3:14b", "qwen2.5-coder:14b"), _LARGEST),
    Preference(
        ("deepseek-coder-v2:16b", "deepseek-coder-v2:lite", "deepseek-coder-v2:latest"),
        "made for code and fast, but its cache is large",
    ),
    Preference(("qwen3:8b", "qwen3:latest", "qwen2.5-coder:7b", "qwen2.5-coder:latest"), _LARGEST),
    Preference(
        ("qwen3:4b", "qwen2.5-coder:3b"),
        "the card holds no larger one; models of this size often miss Aider's edit formats",
        edits=False,
    ),
)
_UNLISTED = Preference((), "the largest of your models that fits", edits=False)
_NO_CHAT = re.compile(r"bert|embed", re.IGNORECASE)


@dataclass(frozen=True)
class CandidateModel:
    """A model that could be chosen: one that Ollama has, or one of the catalogue that must be pulled first."""

    candidate: Candidate
    installed: bool

    @property
    def name(self) -> str:
        """As Ollama knows it."""
        return self.candidate.name


@dataclass(frozen=True)
class ModelPlan:
    """The models, and the window for each of them. Without an editor the main model does all.

    ``fit`` is core/fit's answer for these models and this window. ``reason`` says why the main model, in a clause.
    """

    main: CandidateModel
    editor: CandidateModel | None
    weak: CandidateModel
    window_tokens: int
    fit: Fit
    reason: str

    @property
    def offers(self) -> tuple[CandidateModel, ...]:
        """The models, each once."""
        return _each_once(self.main, self.editor or self.main, self.weak)

    @property
    def to_pull(self) -> tuple[str, ...]:
        """Those that Ollama does not have yet."""
        return tuple(offer.name for offer in self.offers if not offer.installed)


def choose(
    offers: Sequence[CandidateModel], cards: Sequence[Card], runtime: Runtime
) -> ModelPlan | Unavailable:
    """The models for these cards: the first of the preferences that fits with a useful window, of the installed ones
    if any of them does, and an editor beside it where both keep a window of 16,384.
    """
    for some in (_only(offers, installed=True), tuple(offers)):
        for main, preference in _ranked(some):
            alone = _together((main,), cards, runtime, preference.useful_tokens)
            if alone is not None:
                plan = ModelPlan(main, None, main, *alone, preference.reason)
                return _paired(plan, some, cards, runtime)
    return Unavailable(
        f"no model that is installed or in the catalogue fits with a window of {COMFORTABLE_TOKENS:,} tokens"
    )


def plan_for(
    named: Mapping[str, str],
    offers: Sequence[CandidateModel],
    cards: Sequence[Card],
    runtime: Runtime,
) -> ModelPlan | Unavailable:
    """The window for models that the user has chosen: *named* has ``main``, and ``editor`` and ``weak`` where set."""
    known = {canonical_name(offer.name): offer for offer in offers}
    missing = [name for name in named.values() if canonical_name(name) not in known]
    if missing:
        return Unavailable(f"{missing[0]} is neither installed nor in the catalogue")
    chosen = {role: _called(known[canonical_name(name)], name) for role, name in named.items()}
    main, editor = chosen["main"], chosen.get("editor")
    weak = chosen.get("weak", main)
    models = [offer.candidate for offer in _each_once(main, editor or main, weak)]
    window = choose_window(models, cards, runtime)
    if window is None:
        names = " and ".join(model.name for model in models)
        return Unavailable(f"{names} cannot be loaded with a useful window")
    return ModelPlan(main, editor, weak, window, fit(models, cards, window, runtime), "yours")


def _called(offer: CandidateModel, name: str) -> CandidateModel:
    return replace(offer, candidate=replace(offer.candidate, name=name))


def map_tokens(window_tokens: int) -> int:
    """The size of the repository map: about an eighth of the window, as Aider has it (models.py,
    get_repo_map_tokens), in three steps. While no file is in the chat the map may take twice that.
    """
    if window_tokens < 16_384:
        return 1024
    return 2048 if window_tokens < 32_768 else 4096


def offers_of(
    installed: Sequence[Candidate], catalogue: Sequence[Candidate]
) -> tuple[CandidateModel, ...]:
    """Both kinds of models; of the catalogue's only those that are not installed."""
    names = {canonical_name(candidate.name) for candidate in installed}
    return (
        *(CandidateModel(candidate, installed=True) for candidate in installed),
        *(
            CandidateModel(candidate, installed=False)
            for candidate in catalogue
            if canonical_name(candidate.name) not in names
        ),
    )


def _each_once(*offers: CandidateModel) -> tuple[CandidateModel, ...]:
    return tuple({offer.name: offer for offer in offers}.values())


def _only(offers: Sequence[CandidateModel], *, installed: bool) -> tuple[CandidateModel, ...]:
    return tuple(offer for offer in offers if offer.installed is installed)


def _ranked(offers: Sequence[CandidateModel]) -> Iterator[tuple[CandidateModel, Preference]]:
    """The offers, strongest first."""
    left = [offer for offer in offers if _can_chat(offer)]
    for preference in PREFERENCES:
        for start in preference.names:
            for offer in [offer for offer in left if _begins(offer.name, start)]:
                left.remove(offer)
                yield offer, preference
    for offer in sorted(left, key=lambda offer: -offer.candidate.weights_bytes):
        if offer.installed and offer.candidate.weights_bytes >= UNLISTED_WEIGHTS_BYTES:
            yield offer, _UNLISTED


def _begins(name: str, start: str) -> bool:
    """``qwen3:8b`` begins ``qwen3:8b-q8_0`` and ``hf.co/someone/Qwen3-8B-GGUF:Q8_0``, and not ``qwen3:80b``."""
    words = canonical_name(name).rpartition("/")[2].replace("-", ":").split(":")
    wanted = start.replace("-", ":").split(":")
    return words[: len(wanted)] == wanted


def _can_chat(offer: CandidateModel) -> bool:
    words = f"{offer.name} {offer.candidate.architecture.name}"
    return not _NO_CHAT.search(words) and not is_cloud_name(offer.name)


def _together(
    offers: Sequence[CandidateModel], cards: Sequence[Card], runtime: Runtime, useful_tokens: int
) -> tuple[int, Fit] | None:
    """The window at which all are in memory at once, and the answer for it; None when it is not a useful one."""
    models = [offer.candidate for offer in offers]
    window = choose_window(models, cards, runtime)
    if window is None or window < useful_tokens:
        return None
    answer = fit(models, cards, window, runtime)
    return (window, answer) if answer.fits else None


def _paired(
    plan: ModelPlan, offers: Sequence[CandidateModel], cards: Sequence[Card], runtime: Runtime
) -> ModelPlan:
    """The plan with the strongest editor beside the main model that leaves both a window; else as it was.

    The weak model is the editor then: it is in memory anyway, and quicker at commit messages.
    """
    main = plan.main.candidate
    for editor, preference in _ranked(offers):
        # The same architecture is the main model again: another tag or quantisation of it, or a model tuned from it.
        if not preference.edits or editor.candidate.architecture == main.architecture:
            continue
        both = _together((plan.main, editor), cards, runtime, PAIR_WINDOW_TOKENS)
        if both is not None:
            return ModelPlan(plan.main, editor, editor, *both, plan.reason)
    return plan


# What ``init`` suggests for Aider's settings files: the plan's models, and habits that suit a small window. Pure.

ROLE_KEYS = {"main": "model", "editor": "editor-model", "weak": "weak-model"}
_ATTRIBUTION = (
    "attribute-author",
    "attribute-committer",
    "attribute-co-authored-by",
    "attribute-commit-message-author",
    "attribute-commit-message-committer",
)


def named_models(conf: Mapping[object, Any]) -> dict[str, str]:
    """The models that a ``.aider.conf.yml`` names, by role; what chooses one without its name (``opus: true``) is
    given as it is written.
    """
    return {
        role: str(value) if isinstance(value, str) else f"{key}: {value}"
        for role, option in ROLE_KEYS.items()
        for key, value in conf.items()
        if sets(key, option) and value
    }


def names_for_ollama(named: Mapping[str, str]) -> dict[str, str] | None:
    """The names as Ollama knows them; None when one of them is another provider's."""
    names = {role: ollama_name(name) for role, name in named.items()}
    known = {role: name for role, name in names.items() if name is not None}
    return known if len(known) == len(names) else None


def model_settings(plan: ModelPlan, *, architect: bool, window_tokens: int) -> list[Setting]:
    """The settings that follow from the models: their names, architect mode for two of them, the map's size."""
    prefix = OLLAMA_PREFIXES[
        0
    ]  # /api/chat: /api/generate hides why an answer ended, and ignores keep_alive
    found = [Setting("model", prefix + plan.main.name)]
    if plan.editor is not None:
        found.append(Setting("editor-model", prefix + plan.editor.name))
    if architect and plan.editor is not None:
        found.append(Setting("architect", True, "one model plans, the other edits; both fit"))
    others = {offer.name for offer in (plan.main, plan.editor) if offer is not None}
    why = "in memory anyway: no other is loaded for commit messages"
    found.append(
        Setting("weak-model", prefix + plan.weak.name, why if plan.weak.name in others else "")
    )
    size = map_tokens(window_tokens)
    return [*found, Setting("map-tokens", size, f"for a window of {window_tokens:,} tokens")]


def habits(test: TestCommand | None) -> list[Setting]:
    """The settings that hold for any model."""
    found = [Setting("map-refresh", "auto")]
    found += [Setting(key, False) for key in _ATTRIBUTION]
    found.append(Setting("dirty-commits", False, "your unfinished work is not committed for you"))
    if test is not None:
        found.append(
            Setting("test-cmd", test.command, "for /test; all it prints goes into the window")
        )
    return [
        *found,
        Setting("auto-test", False, "a long traceback after each edit fills the window"),
    ]


def window_entries(window_tokens: int) -> list[dict[str, Any]]:
    """The entry of ``.aider.model.settings.yml`` that fixes the window of every model, all tags of a blob included.

    An entry under a model's own name would put off what Aider knows of it (edit format, reasoning tag, temperature:
    models.py, configure_model_settings looks at the name only where no entry matches it).
    """
    return [{"name": EVERY_MODEL, "extra_params": {"num_ctx": window_tokens}}]
