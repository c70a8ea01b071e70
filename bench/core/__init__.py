"""Small things that every other wing needs: errors, files, text tables, signals, console, rank, lazy torch.

It may be imported from everywhere. It must import nothing else of ``bench`` and no torch.
"""
