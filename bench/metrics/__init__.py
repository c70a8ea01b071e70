"""The accuracy matrix, the scalars that are read off it, the outcomes behind it, and its text.

It may be imported by every wing above; it imports `bench.core` only. It must import no torch and know no run.
"""

from bench.moved import old_names

__getattr__ = old_names(__name__)
