"""How often and how tests try what hypothesis thinks of.

The environment variable FUZZ multiplies the number of tries. They are the same ones in every run, so that a test passes
or fails by what the code is; with FUZZ_FRESH they are other ones every time (``make fuzz``).
"""

import os

from hypothesis import HealthCheck, settings

FUZZ = float(os.environ.get("FUZZ", "1"))


def tries(count: int) -> settings:
    """Settings of a test that tries so many inputs, the same ones in every run unless others are asked for."""
    return settings(
        max_examples=round(count * FUZZ),
        deadline=None,
        database=None,
        derandomize=not os.environ.get("FUZZ_FRESH"),
        suppress_health_check=list(HealthCheck),
    )
