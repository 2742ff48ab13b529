"""A plugin for pytest: notes which test runs which line, or runs chosen tests only, the quick ones first."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings

if TYPE_CHECKING:
    from coverage import Coverage

RECORD_OF = "AIDER_GUARD_MUTANTS_RECORD_OF"  # the folder of the code whose lines are noted
RECORD_IN = "AIDER_GUARD_MUTANTS_RECORD_IN"  # the folder that the notes are written to
CHOSEN = "AIDER_GUARD_MUTANTS_CHOSEN"  # a file with the names of the tests to run, in this order
MOST_MEMORY = 6 * 1024**3
MOST_EXAMPLES = 25
OWN_SETTINGS = "_hypothesis_internal_use_settings"  # where Hypothesis keeps those of a test


def pytest_configure(config: pytest.Config) -> None:
    """Sets up what the environment asks for. A changed loop may ask for memory without end: that has a limit."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, hard))
    # A failing example is enough, and a test that needs more than a few of them notices only now and then.
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", settings(), database=None, phases=phases)
    settings.load_profile("mutants")
    if folder := os.environ.get(RECORD_IN):
        config.pluginmanager.register(Recorder(os.environ[RECORD_OF], Path(folder)))
    if chosen := os.environ.get(CHOSEN):
        config.pluginmanager.register(Chosen(json.loads(Path(chosen).read_text())))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets every property be tried on few examples, also one that asks for more."""
    for item in items:
        test = getattr(item, "obj", None)
        asked = getattr(test, OWN_SETTINGS, None)
        if isinstance(asked, settings) and asked.max_examples > MOST_EXAMPLES:
            setattr(test, OWN_SETTINGS, settings(asked, max_examples=MOST_EXAMPLES))


class Recorder:
    """Writes ``tests.jsonl`` (a line for each finished test) and ``lines.json`` (file, line, its tests), and
    ``modules.json``, the modules that were imported from elsewhere.
    """

    def __init__(self, folder: str, to: Path) -> None:
        from coverage import Coverage

        self._coverage: Coverage = Coverage(
            data_file=None, source=[folder], config_file=False, messages=False
        )
        self._coverage.start()  # before the tests are imported, and the code with them
        self._to = to
        self._tests = (to / "tests.jsonl").open("w", buffering=1)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """A table of cases may call the code when its file is imported: noted for the file."""
        is_file = isinstance(collector, pytest.File)
        self._coverage.switch_context(collector.nodeid if is_file else "")
        report = yield
        self._coverage.switch_context("")
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._coverage.switch_context(function_of(item.nodeid))
        result = yield
        self._coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._tests.write(json.dumps([function_of(report.nodeid), report.duration]) + "\n")

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        self._tests.close()
        data = self._coverage.get_data()
        lines = {
            file: {
                line: [test for test in tests if test]
                for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        (self._to / "lines.json").write_text(json.dumps(lines))
        (self._to / "modules.json").write_text(json.dumps(self._others()))

    def _others(self) -> list[str]:
        """The modules that are imported from outside the project."""
        root = str(Path.cwd())
        files = {
            name: getattr(module, "__file__", None) for name, module in sys.modules.copy().items()
        }
        return [name for name, file in files.items() if file and not file.startswith(root)]


def function_of(test: str) -> str:
    """A test without its parameters: what they are called may change with the code."""
    return test.partition("[")[0]


class Chosen:
    """Runs the tests of a list, with all their parameters, in the order of the list, and no other."""

    def __init__(self, names: list[str]) -> None:
        self._rank = {name: rank for rank, name in enumerate(names)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if function_of(item.nodeid) in self._rank]
        items[:] = sorted(kept, key=lambda item: self._rank[function_of(item.nodeid)])
