"""Images, tasks, streams and datasets, decoded once and served in batches.

It may be imported by every wing above; it imports `bench.core`, `bench.config` and `bench.model`. It must not know
methods, runs or records, nor any dataset by name.
"""
