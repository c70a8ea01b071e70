"""A method tried without a run: the contract tests of ``python -m bench check``, on a toy model.

It may be imported by every wing above; it may import every wing below it. It must write no files, and must know no
method and no dataset by name.
"""
