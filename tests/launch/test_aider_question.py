"""Asking Aider without starting it, with a small package in Aider's place and real processes."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path

import pytest

from aider_guard.core.readings import Unavailable
from aider_guard.launch.aider import Aider
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.gathering import AiderQuestion

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(Path(__file__).parents[1] / "fakes" / "aider_like"),
    "AIDER_LIKE_FORM": "settings",
    "AIDER_LIKE_CHILD": '["false"]',
}


@pytest.fixture
def aider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aider:
    """An Aider whose parser answers, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Aider(str(tmp_path / "aider"), (sys.executable,))


def ask(
    aider: Aider, arguments: list[str], environment: dict[str, str]
) -> AiderSettings | Unavailable:
    """The answer to one question."""
    with AiderQuestion(aider, arguments, environment) as question:
        return question.result()


def slow(folder: Path, line: str) -> dict[str, str]:
    """An environment with an Aider that does this at its import."""
    package = folder / "slow" / "aider"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1"\n')
    (package / "main.py").write_text(f"import time, os, sys\n{line}\n")
    return {**ENVIRONMENT, "PYTHONPATH": str(package.parent)}


def test_the_answer_is_aiders(aider: Aider) -> None:
    """Its parser's word on the arguments and on the environment that is given, and Aider does not start."""
    environment = {**ENVIRONMENT, "OPENAI_API_KEY": "x"}
    settings = ask(aider, ["--model", "m", "--", "--wrong"], environment)
    assert isinstance(settings, AiderSettings), settings
    assert settings.model == "m"
    assert [key.name for key in settings.keys] == ["OPENAI_API_KEY"]
    assert not Path("aider.argv").exists()


def test_a_wrong_argument_is_answered_in_aiders_words(
    aider: Aider, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last line of what it printed; nothing of it is shown."""
    answer = ask(aider, ["--wrong"], ENVIRONMENT)
    assert answer == Unavailable("aider: error: unrecognized arguments: --wrong")
    assert capfd.readouterr() == ("", "")


COMPLAINTS = [
    ("--wrong=sk-secret --other sk-secret", "unrecognized arguments: --wrong --other"),
    ("--cache-keepalive-pings x\n  in line 2", "unrecognized arguments: --cache-keepalive-pings"),
]


@pytest.mark.parametrize(("output", "reason"), COMPLAINTS)
def test_no_value_is_shown_that_aider_did_not_recognize(
    aider: Aider, tmp_path: Path, output: str, reason: str
) -> None:
    """A key under a wrong name, in a configuration file or on the command line, stays where it is."""
    line = f"sys.exit('usage: aider\\naider: error: unrecognized arguments: ' + {output!r})"
    assert ask(aider, [], slow(tmp_path, line)) == Unavailable(f"aider: error: {reason}")


def test_an_error_of_several_lines_is_reported_whole(aider: Aider, tmp_path: Path) -> None:
    """The reader of a file that was named says the line in the last one."""
    line = "sys.exit('usage\\naider: error: no YAML\\n  in \"c.yml\", line 2\\n')"
    answer = ask(aider, [], slow(tmp_path, line))
    assert answer == Unavailable('aider: error: no YAML in "c.yml", line 2')


def test_an_aider_that_changed_is_answered_with_its_problem(aider: Aider) -> None:
    """What the description stumbled over."""
    answer = ask(aider, [], {**ENVIRONMENT, "AIDER_LIKE_FORM": ""})
    assert answer == Unavailable("AttributeError: this Aider has no parser")


def test_without_an_aider_the_last_words_are_pythons(aider: Aider, tmp_path: Path) -> None:
    """As when its installation is broken."""
    answer = ask(aider, [], {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)})
    assert answer == Unavailable("ModuleNotFoundError: No module named 'aider'")


def test_an_aider_that_ends_silently_is_reported(aider: Aider, tmp_path: Path) -> None:
    """As with --help, which prints and ends well."""
    answer = ask(aider, [], slow(tmp_path, "print('usage'); sys.exit(0)"))
    assert isinstance(answer, Unavailable)
    assert answer.reason.startswith("Aider ended at once, with status 0")


def test_an_interpreter_that_is_not_there_is_reported(aider: Aider, tmp_path: Path) -> None:
    """As when the Python of a virtual environment was removed."""
    gone = str(tmp_path / "gone")
    answer = ask(Aider(aider.script, (gone,)), [], ENVIRONMENT)
    assert answer == Unavailable(f"{gone} cannot be started: No such file or directory")


def test_an_aider_that_hangs_is_given_up(aider: Aider, tmp_path: Path) -> None:
    """At the time that was given, and it is not left running."""
    environment = slow(tmp_path, "open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    started_at = time.monotonic()
    with AiderQuestion(aider, [], environment) as question:
        while not (Path("pid").exists() and Path("pid").read_text()):
            assert time.monotonic() - started_at < 20
            os.sched_yield()
        answer = question.result(0.1)
    assert answer == Unavailable("Aider did not say within 0.1 seconds what it will use")
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def test_other_work_can_be_done_meanwhile(aider: Aider) -> None:
    """The start does not wait, one that is left without asking is ended, and no descriptor stays open."""
    gc.collect()  # what earlier tests left open is closed now, and not in between
    before = len(list(Path("/dev/fd").iterdir()))
    with AiderQuestion(aider, [], ENVIRONMENT) as unused:
        with AiderQuestion(aider, [], ENVIRONMENT) as question:
            assert isinstance(question.result(20), AiderSettings)
        assert unused is not question
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_what_is_asked_reads_nothing_of_the_terminal(aider: Aider, tmp_path: Path) -> None:
    """Its input is empty, so that it cannot wait for an answer."""
    answer = ask(aider, [], slow(tmp_path, "sys.exit(repr(sys.stdin.read()))"))
    assert answer == Unavailable("''")
