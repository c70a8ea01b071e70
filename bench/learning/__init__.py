"""How a method learns: its contract, the training loop, what can be measured on a task, and evaluation.

It may be imported by `bench.runs` and `bench.cli`; it imports data, model, compute, config and core. It must know no
method by name, and neither records nor W&B.
"""
