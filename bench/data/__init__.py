"""Images, tasks, streams and datasets, decoded once and served in batches.

It may be imported by every wing above; it imports `bench.model`, `bench.compute`, `bench.metrics`, `bench.config` and
`bench.core`. It must not know methods, runs or records, nor any dataset by name.
"""
