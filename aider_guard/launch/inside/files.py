"""Checks the files that Aider reads before it starts, and words what is wrong with them."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .environment import Origins


def unreadable(path: str, error: BaseException, what: str) -> str:
    """One sentence with the file, the line where it is known, and nothing of the file's text."""
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number:
        return f"{path} cannot be read: {os.strerror(number)}"
    mark = getattr(error, "problem_mark", None)  # yaml's
    line = mark.line + 1 if mark is not None else getattr(error, "lineno", None)  # json's
    problem = getattr(error, "problem", None) or getattr(error, "msg", None)
    if isinstance(error, UnicodeError):
        problem = "it is not encoded as expected"
    where = f", line {line}" if line else ""
    first_line = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return f"{path}{where} cannot be read as {what}: {problem or first_line}"


def readable_config_files(paths: list[str], problems: list[str]) -> list[str]:
    """The paths that Aider's parser can read or that are not there; each of the others adds a sentence to *problems*.

    With any of the others Aider ends at once: to its parser a file without ``key: value`` pairs, even an empty one, is
    an error (configargparse.py: YAMLConfigFileParser.parse).
    """
    return [path for path in paths if not os.path.exists(path) or _is_mapping(path, problems)]


def _is_mapping(path: str, problems: list[str]) -> bool:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        with open(path) as stream:  # as Aider opens it, in the locale's encoding
            content = yaml.load(stream, Loader=loader)  # noqa: S506  # a safe loader, the faster of two
    except (OSError, UnicodeError, yaml.YAMLError, ValueError) as error:
        problems.append(unreadable(path, error, "YAML"))
        return False
    if not isinstance(content, dict):
        problems.append(f"{path} has no 'key: value' pairs, and Aider does not start with it")
        return False
    return True


def check_metadata(paths: list[str], problems: list[str]) -> None:
    """Add a sentence for the first metadata file that Aider cannot read: it reads none after it (models.py:1091)."""
    path = ""
    try:
        for path in filter(os.path.exists, paths):
            _check_json(path)
    except Exception as error:  # noqa: BLE001  # whatever json5 raises, Aider takes for an error
        reason = unreadable(path, error, "model metadata")
        problems.append(f"{reason}. Aider then reads no metadata file after it")


def _check_json(path: str) -> None:
    with open(path) as stream:  # as Aider opens it
        text = stream.read()
    try:
        content = json.loads(text) if text.strip() else {}
    except ValueError:
        # Aider's own reader, which is slow, and right for what is no plain JSON.
        content = importlib.import_module("json5").loads(text)
    if content and not isinstance(content, dict):
        raise ValueError("it is no mapping of names")


@contextmanager
def watch_dotenv(
    aider_main: Any, origins: Origins, loaded: list[str], problems: list[str]
) -> Iterator[None]:
    """Note, while Aider reads its ``.env`` files, which are read, what each sets, and what is wrong with them."""
    original = getattr(aider_main, "load_dotenv", None)
    if original is None:
        yield
        return

    def load(path: str, **options: Any) -> bool:
        with _parse_warnings(str(path), problems):
            try:
                is_set = bool(original(path, **options))
            except Exception as error:  # noqa: BLE001  # Aider says it when it starts, and goes on
                problems.append(unreadable(str(path), error, "variables"))
                return False
            loaded.append(str(path))
            # False where nothing was set, or where PYTHON_DOTENV_DISABLED is.
            for name in _names_in(path, options.get("encoding")) if is_set else ():
                origins.note(name, str(path))
        return is_set

    aider_main.load_dotenv = load
    try:
        yield
    finally:
        aider_main.load_dotenv = original


def _names_in(path: str, encoding: str | None) -> list[str]:
    values = importlib.import_module("dotenv").dotenv_values(
        path, interpolate=False, encoding=encoding
    )
    return [name for name, value in values.items() if value is not None]


@contextmanager
def _parse_warnings(path: str, problems: list[str]) -> Iterator[None]:
    """Turn dotenv's warnings about lines into sentences, each once, instead of text on the screen."""

    class Sentences(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = f", line {record.args[0]}" if isinstance(record.args, tuple) else ""
            sentence = f"{path}{line} cannot be read as variables"
            if sentence not in problems:
                problems.append(sentence)

    logger, handler = logging.getLogger("dotenv.main"), Sentences(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
