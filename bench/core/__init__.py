"""Small things that every other wing needs: errors, files, text tables, signals, console, rank, lazy torch.

It may be imported by every wing; it imports nothing else of ``bench``. It must import no torch.
"""
