"""What is done with a finished run: load its model again, measure it elsewhere, probe or export it.

It may be imported by `bench.analysis`, `bench.cli` and `bench.api`; it may import every wing below it but
`bench.sweep`. It must know no method and no dataset by name, and must change nothing in the record of the run.
"""
