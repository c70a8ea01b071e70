"""The machine under a run: its processes, its device, its random numbers.

It may be imported by every wing above; it imports `bench.core` only. It must not know settings, models, data or
methods.
"""
