"""The sample repository: a small package with a bug, its tests, and a file name with a space.

Its one commit is the same each time, hash included: dates, author and branch are fixed and no
setting of the user's takes part.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from aider_guard.demo.layout import RigError

if TYPE_CHECKING:
    from pathlib import Path

BUGGY_FILE = "till/prices.py"
TEST_FILE = "tests/test_prices.py"
CONVENTIONS_FILE = "docs/coding conventions.md"
LARGE_FILE = "till/catalogue.py"

_PRICES = '''"""Prices are whole cents, so that sums are exact."""

from till.catalogue import CENTS


def total(basket):
    """Return the price of a basket, a mapping of article to quantity."""
    return sum(CENTS[article] for article, quantity in basket.items())


def discounted(cents, percent):
    """Return the price less so many per cent, rounded down."""
    return cents - cents * percent // 100


def as_text(cents):
    """Return the price as it is printed: 1250 is '12.50'."""
    return f"{cents // 100}.{cents % 100:02}"
'''

_TESTS = """from till.prices import as_text, discounted, total


def test_total_counts_every_piece():
    assert total({"red apple": 3}) == 3 * 31


def test_discount():
    assert discounted(1000, 15) == 850


def test_text_keeps_two_digits():
    assert as_text(1205) == "12.05"
"""

_README = """# till

The price of a shopping basket. `python -m pytest` runs the tests; one of them fails:
`total` forgets how many pieces of an article are in the basket.
"""

_CONVENTIONS = """# Coding conventions

- Prices are whole cents, never floats.
- A function has one sentence that says what it returns.
- A bug is fixed together with the test that shows it.
"""

_GOODS = (
    *("apple", "bean", "bread", "butter", "cheese", "cherry", "fish", "honey"),
    *("lemon", "mushroom", "nut", "olive", "onion", "pear", "rice", "tomato"),
)
_KINDS = (
    *("red", "green", "small", "large", "fresh", "dried", "sweet", "sour"),
    *("local", "foreign", "cheap", "fine", "loose", "packed", "frozen", "ripe"),
)
_ORIGINS = (
    "from the farm behind the old mill",
    "from the market by the river, on Saturdays only",
    "from the shop at the corner, while there is any",
)


def _catalogue() -> str:
    """Return a module that takes about 75 % of a window of 8,192 tokens.

    It is made of words, because tokenizers differ in how they split numbers: what Aider estimates
    and what the small model counts are then within 10 % of each other.
    """
    articles = [f"{kind} {good}" for good in _GOODS for kind in _KINDS]
    rows = [
        f'    "{article}": {31 + place % 60},  # {article}, {_ORIGINS[place % len(_ORIGINS)]}'
        for place, article in enumerate(articles)
    ]
    return "\n".join(['"""What an article costs."""', "", "CENTS = {", *rows, "}", ""])


def sample_files() -> dict[str, str]:
    """Return the repository's files: path to content."""
    return {
        ".gitignore": ".aider*\n__pycache__/\n.pytest_cache/\n",
        "README.md": _README,
        CONVENTIONS_FILE: _CONVENTIONS,
        "till/__init__.py": '"""Prices of shopping baskets."""\n',
        LARGE_FILE: _catalogue(),
        BUGGY_FILE: _PRICES,
        TEST_FILE: _TESTS,
    }


def make_sample(folder: Path) -> Path:
    """Create the repository in ``folder``, which may exist if it is empty, and return the folder.

    Raises:
        RigError: git is not there or fails; with what it said.
    """
    for name, content in sample_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    _git(folder, "init", "--quiet")
    _git(folder, "symbolic-ref", "HEAD", "refs/heads/main")  # `init -b` needs git 2.28
    _git(folder, "config", "user.name", "Sam Ple")
    _git(folder, "config", "user.email", "sam@example.invalid")
    # Aider commits here, and would ask for a passphrase.
    _git(folder, "config", "commit.gpgsign", "false")
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "-m", "A till that forgets quantities")
    return folder


def _git(folder: Path, *words: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    date = "2024-01-01T12:00:00+0000"
    fixed = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_DATE": date,
        "GIT_COMMITTER_DATE": date,
    }
    command = ["git", "-c", "core.autocrlf=false", "-c", "init.templateDir=", *words]
    try:
        subprocess.run(
            command, cwd=folder, env=inherited | fixed, check=True, capture_output=True, text=True
        )
    except OSError as error:
        raise RigError(f"git is needed for the sample repository: {error.strerror}.") from error
    except subprocess.CalledProcessError as error:
        raise RigError(f"`git {words[0]}` failed in {folder}: {error.stderr.strip()}") from error
