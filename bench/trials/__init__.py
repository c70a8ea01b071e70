"""A method tried without a run: the contract tests of ``python -m bench check``, on a toy model.

It may be imported by `bench.cli` only; it may import `bench.runs` and the wings below it. It must write no files, and
know no method and no dataset by name.
"""
