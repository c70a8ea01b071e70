"""What a model knows and where: its weights in parts by energy, the subspaces of tasks, and how they overlap.

It may be imported by `bench.cli` and `bench.api` only; it may import every wing but those two, `bench.sweep` and
`bench.trials`. It must know no method and no dataset by name, and must leave every model and record as it was.
"""
