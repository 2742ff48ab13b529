"""Chooses models for the user's cards: main, editor and weak model, and one window for all of them. Pure.

core/fit.py computes what fits. The settings that ``init`` suggests follow from the choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aider_guard.core.fit import COMFORTABLE_TOKENS, Card, Fit, choose_window, fit
from aider_guard.core.model_memory import Candidate, Runtime
from aider_guard.core.model_names import canonical_name, is_cloud_name
from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider_settings import EVERY_MODEL, OLLAMA_PREFIXES, ollama_name
from aider_guard.launch.conf_file import Setting, sets
from aider_guard.launch.repository import TestCommand

PAIR_WINDOW_TOKENS = 16_384
"""A second model is worth its memory only while both keep a window in which a few files can be discussed."""
UNLISTED_WEIGHTS_BYTES = 2 * 10**9
"""About a model of four billion parameters at 4 bits: smaller ones do not hold to Aider's edit formats."""


@dataclass(frozen=True)
class Preference:
    """A family of models, by the beginnings of their names. With a window below ``useful_tokens`` a smaller model with
    a larger window does better. ``edits`` says whether it edits well enough to be an architect's editor.
    """

    names: tuple[str, ...]
    reason: str = "the largest that fits with a useful window"
    useful_tokens: int = COMFORTABLE_TOKENS
    edits: bool = True


_HYBRID = "only every fourth of its layers has a cache, so that its window can be large"
_MIXTURE = "3 of its {} billion parameters work on a token, so it is fast"
_SMALL = "the card holds no larger one; models of this size often miss Aider's edit formats"

