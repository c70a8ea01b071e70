"""One run from its settings to its summary: checks, loading, the tasks in order, checkpoints, continuing.

It may be imported by every wing above; it may import every wing below it but `bench.sweep`. It must know no method and
no dataset by name.
"""
