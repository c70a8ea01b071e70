"""Measures the suite on a GPU, and first whether it is right there, in at most six minutes: docs/benchmarks/gpu.py

    python docs/benchmarks/gpu.py --write --json found.json     # the tables of docs/performance.md, and all numbers
    python docs/benchmarks/gpu.py seconds=120                   # what is left then is not measured
    python docs/benchmarks/gpu.py device=cpu size=small         # every line of it, on a machine without a GPU

It ends with exit status 1 and one sentence if the device does not compute what the CPU does. Rows are measured in
order of importance, each while there is time for another one as long as the longest so far. Numbers of training are of
whole fits from images in the cache; "waits for data" is the share of their time that goes away where the batch lies on
the device already.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_checks import METHODS, Broken, checks
from gpu_long import beside, phases
from gpu_rows import SIZES, Bench, Size
from gpu_table import Budget, counts, name_of, section, written

from bench.compute.device import choose_device, deterministic, is_out_of_memory, processor
from bench.core.errors import UserError
from bench.core.files import write_atomic

PAGE = Path(__file__).parent.parent / "performance.md"

WORDS = {"device": "cuda", "size": "full", "seconds": "360"}
"""The words KEY=VALUE, with what they are by default."""

DEVICES = ("cuda", "cpu", "auto")

OUT_OF_MEMORY = "out of memory"

Piece = tuple[str, Callable[[Bench], dict[str, float | None]]]
"""The name of a row, and what returns its numbers."""


def options(words: Sequence[str]) -> dict[str, str]:
    """Return the values of the words."""
    found = dict(WORDS)
    for word in words:
        key, _, value = word.partition("=")
        if key not in WORDS or not value:
            raise UserError(f'unknown word "{word}": write {", ".join(f"{key}=" for key in WORDS)} with a value')
        found[key] = value
    for key, known in (("device", DEVICES), ("size", SIZES)):
        if found[key] not in known:
            raise UserError(f"{key}={found[key]} is none of {', '.join(known)}")
    if not found["seconds"].isdecimal():
        raise UserError(f"seconds={found['seconds']} must be a whole number")
    return found


def precisions_of(device: torch.device) -> list[list[str]]:
    """The precisions of a device; those that matter most come first."""
    return [["fp32", "bf16"], ["tf32", "fp16"] if device.type == "cuda" else ["fp16"]]


def plan(model: str, groups: Sequence[Sequence[str]]) -> Iterator[Piece]:
    """Yield what is measured on a model, in order of importance; a method begins its task once for some precisions."""
    for precisions in groups:
        for method in METHODS:
            for precision in precisions:
                yield name_of(model, precision, method), partial(Bench.training, name=method, precision=precision)
        for precision in precisions:
            yield name_of(model, precision, "evaluation"), partial(Bench.evaluation, precision=precision)
            if precision in ("fp32", "tf32"):
                yield name_of(model, precision, "passes"), partial(Bench.passes, precision=precision)
        if precisions is groups[0]:
            for _, precision, phase in phases([model], precisions):
                yield name_of(model, precision, phase), partial(beside, phase=phase, precision=precision)


def measured(size: Size, device: torch.device, budget: Budget, folder: Path) -> Iterator[tuple[str, Any]]:
    """Measure what there is time for; yield the name of every row, and its numbers or why there are none."""
    for model in size.models:
        bench: Bench | None = None  # one model at a time is on the device
        free(device)
        for name, work in plan(model, precisions_of(device)):
            if not budget.fits:
                return
            with budget.piece():
                try:
                    bench = bench or Bench(model, size, device, folder / model)
                    row: Any = work(bench)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    row = OUT_OF_MEMORY
            if row == OUT_OF_MEMORY:
                free(device)  # not before the error and what it refers to are gone
            yield name, row


def free(device: torch.device) -> None:
    """Give back memory of the device that nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def benchmark(words: Sequence[str], write: bool, file: Path | None) -> None:
    """Check, measure, and say what was found."""
    chosen = options(words)
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise UserError(f"--json {file} cannot be written: name a file in a folder that is there")
    device, size = choose_device(chosen["device"]), SIZES[chosen["size"]]
    budget, groups = Budget(float(chosen["seconds"])), precisions_of(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    right: dict[str, dict[str, float]] = {}
    found: dict[str, Any] = {}
    about = {"device": name, "kind": device.type, "torch": torch.__version__, "seconds": 0.0, "checks": right}
    about |= {"models": list(size.models), "precisions": [*groups[0], *groups[1]], "size": dataclasses.asdict(size)}

    def keep() -> None:
        about["seconds"] = budget.spent
        if file is not None:
            write_atomic(file, json.dumps({"about": about, "found": found}, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as folder, deterministic(None):
        for method, loss, images in checks(device.type, Path(folder)):
            right[method] = {"loss": loss, "images": images}
            print(f"{budget.spent:6.1f} s  {method} is right", file=sys.stderr, flush=True)
        keep()
        for row, numbers in measured(size, device, budget, Path(folder)):
            found[row] = numbers
            print(f"{budget.spent:6.1f} s  {row}", file=sys.stderr, flush=True)
            keep()  # at once, so that a later row that fails loses nothing
    text = section(about, found, phases(size.models, groups[0]))
    print(text)
    if write and counts(device.type, found):
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    elif write:
        print(f"{PAGE.name} stays as it is: nothing was measured on a GPU", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help=", ".join(f"{k}={v}" for k, v in WORDS.items()))
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    parser.add_argument("--json", type=Path, help="write all numbers into this file")
    arguments = parser.parse_args()
    try:
        benchmark(arguments.words, arguments.write, arguments.json)
    except Broken as broken:
        print(f"error: {broken}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
