"""What methods need, keep and add: declared, recorded, shown beside each other, and chosen by."""

import csv
import dataclasses
import json
import re

import pytest
from support.made_records import change, make

from bench.cli import main as cli
from bench.compare import grouping
from bench.compare import tables as compare
from bench.compare.export.numbers import csv_text
from bench.compare.export.paper import latex
from bench.config import registry
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.record.flags import WORDS, Flags, flags_of, registered
from bench.record.provenance import identity_of


def shown(root, filters=None, **options):
    comparison = grouping.gather([root], filters)
    return compare.text(comparison, compare.sections(comparison, options))


def labels(root, **filters):
    comparison = grouping.gather([root], {f"flags.{name}": value for name, value in filters.items()})
    return [group.label for field in comparison.fields for group in field.groups]


@pytest.fixture
def runs(tmp_path):
    """Three methods with different flags; of a fourth one nothing is known."""
    make(tmp_path, "lora")
    change(make(tmp_path, "keeplora"), "identity.json", flags={"grows": "directions"})
    held = Flags(task_at_test=True, grows="a head a task", extended=True).held()
    change(make(tmp_path, "heads"), "identity.json", flags=held)
    change(make(tmp_path, "stranger"), "identity.json", flags=None)
    return tmp_path


def test_flags_that_hold_are_recorded_in_words():
    flags = Flags(test_batch=True, grows="a head a task")
    assert flags.held() == {"test_batch": "yes", "grows": "a head a task"} and Flags().held() == {}
    assert flags.lines() == ["answers depend on the test batch", "grows with the tasks (a head a task)"]
    assert list(WORDS) == [field.name for field in dataclasses.fields(Flags)]


def test_settings_decide_flags_and_the_record_holds_them():
    def recorded(*words):
        resolved = resolve(words)
        return identity_of(resolved, (), "", {}).to_json()["flags"]

    directions = "protected directions, at most the width of a map"
    assert recorded("method=lora") == {}
    assert recorded("method=keeplora") == {"grows": directions}
    plus = {"task_at_test": "yes", "grows": f"{directions}; a head a task", "extended": "yes"}
    assert recorded("method=keeplora", "method.head=class-mean") == recorded("method=keeplora-plus") == plus
    assert set(recorded("method=inflora")) == {"task_count", "grows"}


def test_flags_of_an_old_record_are_those_of_the_registered_method():
    plus = registered({"method.name": "keeplora", "method.head": "class-mean"})
    assert plus is not None and plus["extended"] == "yes"
    assert registered({"method.name": "lora", "method.gone": 1}) == {}
    assert registered({"method.name": "nobody"}) is None and registered({}) is None
    assert registered({"method.name": "lora", "method.file": "lora.py"}) is None


def test_a_method_that_gives_no_flags_is_refused():
    class Wrong:
        registry_name = "wrong"

        @staticmethod
        def flags_for(settings):
            return settings["rank"]

    with pytest.raises(UserError, match=r'method "wrong": flags and flags_for\(\) must give bench.api.Flags, not int'):
        flags_of(Wrong, {"rank": 1})
    with pytest.raises(UserError, match=r'method "wrong": its flags_for\(\) fails: KeyError'):
        flags_of(Wrong, {})


@pytest.mark.parametrize("name", sorted(registry.entries("method")))
def test_a_method_is_listed_with_its_flags(name, capsys):
    assert cli.main(["list", "methods", name]) == 0
    said = re.search(r"what it needs, keeps and adds\n((?:  .*\n)+)", capsys.readouterr().out)
    cls = registry.load("method", name)
    lines = flags_of(cls, cls.Settings()).lines() or ["nothing special"]
    assert said is not None and " ".join(said[1].split()) == " ".join(lines)


def test_a_table_of_methods_with_different_flags_says_so(runs):
    note = (
        "methods differ in what they need, keep and add: heads: knows the task of a test image, grows with the tasks, "
        "extends the model; keeplora: grows with the tasks; lora: nothing special; stranger: not known"
    )
    assert f"  note: {note}\n" in shown(runs)
    assert "note" not in shown(runs, rows="[lora,stranger]")
    assert "LoRA: nothing special;" in shown(runs, names="{lora: LoRA}")
    sections = compare.sections(grouping.gather([runs]))
    assert f"M{note[1:]}." in " ".join(latex(sections).split())


def test_a_model_that_is_never_trained_needs_no_note(tmp_path):
    make(tmp_path, "zero-shot")
    change(make(tmp_path, "keeplora"), "identity.json", flags={"grows": "directions"})
    assert "note" not in shown(tmp_path)


def test_flags_are_shown_where_a_user_asks(runs):
    text = shown(runs, flags="on")
    assert "  keeplora: grows with the tasks (directions)\n  lora: nothing special\n  stranger: not known\n" in text
    assert "(directions)" not in shown(runs)
    with pytest.raises(UserError, match="flags=yes must be on or off"):
        shown(runs, flags="yes")
    lines = csv.DictReader(csv_text(compare.sections(grouping.gather([runs]))).splitlines())
    shown_flags = {(line["method"], line["flags"]) for line in lines}
    assert shown_flags >= {("lora", "nothing special"), ("stranger", "not known")}


def test_runs_are_chosen_by_flags(runs):
    assert labels(runs, extended="no") == ["keeplora", "lora"]
    assert labels(runs, grows="yes") == ["heads", "keeplora"]
    assert labels(runs, grows="yes", extended="no") == ["keeplora"]
    assert labels(runs, grows="[yes,no]") == ["heads", "keeplora", "lora"]
    with pytest.raises(UserError, match="no run here has flags.rehearsal=yes"):
        labels(runs, rehearsal="yes")
    with pytest.raises(UserError, match='no run here has a setting "flags.extend" .did you mean "flags.extended"'):
        labels(runs, extend="yes")
    with pytest.raises(UserError, match="flags.grows=maybe must be yes or no: compare shows with flags=on what it is"):
        labels(runs, grows="maybe")


def test_damaged_flags_are_damage(runs):
    path = make(runs, "broken")
    change(path, "identity.json", flags={"grows": 1})
    assert '"flags" has an entry that is not of type str' in shown(runs)
    assert json.loads((path / "identity.json").read_text())["flags"] == {"grows": 1}
