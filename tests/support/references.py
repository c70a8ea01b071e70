"""The reference set that toy runs of methods that learn from one are given."""

from pathlib import Path

from bench.config.run_settings import REFERENCE, class_settings
from bench.learning.method import Method
from bench.record.flags import flags_of

TOY = Path(__file__).parent.parent / "toy.py"


def reference_of_toys(method: type[Method]) -> list[str]:
    """The words of a line that give a method the noise of tests/toy.py, if it learns from a reference set."""
    return [f"reference={TOY}"] if flags_of(method, class_settings(method)()).outside_data == REFERENCE else []
