"""Seconds of runs that shared a machine are marked, and no ratios are made of them."""

import pytest
from support.made_records import change, make

from bench.compare import extremes, grouping, runs, views
from bench.compare import tables as compare


def at(path, *began, host="a", total=60.0, load=0.0, reused=0.0):
    """Say when the processes of a run began, in minutes and seconds of one hour."""
    stamps = [{"host": host, "started": f"2026-11-27T12:{minutes:02}:{seconds:02}+0000"} for minutes, seconds in began]
    change(path, "environment.json", **stamps[0], continued=stamps[1:])
    change(path, "summary.json", seconds={"total": total, "load": load}, seconds_reused={"zero-shot row": reused})
    return path


def shared(*paths):
    return runs.sharing([runs.read(path) for path in paths])


def test_runs_that_overlap_on_one_host_shared_it(tmp_path):
    first = at(make(tmp_path, seed=0), (0, 0))
    second = at(make(tmp_path, seed=1), (0, 30))
    third = at(make(tmp_path, seed=2), (0, 30), host="b")
    later = at(make(tmp_path, seed=3), (10, 0))
    assert shared(first, second, third, later) == {first, second}
    assert shared(first, third, later) == set()


def test_one_run_after_another_shares_nothing(tmp_path):
    # Loading comes before the time that is recorded, and what was reused took no time.
    first = at(make(tmp_path, seed=0), (0, 0), total=75.0, load=5.0, reused=10.0)
    second = at(make(tmp_path, seed=1), (1, 0))  # times are whole seconds
    assert shared(first, second) == set()
    between = at(make(tmp_path, seed=2), (0, 58))
    assert shared(first, second, between) == {first, second, between}


def test_a_run_that_is_inside_of_a_long_one_is_found(tmp_path):
    long = at(make(tmp_path, seed=0), (0, 0), total=1000.0)
    inside = [at(make(tmp_path, seed=seed), (seed, 0), total=20.0) for seed in (1, 2, 3)]
    assert shared(long, *inside) == {long, *inside}


def test_a_continued_run_has_a_period_for_every_process(tmp_path):
    broken = at(make(tmp_path, seed=0), (0, 0), (30, 0), total=120.0)
    assert shared(broken, at(make(tmp_path, seed=1), (10, 0))) == set()
    other = at(make(tmp_path, seed=2), (30, 30))
    assert shared(broken, other) == {broken, other}
    assert [end - start for _, start, end in runs.read(broken).periods] == [120, 120]
    short = at(make(tmp_path, seed=3), (0, 0), (0, 10), total=120.0)
    assert [end - start for _, start, end in runs.read(short).periods] == [10, 120]


@pytest.mark.parametrize("started", [None, 3, "yesterday", [], "9999-99-99T12:00:00+0000"])
def test_a_record_that_does_not_say_when_shares_nothing(tmp_path, started):
    path = make(tmp_path)
    change(path, "environment.json", host="a", started=started, continued=[{"code": {}}])
    assert shared(path, at(make(tmp_path, seed=1), (0, 0))) == set()


def test_no_ratio_is_made_of_such_seconds(tmp_path):
    at(make(tmp_path, "keeplora"), (0, 0), total=60.0)
    at(make(tmp_path, "lora"), (5, 0), total=30.0)

    def view():
        (found,) = views.views(compare.sections(grouping.gather([tmp_path])))
        return found

    found = view()
    assert found.notes == [] and extremes.fastest(found) == 1
    assert extremes.contrast(found.lines[1], found.lines[0]).ratios["seconds"] == 0.5
    at(make(tmp_path, "another"), (5, 10), total=5.0)
    found = view()
    another, keeplora, lora = found.lines
    assert [line.group.shared for line in found.lines] == [1, 0, 1] and extremes.fastest(found) is None
    assert "seconds" not in extremes.contrast(lora, keeplora).ratios
    assert "seconds" not in extremes.contrast(keeplora, another).ratios
    note = "runs shared a machine, so that their seconds are not those of a run alone: another, lora"
    assert found.notes == [note] and note in compare.text(grouping.gather([tmp_path]), [found.section])
