"""The accuracy matrix, the scalars that are read off it, the outcomes behind it, and its text.

It may be imported by every wing above; it imports `bench.core` only. It must import no torch and know no run.
"""
