"""The record of a run on disk: its files, where it comes from, and checkpoints to continue from.

It may be imported by every wing above; it imports `bench.data`, `bench.metrics`, `bench.compute`, `bench.config` and
`bench.core`. It must not know methods, and `bench.record.schema` must import no torch, since whoever compares records
reads it.
"""

from bench.moved import old_names

__getattr__ = old_names(__name__)
