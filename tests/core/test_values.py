"""Every value of the core and of counting stays as it was made."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass

import pytest

import aider_guard.core
import aider_guard.counting

DRAWN_ON = "_Cells"  # the screen's cells, which no other module sees

MODULES = [
    importlib.import_module(found.name)
    for package in (aider_guard.core, aider_guard.counting)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]
VALUES = sorted(
    {
        value
        for module in MODULES
        for _, value in inspect.getmembers(module, inspect.isclass)
        if is_dataclass(value)
        and value.__module__.startswith(("aider_guard.core.", "aider_guard.counting."))
        if value.__name__ != DRAWN_ON
    },
    key=lambda value: (value.__module__, value.__qualname__),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__qualname__)
def test_values_are_frozen(value: type) -> None:
    """An event, an action, a state or a reading is handed on without a copy: it must not change there."""
    assert value.__dataclass_params__.frozen  # type: ignore[attr-defined]  # dataclasses tell it nowhere else
