"""Many records side by side: groups over seeds, differences with intervals, tables, a page, pictures.

It may be imported by tracking, runs and cli; it reads records through `bench.record.schema` and imports metrics, config
and core. It must import no torch and start no run.
"""

from bench.moved import old_names

__getattr__ = old_names(__name__)
