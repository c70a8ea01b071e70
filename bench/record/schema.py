"""What the files of a record are called and what they hold."""

BATCHES = "batches.jsonl"
"""The record of the order of batches."""
