"""Which lists Aider does not fetch in a session, and how it reads its own; the classes are those of Aider's modules."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from aider_guard.launch.inside.faster_start import (
    build_models_late,
    read_faster,
    read_settings_faster,
    skip_fetches,
)

PRICES, ROUTER = "raw.githubusercontent.com", "openrouter.ai"


class Manager:
    """Fetches, as both of Aider's managers do."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def _update_cache(self) -> None:
        self.fetched.append("list")

    def fetch_openrouter_model_info(self, model: str) -> dict[str, str]:
        self.fetched.append(model)
        return {"of": model}


@pytest.fixture
def managers(monkeypatch: pytest.MonkeyPatch) -> tuple[Manager, Manager]:
    """The two that Aider has: of prices, and of OpenRouter's models."""
    made = []
    for module, name in (
        ("aider.models", "ModelInfoManager"),
        ("aider.openrouter", "OpenRouterModelManager"),
    ):
        kind = type(name, (Manager,), dict(vars(Manager)))
        holder: Any = ModuleType(module)
        setattr(holder, name, kind)
        monkeypatch.setitem(sys.modules, module, holder)
        made.append(kind())
    return made[0], made[1]


@pytest.mark.parametrize(
    ("allowed", "fetched"),
    [
        ([], ([], [])),
        ([PRICES], (["list"], [])),
        ([ROUTER, "other.example"], (["a/b"], ["list"])),
        ([PRICES, ROUTER], (["list", "a/b"], ["list"])),
    ],
)
def test_only_allowed_hosts_are_asked(
    managers: tuple[Manager, Manager], allowed: list[str], fetched: tuple[list[str], list[str]]
) -> None:
    """Aider goes on without the list: it takes what is false for nothing known."""
    prices, router = managers
    skip_fetches(allowed)
    prices._update_cache()  # the names are Aider's
    assert bool(prices.fetch_openrouter_model_info("a/b")) is (ROUTER in allowed)
    router._update_cache()  # as above
    assert (prices.fetched, router.fetched) == fetched


@pytest.mark.parametrize("holder", [None, object(), ModuleType("aider.models")])
def test_another_aider_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, holder: Any) -> None:
    """Without the module, or without the classes in it."""
    for module in ("aider.models", "aider.openrouter"):
        if holder is None:
            monkeypatch.delitem(sys.modules, module, raising=False)
        else:
            monkeypatch.setitem(sys.modules, module, holder)
    skip_fetches([])


def test_a_class_without_the_methods_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made up."""
    holder: Any = ModuleType("aider.models")
    holder.ModelInfoManager = type("ModelInfoManager", (), {"_update_cache": "no method"})
    monkeypatch.setitem(sys.modules, "aider.models", holder)
    skip_fetches([])
    assert holder.ModelInfoManager._update_cache == "no method"  # as above
    assert not hasattr(holder.ModelInfoManager, "fetch_openrouter_model_info")


PLAIN = '{"a/b": {"max_tokens": 8192, "cost": 2.8e-07, "ok": true}}'
COMMENTS = '{\n  // a list\n  "a": [1, 2,], /* and\n more */ "u": "http://x/,]", "q": "\\"//",\n}'
OTHERS = ["{a: 1}", "{'a': '//'}", '{"a": .5}', "{'/*': 1, \"b\": 2, '*/': 3}", '{"a": 1,,}', "x"]


@pytest.fixture
def slowly_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is left to json5."""
    texts: list[str] = []

    def loads(text: str, **_options: str) -> dict[str, str]:
        texts.append(text)
        return {"read": "slowly"}

    json5: Any = ModuleType("json5")
    json5.loads = loads
    monkeypatch.setitem(sys.modules, "json5", json5)
    read_faster()
    return texts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (PLAIN, {"a/b": {"max_tokens": 8192, "cost": 2.8e-07, "ok": True}}),
        (COMMENTS, {"a": [1, 2], "u": "http://x/,]", "q": '"//'}),
    ],
)
def test_json_with_comments_is_read_by_the_standard_library(
    slowly_read: list[str], text: str, value: object
) -> None:
    assert sys.modules["json5"].loads(text) == value
    assert slowly_read == []


@pytest.mark.parametrize("text", OTHERS)
def test_everything_else_is_left_to_json5(slowly_read: list[str], text: str) -> None:
    assert sys.modules["json5"].loads(text) == {"read": "slowly"}
    assert slowly_read == [text]


def test_options_are_left_to_json5(slowly_read: list[str]) -> None:
    sys.modules["json5"].loads(PLAIN, encoding="utf-8")
    assert slowly_read == [PLAIN]


def test_the_table_of_settings_is_parsed_by_the_library_in_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only while Aider's modules are imported; where PyYAML has none, as always."""
    yaml: Any = ModuleType("yaml")
    slow: Any = object()
    yaml.safe_load = slow
    monkeypatch.setitem(sys.modules, "yaml", yaml)
    with read_settings_faster():
        assert yaml.safe_load is slow
    yaml.CSafeLoader = "in C"
    yaml.load = lambda stream, Loader: (stream, Loader)  # noqa: N803  # PyYAML's name
    with read_settings_faster():
        assert yaml.safe_load("a: 1") == ("a: 1", "in C")
    assert yaml.safe_load is slow


def test_what_checks_a_models_fields_is_built_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """pydantic's own default is changed; an environment of another pydantic, or of none, stays as it is."""
    config: Any = ModuleType("pydantic._internal._config")
    defaults: list[dict[str, bool]] = [{"defer_build": False}, {"another": False}]
    for config.config_defaults in defaults:
        monkeypatch.setitem(sys.modules, config.__name__, config)
        build_models_late()
    assert defaults == [{"defer_build": True}, {"another": False}]
    monkeypatch.setitem(sys.modules, config.__name__, None)  # an import of it fails
    build_models_late()
