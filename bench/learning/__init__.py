"""How a method learns: its contract, the training loop, what can be measured on a task, and evaluation.

It may be imported by every wing above; it imports `bench.data`, `bench.model`, `bench.compute`, `bench.config`,
`bench.core`, and of `bench.record` what flags a method has. It must know no method by name, and must write no record
and nothing to W&B.
"""
