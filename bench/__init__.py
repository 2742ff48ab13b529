"""What the guard costs, in numbers: ``python -m bench`` in the checkout. The tests' helpers are used here, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
