"""Shows the settings with where their values come from, and writes a file for them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from aider_guard.config import SETTINGS, Config
from aider_guard.core.printable import printable
from aider_guard.errors import ConfigError
from aider_guard.view.page import columns_of, wrapped

_TEMPLATE = Path(__file__).with_name("settings_template.toml")


def run_show_settings(config: Config, sources: Mapping[str, str], *, as_json: bool) -> int:
    """Print each setting, its value and its source; the exit status."""
    if as_json:
        facts = {
            name: {"value": _value(config, name), "source": sources[name]} for name in SETTINGS
        }
        click.echo(json.dumps(facts, indent=2))
        return 0
    indent = max(map(len, SETTINGS)) + 2
    for line in wrapped(setting_lines(config, sources), columns_of(sys.stdout), indent):
        click.echo(printable(line))
    return 0


def setting_lines(config: Config, sources: Mapping[str, str] | None = None) -> Iterator[str]:
    """Each setting with its value, and its source where *sources* are given, on lines of their own."""
    rows = [
        (name, _in_words(_value(config, name)), (sources or {}).get(name, "")) for name in SETTINGS
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, source in rows:
        yield f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}".rstrip()


def run_write_settings(path: Path) -> int:
    """Write the template to *path*, which is left alone where it exists. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise ConfigError(f"{path} is there already, and was left as it is") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {os.strerror(error.errno or 0)}") from error
    click.echo(f"wrote {printable(str(path))}: every setting is in it, commented out")
    return 0


def _value(config: Config, name: str) -> Any:
    value = getattr(config, name.replace("-", "_"))
    if name == "allow":
        return [str(place) for place in value]
    return value


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "auto" if value in (None, "") else str(value)
