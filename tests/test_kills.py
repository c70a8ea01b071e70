"""Fifty SIGKILLs at random moments of real runs on the embedded stream; every run that gets through is exact."""

import random
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from support.toy_runs import assert_same, start

from bench.config.fingerprint import run_directory
from bench.config.resolve import resolve

KILLS = 50
LINE = ["method=keeplora", "stream.tasks=[icons,flags]", "train.epochs=1", "threads=1", "batches.record=true"]


def attempt(line: list[str], draw: random.Random, spare: bool) -> tuple[str, bool]:
    """Start the line and kill it at a random moment: of loading, one time in four, else of the work after it.

    A process that is to be spared lives on. Returns what it printed, and whether it was killed.
    """
    process = start(line)
    if spare:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        return out, False
    writer = run_directory(resolve(line)) / "writer"
    if draw.random() < 0.25:
        wait = draw.uniform(0, 8)
    else:
        old = writer.stat().st_mtime_ns if writer.exists() else 0
        while process.poll() is None and not (writer.exists() and writer.stat().st_mtime_ns != old):
            time.sleep(0.005)
        wait = draw.uniform(0, 6)
    try:
        out, errors = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0], True
    assert process.returncode == 0, errors
    return out, False


@pytest.mark.slow
def test_killed_at_random_moments_every_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight_line = [*LINE, f"out={tmp_path / 'straight'}", "checkpoint.every=null"]
    process = start(straight_line)
    assert process.wait() == 0, process.communicate()
    straight = run_directory(resolve(straight_line))
    draw, kills, finished, begun = random.Random(0), 0, 0, Counter[str]()
    while kills < KILLS:
        line = [*LINE, f"out={tmp_path / str(finished)}", "checkpoint.every=0.01"]
        killed = True
        while killed:
            out, killed = attempt(line, draw, spare=kills == KILLS)
            kills += killed
            found = re.search(r"continuing (before any task|in task|after the last task)", out)
            begun[found[1] if found else "from the start or while loading"] += 1
        assert_same(straight, run_directory(resolve(line)))
        finished += 1
    print(f"{kills} kills, {finished} runs finished; attempts that began: {dict(begun)}")
    assert begun["in task"] >= 10
