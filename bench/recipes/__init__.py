"""Recipes: published tables as sweep files, with what they take and what must come out.

It may be imported by `bench.cli` only; it may import everything below `bench.cli` but `bench.analysis`. It must import
no torch at its own import: a list of recipes is shown at once.
"""
