"""The verbs of ``python -m bench``, a file each.

Nothing imports it but ``bench.__main__``; it may import every other wing. It must hold no logic that a Python user would
miss: what a verb does lies in the wing below.
"""
