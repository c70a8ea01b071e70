"""How often and how tests try what hypothesis thinks of.

The environment variable FUZZ multiplies the number of tries: ``FUZZ=20 make test``, which are other ones every time.
"""

import os

from hypothesis import HealthCheck, settings

FUZZ = float(os.environ.get("FUZZ", "1"))


def tries(count: int) -> settings:
    """Settings of a test that tries so many inputs, the same ones in every run unless FUZZ asks for others."""
    return settings(
        max_examples=round(count * FUZZ),
        deadline=None,
        database=None,
        derandomize=FUZZ == 1,
        suppress_health_check=list(HealthCheck),
    )
