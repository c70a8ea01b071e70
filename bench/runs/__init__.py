"""One run from its settings to its summary: checks, loading, the tasks in order, checkpoints, continuing.

It may be imported by `bench.cli` and `bench.api` only; it may import every wing but those two and `bench.sweep`. It
must know no method and no dataset by name.
"""
