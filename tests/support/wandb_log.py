"""Reads what W&B keeps on disk of a run: LevelDB's log framing around protobuf records."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protocol

BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class Log:
    """What one ``.wandb`` file holds; `exit_code` is None for a run that has not ended."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None
    preempting: bool = False


def read(path: Path) -> Log:
    """The content of a ``.wandb`` file, as far as it is written."""
    log = Log()
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            log.run = record.run
            _put(log.config, record.run.config.update)
        elif kind == "config":
            _put(log.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _put(row, record.history.item)
            log.history.append(row)
        elif kind == "summary":
            _put(log.summary, record.summary.update)
        elif kind == "metric":
            log.axes[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact":
            log.artifacts.append(record.artifact)
        elif kind == "preempting":
            log.preempting = True
        elif kind == "exit":
            log.exit_code = record.exit.exit_code
    return log


def _records(data: bytes) -> Iterator[Any]:
    assert data[:6] == b":W&B" + struct.pack("<H", 0xBEE1)
    position, pending = HEADER, b""  # the header of the file is as long as that of a record
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # the rest of a block, too small for a header
            position += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + HEADER : position + HEADER + size]
        if len(chunk) < size:  # still being written
            return
        assert zlib.crc32(bytes([kind]) + chunk) == checksum
        position += HEADER + size
        pending = chunk if kind in (FULL, FIRST) else pending + chunk
        if kind in (FULL, LAST):
            record = protocol.Record()
            record.ParseFromString(pending)
            yield record


def _put(tree: dict[str, Any], items: Any) -> None:
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        branch = tree
        for key in parents:
            branch = branch.setdefault(key, {})
        branch[last] = json.loads(item.value_json)
