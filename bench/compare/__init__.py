"""Many records side by side: groups over seeds, differences with intervals, tables, a page, pictures.

It may be imported by every wing above; it imports `bench.record`, `bench.metrics`, `bench.config` and `bench.core`, and
reads records through `bench.record.schema`. It must import no torch and start no run.
"""

from bench.moved import old_names

__getattr__ = old_names(__name__)
