"""A sweep file as the runs it means, and how they are carried out: one by one, several at a time, or on SLURM.

It may be imported by `bench.cli` and `bench.recipes`; it imports `bench.record`, `bench.metrics`, `bench.config` and
`bench.core`. It must import no torch: a point is a process of its own.
"""

from bench.moved import old_names

__getattr__ = old_names(__name__)
