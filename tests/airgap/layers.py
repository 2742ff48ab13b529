"""Systems that allow only some layers of the air gap: for tests in this process, and as a command line of the guard."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest import mock

from aider_guard.airgap import choose
from aider_guard.airgap.gap import Gap
from aider_guard.core.egress import Allowed, Layer, LayerChoice

_LIMITED = """
from aider_guard.airgap import choose
choose.LAYERS = {layers!r}
from aider_guard.__main__ import main
main()
"""


@contextmanager
def only(*layers: Layer) -> Iterator[None]:
    """A system that allows at most these layers, for the length of a ``with``."""
    with mock.patch.object(choose, "LAYERS", layers):
        yield


def best_of(*layers: Layer) -> LayerChoice:
    """The choice on a system that allows at most these layers."""
    with only(*layers):
        return choose.find_layer({})


@contextmanager
def open_gap(
    layer: Layer, allowed: Sequence[Allowed] = (), environment: Mapping[str, str] = os.environ
) -> Iterator[Gap]:
    """An air gap of one layer. Raises OSError where the system does not allow it."""
    with only(layer):
        selection = choose.LayerSelection(allowed, environment, is_open=layer == "open")
    with selection:
        gap = selection.finish()
        try:
            if gap.layer != layer:
                raise OSError(selection.because)
            yield gap
        finally:
            gap.close()


def guard_program(layers: Sequence[Layer] | None = None) -> list[str]:
    """The start of the guard's command line; with *layers*, on a system that allows at most these."""
    if layers is None:
        return [sys.executable, "-m", "aider_guard"]
    return [sys.executable, "-c", _LIMITED.format(layers=tuple(layers))]
