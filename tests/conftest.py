"""What holds for all tests."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

SERVERS = {"ollama", "llama"}
"""Fixtures of which a run has one: two models that compute at the same time are slower than one after the other."""

# A busy machine is slow now and then: that says nothing of the code. What must be fast has tests of its own.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

# A run in the background, or under nohup, was told to ignore them, and every program of the tests would inherit that.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        _usual = signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, _usual)


def shared_by(item: pytest.Item) -> str:
    """The server that a test shares with others, or else its file, where a fixture is made once for that; else ""."""
    names = set(getattr(item, "fixturenames", ()))
    if servers := SERVERS & names:
        return min(servers)
    definitions = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    scopes = {name: found[-1].scope for name, found in definitions.items()}
    shared = sorted(name for name in names if scopes.get(name) == "module")
    if not shared:
        return ""
    # A fixture with parameters is made once for each.
    called = getattr(item, "callspec", None)
    which = [str(called.params[name]) for name in shared if called and name in called.params]
    return " ".join((item.path.stem, *which))


# The markers come before xdist reads them, and the order after pytest-randomly has made its own.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what is expensive run on one worker, which makes it once, and the long ones start first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None and (group := shared_by(item)):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
