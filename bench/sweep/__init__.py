"""A sweep file as the runs it means, and how they are carried out: one by one, several at a time, or on SLURM.

It may be imported by `bench.cli` only; it imports record, metrics, config and core. It must import no torch: a point is
a process of its own.
"""

from bench.moved import old_names

__getattr__ = old_names(__name__)