# Strongest at code first. The order is a judgement: newer before older, made for code before general, then by size.
# Extend it as models come and go.
PREFERENCES = (
    Preference(("qwen3-coder:480b", "deepseek-v3", "qwen3:235b", "deepseek-coder-v2:236b")),
    Preference(
        ("qwen3-coder-next", "gpt-oss:120b", "llama3.3:70b"), useful_tokens=PAIR_WINDOW_TOKENS
    ),
    Preference(
        ("qwen3.8:27b", "qwen3.8:latest", "qwen3.6:27b", "qwen3.5:27b"),
        _HYBRID,
        PAIR_WINDOW_TOKENS,
    ),
    Preference(
        ("qwen3.6:35b", "qwen3.6:latest", "qwen3.5:35b", "ornith-1.5"),
        f"{_MIXTURE.format(35)}; {_HYBRID}",
    ),
    Preference(("qwen3-coder:30b", "qwen3-coder:latest"), f"made for code; {_MIXTURE.format(30)}"),
    Preference(("devstral-small-2", "devstral", "codestral"), "made for code", PAIR_WINDOW_TOKENS),
    Preference(("gemma4:31b", "gemma-4:31b"), useful_tokens=PAIR_WINDOW_TOKENS),
    Preference(("qwen3:32b", "qwen2.5-coder:32b"), useful_tokens=PAIR_WINDOW_TOKENS),
    Preference(
        (
            *("gpt-oss:20b", "gpt-oss:latest", "gemma4:26b", "gemma-4:26b"),
            *("glm-4.7-flash", "nemotron-3-nano:30b", "qwen3:30b"),
        ),
        "a part of its parameters works on a token, so it is fast, and its cache is small",
    ),
    Preference(
        (
            *("granite4.2:30b", "granite-4.2:30b", "gemma3:27b"),
            *("mistral-small", "mistral-small3.1", "mistral-small3.2"),
        )
    ),
    Preference(
        (
            *("gemma4:12b", "gemma-4:12b", "ministral-3:14b"),
            *("qwen3:14b", "qwen2.5-coder:14b", "phi4"),
        )
    ),
    Preference(
        ("deepseek-coder-v2:16b", "deepseek-coder-v2:lite", "deepseek-coder-v2:latest"),
        "made for code and fast, but its cache is large",
    ),
    Preference(
        (
            *("qwen3.5:9b", "qwen3.5:latest", "qwen3:8b", "qwen3:latest"),
            *("qwen2.5-coder:7b", "qwen2.5-coder:latest", "ministral-3:8b", "ministral-3:latest"),
            *("granite4.2:8b", "granite-4.2:8b", "llama3.1:8b", "llama3.1:latest"),
        )
    ),
    Preference(("gemma4:e4b", "gemma4:latest", "gemma-4:e4b"), _SMALL, edits=False),
    Preference(("qwen3.5:4b", "qwen3:4b", "qwen2.5-coder:3b"), _SMALL, edits=False),
    Preference(("gemma-4:e2b", "qwen3.5:2b", "qwen2.5-coder:1.5b"), _SMALL, edits=False),
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
        """Ollama's name for the model."""
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
    def models(self) -> tuple[CandidateModel, ...]:
        """The models, each once."""
        return _each_once(self.main, self.editor or self.main, self.weak)

    @property
    def to_pull(self) -> tuple[str, ...]:
        """The names of the models that Ollama does not have yet."""
        return tuple(model.name for model in self.models if not model.installed)


def choose(
    models: Sequence[CandidateModel], cards: Sequence[Card], runtime: Runtime
) -> ModelPlan | Unavailable:
    """Choose the models for these cards: the first of the preferences that fits with a useful window, of the installed
    ones if any of them does, else of Ollama's library, and an editor beside it where both keep a window of 16,384.
    """
    installed = [model for model in models if model.installed]
    library = [model for model in models if model.installed or not is_from_elsewhere(model.name)]
    for group in (installed, library, models):
        for main, preference in _by_preference(group):
            alone = _together((main,), cards, runtime, preference.useful_tokens)
            if alone is not None:
                plan = ModelPlan(main, None, main, *alone, preference.reason)
                return _with_editor(plan, group, cards, runtime)
    return Unavailable(
        f"no model that is installed or in the catalogue fits with a window of {COMFORTABLE_TOKENS:,} tokens"
    )


def left_out(
    plan: ModelPlan, models: Sequence[CandidateModel], cards: Sequence[Card], runtime: Runtime
) -> tuple[tuple[str, str], ...]:
    """The installed models that a plan leaves out, by name, each with the reason in a clause; the largest first."""
    chosen = {canonical_name(model.name) for model in plan.models}
    installed = [model for model in models if model.installed]
    others = [model for model in installed if canonical_name(model.name) not in chosen]
    ranked = dict(_by_preference(installed))
    return tuple(
        (model.name, _why_not(model, ranked, cards, runtime))
        for model in sorted(others, key=lambda model: -model.candidate.weights_bytes)
    )


def _why_not(
    model: CandidateModel,
    ranked: Mapping[CandidateModel, Preference],
    cards: Sequence[Card],
    runtime: Runtime,
) -> str:
    if is_cloud_name(model.name):
        return "runs in a cloud"
    if _NO_CHAT.search(f"{model.name} {model.candidate.architecture.name}"):
        return "does not chat"
    useful_tokens = ranked[model].useful_tokens if model in ranked else COMFORTABLE_TOKENS
    if _together((model,), cards, runtime, useful_tokens) is None:
        return f"does not fit with {useful_tokens:,} tokens"
    return (
        "fits, but others are better at code" if model in ranked else "too small for Aider's edits"
    )


def is_from_elsewhere(name: str) -> bool:
    """Whether a model is pulled from another place than Ollama's library, which then makes up its template."""
    return canonical_name(name).startswith(("hf.co/", "huggingface.co/"))


def plan_for(
    names_by_role: Mapping[str, str],
    models: Sequence[CandidateModel],
    cards: Sequence[Card],
    runtime: Runtime,
) -> ModelPlan | Unavailable:
    """Choose the window for models that the user has chosen.

    *names_by_role* has ``main``, and ``editor`` and ``weak`` where they are set.
    """
    by_name = {canonical_name(model.name): model for model in models}
    by_role: dict[str, CandidateModel] = {}
    for role, name in names_by_role.items():
        model = by_name.get(canonical_name(name))
        if model is None:
            return Unavailable(f"{name} is neither installed nor in the catalogue")
        by_role[role] = replace(model, candidate=replace(model.candidate, name=name))
    main, editor = by_role["main"], by_role.get("editor")
    weak = by_role.get("weak", main)
    candidates = [model.candidate for model in _each_once(main, editor or main, weak)]
    window = choose_window(candidates, cards, runtime)
    if window is None:
        names = " and ".join(model.name for model in candidates)
        return Unavailable(f"{names} cannot be loaded with a useful window")
    return ModelPlan(main, editor, weak, window, fit(candidates, cards, window, runtime), "yours")


def map_tokens(window_tokens: int) -> int:
    """The size of the repository map: about an eighth of the window, as Aider has it (models.py,
    get_repo_map_tokens), in three steps. While no file is in the chat the map may take twice that.
    """
    if window_tokens < 16_384:
        return 1024
    return 2048 if window_tokens < 32_768 else 4096


def candidate_models(
    installed: Sequence[Candidate], catalogue: Sequence[Candidate]
) -> tuple[CandidateModel, ...]:
    """The models to choose from: the installed ones, and those of the catalogue that are not installed."""
    names = {canonical_name(candidate.name) for candidate in installed}
    others = [each for each in catalogue if canonical_name(each.name) not in names]
    here = (CandidateModel(candidate, installed=True) for candidate in installed)
    return (*here, *(CandidateModel(candidate, installed=False) for candidate in others))


def _each_once(*models: CandidateModel) -> tuple[CandidateModel, ...]:
    return tuple({model.name: model for model in models}.values())


def _by_preference(models: Sequence[CandidateModel]) -> Iterator[tuple[CandidateModel, Preference]]:
    """The models that can chat, strongest first, each with its family."""
    unranked = [
        model
        for model in models
        if not _NO_CHAT.search(f"{model.name} {model.candidate.architecture.name}")
        and not is_cloud_name(model.name)
    ]
    for preference in PREFERENCES:
        for start in preference.names:
            for model in [model for model in unranked if _is_of_family(model.name, start)]:
                unranked.remove(model)
                yield model, preference
    for model in sorted(unranked, key=lambda model: -model.candidate.weights_bytes):
        if model.installed and model.candidate.weights_bytes >= UNLISTED_WEIGHTS_BYTES:
            yield model, _UNLISTED


def _is_of_family(name: str, start: str) -> bool:
    """Whether a name belongs to a family: ``qwen3:8b-q8_0`` and ``hf.co/someone/Qwen3-8B-GGUF:Q8_0`` to ``qwen3:8b``,
    and ``qwen3:80b`` not.
    """
    words = canonical_name(name).rpartition("/")[2].replace("-", ":").split(":")
    start_words = start.replace("-", ":").split(":")
    return words[: len(start_words)] == start_words


def _together(
    models: Sequence[CandidateModel], cards: Sequence[Card], runtime: Runtime, useful_tokens: int
) -> tuple[int, Fit] | None:
    """The window with which all models are in memory at once, and core/fit's answer for it; None below a useful one."""
    candidates = [model.candidate for model in models]
    window = choose_window(candidates, cards, runtime)
    if window is None or window < useful_tokens:
        return None
    result = fit(candidates, cards, window, runtime)
    return (window, result) if result.fits else None


def _with_editor(
    plan: ModelPlan, models: Sequence[CandidateModel], cards: Sequence[Card], runtime: Runtime
) -> ModelPlan:
    """Add the strongest editor that fits beside the main model and leaves both a window; else the plan as it was.

    The editor is then the weak model too: it is in memory anyway, and quicker at commit messages.
    """
    main = plan.main.candidate
    ranked = list(_by_preference(models))
    family = next((preference for model, preference in ranked if model == plan.main), None)
    for editor, preference in ranked:
        # The same architecture is the main model again: another tag or quantisation of it, or a model tuned from it.
        # One of the same family is as slow as the main model, and no stronger.
        same = editor.candidate.architecture == main.architecture or preference is family
        if not preference.edits or same:
            continue
        both = _together((plan.main, editor), cards, runtime, PAIR_WINDOW_TOKENS)
        if both is not None:
            return ModelPlan(plan.main, editor, editor, *both, plan.reason)
    return plan


# Settings that init suggests: the plan's models, and habits that suit a small window.

ROLE_KEYS = {"main": "model", "editor": "editor-model", "weak": "weak-model"}
_ATTRIBUTION = (
    "attribute-author",
    "attribute-committer",
    "attribute-co-authored-by",
    "attribute-commit-message-author",
    "attribute-commit-message-committer",
)


def named_models(conf: Mapping[object, Any]) -> dict[str, str]:
    """The models that a ``.aider.conf.yml`` names, by role. A key that chooses one without its name (``opus: true``)
    is given as it is written.
    """
    return {
        role: str(value) if isinstance(value, str) else f"{key}: {value}"
        for role, option in ROLE_KEYS.items()
        for key, value in conf.items()
        if sets(key, option) and value
    }


def names_for_ollama(models: Mapping[str, str]) -> dict[str, str] | None:
    """Ollama's names for the models; None when one of them is another provider's."""
    names = {
        role: name for role, model in models.items() if (name := ollama_name(model)) is not None
    }
    return names if len(names) == len(models) else None


def model_settings(plan: ModelPlan, *, architect: bool, window_tokens: int) -> list[Setting]:
    """The settings that follow from the models: their names, architect mode for two of them, the map's size."""
    # The one for /api/chat: /api/generate hides why an answer ended, and ignores keep_alive.
    prefix = OLLAMA_PREFIXES[0]
    settings = [Setting("model", prefix + plan.main.name)]
    if plan.editor is not None:
        settings.append(Setting("editor-model", prefix + plan.editor.name))
    if architect and plan.editor is not None:
        settings.append(Setting("architect", True, "one model plans, the other edits; both fit"))
    is_shared = plan.weak.name in {model.name for model in (plan.main, plan.editor) if model}
    why = "in memory anyway: no other is loaded for commit messages" if is_shared else ""
    size = map_tokens(window_tokens)
    return [
        *settings,
        Setting("weak-model", prefix + plan.weak.name, why),
        Setting("map-tokens", size, f"for a window of {window_tokens:,} tokens"),
    ]


def habits(test: TestCommand | None) -> list[Setting]:
    """The settings that hold for any model."""
    why = "for /test; all it prints goes into the window"
    return [
        Setting("map-refresh", "auto"),
        *(Setting(key, False) for key in _ATTRIBUTION),
        Setting("dirty-commits", False, "your unfinished work is not committed for you"),
        *([Setting("test-cmd", test.command, why)] if test is not None else []),
        Setting("auto-test", False, "a long traceback after each edit fills the window"),
    ]


def window_entries(window_tokens: int) -> list[dict[str, Any]]:
    """The entry of ``.aider.model.settings.yml`` that fixes the window of every model, whatever its tag.

    An entry under a model's own name would replace what Aider knows of it (edit format, reasoning tag, temperature:
    models.py, configure_model_settings looks at the name only where no entry matches it).
    """
    return [{"name": EVERY_MODEL, "extra_params": {"num_ctx": window_tokens}}]
