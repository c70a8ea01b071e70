"""What a run is: settings with their sources, the registry of plug-ins, fingerprints, open_clip's catalogue of names.

It may be imported by every wing above; it imports `bench.core` only. It must import no torch and no plug-in at import
time, so that mistakes are answered at once.
"""

from bench.moved import old_names

__getattr__ = old_names(__name__)
