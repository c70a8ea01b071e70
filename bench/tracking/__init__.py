"""The mirror in W&B: a process that follows a record and sends it, and dashboards made of what was sent.

It may be imported by `bench.runs` and `bench.cli`; it imports `bench.compare`, `bench.record`, `bench.metrics`,
`bench.config` and `bench.core`. It must import no torch, and nothing here may make a run fail or wait.
"""
