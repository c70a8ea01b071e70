"""The verbs of ``python -m bench``, one file each, and the dispatch between them.

It may be imported by ``bench.__main__`` only; it may import every other wing. It must hold no logic that a Python user
would miss: a verb reads words, calls a function of a lower wing and prints the answer.
"""
