"""Whether and as what a run is mirrored in W&B: login, environment variables, W&B's own files, names."""

import os
import typing
from pathlib import Path

import pytest
from support.fake_wandb import KEY
from support.mirroring import TOY, toy

from bench.cli.main import main
from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.runs.run import run
from bench.tracking.limits import IN_ADDRESSES, IN_IDS, LONGEST_NAME, LONGEST_TAG, MODES
from bench.tracking.mirror import Mirror
from bench.tracking.options import MirrorOptions, mirror_options, recorded_symbols, run_name, symbols_of


def asked(*words: str) -> MirrorOptions:
    resolved = toy(Path("runs"), *words)
    return mirror_options(resolved.flat, resolved.sources)


def test_auto_without_a_login_is_off_and_says_how_to_turn_it_on() -> None:
    found = asked()
    assert found.mode == "off"
    assert "wandb login" in found.note and "track.wandb=offline" in found.note and "\n" not in found.note
    assert asked("track.wandb=off").note == ""


def test_the_note_is_said_once_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def said() -> list[str]:
        lines: list[str] = []
        Mirror(asked(), lines.append).start(tmp_path)
        return lines

    assert [line[:18] for line in said()] == ["note: no W&B login"]
    assert said() == []
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", "~nosuchuser", "/proc/nowhere"):  # nothing can be written there
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert len(said()) == len(said()) == 1


def test_auto_with_a_login_is_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        assert (asked().mode, asked().note) == ("online", "")
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_IDENTITY_TOKEN_FILE", "token")
        assert asked().mode == "online"
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert asked().mode == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.org:8080")
    assert asked().mode == "off"  # a login for another server is none
    netrc.write_text(f"machine wandb.example.org:8080 login user password {KEY}\n")
    assert asked().mode == "online"
    netrc.write_text("machine")  # damaged
    assert asked().mode == "off"


def test_the_login_of_a_server_named_in_wandbs_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "settings").write_text("[default]\nbase_url = https://own.example.org\nentity = team%\n")
    assert asked().mode == "off"
    (tmp_path / "netrc").write_text(f"machine own.example.org login user password {KEY}\n")
    assert (asked().mode, asked().entity) == ("online", "team%")
    (tmp_path / "settings").write_text("no settings")
    assert asked().mode == "off"


@pytest.mark.parametrize(
    ("word", "variable", "mode"),
    [
        ("auto", "offline", "offline"),
        ("auto", "disabled", "off"),
        ("auto", "online", "online"),
        ("off", "online", "off"),
        ("offline", "online", "offline"),
        ("online", "disabled", "online"),
    ],
)
def test_the_environment_decides_where_the_user_does_not(
    monkeypatch: pytest.MonkeyPatch, word: str, variable: str, mode: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", variable)
    found = asked(f"track.wandb={word}")
    assert (found.mode, found.note) == (mode, "")


def test_online_without_a_login_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.runs.loading.load_model", lambda resolved: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match="^track.wandb=online needs a W&B login: .*WANDB_API_KEY") as caught:
        run(toy(tmp_path, "track.wandb=online"))
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="^WANDB_MODE=online needs a W&B login"):
        run(toy(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_user_win_over_the_environment_and_that_over_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked()
    assert (found.project, found.entity, found.group) == ("keeplora-bench", None, "lora toy")
    assert (found.tags, found.weights) == ([], False)
    for key in ("PROJECT", "ENTITY", "RUN_GROUP", "NAME"):
        monkeypatch.setenv(f"WANDB_{key}", f"of-{key}")
    monkeypatch.setenv("WANDB_TAGS", "x,y")
    found = asked()
    assert (found.project, found.entity, found.group, found.name) == (
        "of-PROJECT", "of-ENTITY", "of-RUN_GROUP", "of-NAME",
    )  # fmt: skip
    assert found.tags == ["x", "y"]
    found = asked("track.project=p", "track.entity=e", "track.group=g", "track.name=n", "track.tags=[t]")
    assert (found.project, found.entity, found.group, found.name, found.tags) == ("p", "e", "g", "n", ["t"])


# ------------------------------------------------------------------------------------------------ what W&B takes

LONG = "x" * 129


def refused(*words: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        asked("track.wandb=offline", *words)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            f"track.tags=[a,{'x' * 65}]",
            f'track.tags: the tag "{"x" * 65}" has 65 characters, and W&B takes 1 to 64: change it',
        ),
        ("track.tags=['']", 'track.tags: the tag "" has 0 characters, and W&B takes 1 to 64: change it'),
        (
            "track.project=team/project",
            "track.project=team/project is a team and a project: write track.entity=team track.project=project",
        ),
        (
            "track.project=a/b/c",
            "track.project=a/b/c holds /, which W&B does not take in the name of a project: change it",
        ),
        (
            "track.project=a#b%",
            "track.project=a#b% holds # %, which W&B does not take in the name of a project: change it",
        ),
        (
            f"track.project={LONG}",
            f"track.project={LONG[:100]}... has 129 characters, and W&B takes 128 in the name of a project: shorten it",
        ),
        (
            f"track.name={LONG}",
            f"track.name={LONG[:100]}... has 129 characters, and W&B takes 128 in the name of a run: shorten it",
        ),
        ("track.entity=a/b", "track.entity=a/b holds /, which W&B does not take in the name of a team: change it"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_the_run(word: str, said: str) -> None:
    assert refused(word) == [said]
    assert asked("track.wandb=off", word).mode == "off"  # and nobody minds where nothing is mirrored


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "WANDB_PROJECT",
            "team/p",
            "WANDB_PROJECT=team/p is a team and a project: write track.entity=team track.project=p",
        ),
        (
            "WANDB_TAGS",
            "a," + "y" * 70,
            f'WANDB_TAGS: the tag "{"y" * 70}" has 70 characters, and W&B takes 1 to 64: change it',
        ),
        (
            "WANDB_NAME",
            LONG,
            f"WANDB_NAME={LONG[:100]}... has 129 characters, and W&B takes 128 in the name of a run: shorten it",
        ),
        ("WANDB_NAME", "\udcff", r"WANDB_NAME=\udcff is no text in UTF-8: change it"),
        (
            "WANDB_RUN_ID",
            "a/b:c",
            "WANDB_RUN_ID=a/b:c holds / :, which W&B does not take in the id of a run: change it",
        ),
        (
            "WANDB_RUN_ID",
            " ab",
            "WANDB_RUN_ID= ab begins or ends with a blank, which W&B does not take in the id of a run: change it",
        ),
    ],
)
def test_so_is_what_a_variable_says(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setitem(os.environ, variable, value)
    assert refused() == [said]


def test_a_variable_that_does_not_count_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "team/p")
    monkeypatch.setenv("WANDB_TAGS", "y" * 70)
    found = asked("track.wandb=offline", "track.project=p", "track.tags=[t]")
    assert (found.project, found.tags) == ("p", ["t"])


def test_the_limits_themselves_are_within_them() -> None:
    found = asked(
        "track.wandb=offline", f"track.tags=[{'x' * 64}]", f"track.name={LONG[1:]}", f"track.project={LONG[1:]}"
    )
    assert (len(found.tags[0]), len(found.name), len(found.project)) == (64, 128, 128)


def test_limits_are_those_of_the_client() -> None:
    """What the installed client refuses at once is refused here; it knows no limit for names of runs."""
    import wandb

    for key, good, bad in (
        ("run_tags", ["x" * LONGEST_TAG], ["x" * (LONGEST_TAG + 1)]),
        ("project", "x" * LONGEST_NAME, "x" * (LONGEST_NAME + 1)),
        *(("project", "x", f"a{sign}b") for sign in IN_ADDRESSES),
        *(("run_id", "x", f"a{sign}b") for sign in IN_IDS),
    ):
        wandb.Settings(**{key: good})
        with pytest.raises(Exception, match="(?i)tag|project name|run id"):
            wandb.Settings(**{key: bad})
    modes = wandb.Settings.model_fields["mode"].annotation
    assert set(typing.get_args(modes)) == set(MODES)


def test_several_problems_are_reported_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["track.wandb=offline", "track.project=a/b", f"track.tags=[{'x' * 65}]", f"out={tmp_path}"]
    assert main(["run", "method=zero-shot", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("error: track.") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WANDB_MODE", "ofline", '^WANDB_MODE=ofline is no mode of W&B .did you mean "offline"'),
        ("WANDB_MODE", "quiet", "^WANDB_MODE=quiet is no mode of W&B .valid: disabled, dryrun, offline"),
        ("WANDB_DISABLED", "maybe", "^WANDB_DISABLED=maybe says neither yes nor no: write true or false, or unset it"),
    ],
)
def test_an_unknown_mode_is_answered(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=said):
        asked()
    assert asked("track.wandb=offline").mode == "offline"  # what the user says counts


@pytest.mark.parametrize(
    ("value", "mode"),
    [("true", "off"), ("1", "off"), ("Yes", "off"), ("false", "online"), ("0", "online"), ("", "online")],
)
def test_wandb_disabled_is_obeyed(monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_DISABLED", value)
    assert (asked().mode, asked("track.wandb=online").mode) == (mode, "online")


def test_an_unknown_mode_in_wandbs_settings_is_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text("[default]\nmode = ofline\nproject = a/b\n")
    with pytest.raises(UserError, match="^W&B's settings file says mode = ofline is no mode of W&B"):
        asked()
    assert refused() == [
        "W&B's settings file says project = a/b is a team and a project: write track.entity=a track.project=b"
    ]


def test_the_client_does_not_read_variables_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ("PROJECT", "ENTITY", "RUN_GROUP", "NAME", "TAGS", "RUN_ID", "RESUME", "JOB_TYPE", "DISABLED", "CONSOLE")
    for key in (*mine, "HTTP_TIMEOUT"):
        monkeypatch.setenv(f"WANDB_{key}", "7")
    mirror = Mirror(asked("track.wandb=offline"), print)
    there = {f"WANDB_{key}" for key in mine} & set(mirror._environment())
    assert there == set() and mirror._environment()["WANDB_HTTP_TIMEOUT"] == "7"
    assert (mirror.options.project, mirror._state(None).id, mirror._environment()["WANDB_MODE"]) == (
        "7",
        "7",
        "offline",
    )
    monkeypatch.setenv("WANDB_SWEEP_ID", "swept")  # wandb takes these from its agent, whatever it is told
    there = {f"WANDB_{key}" for key in mine} & set(mirror._environment())
    assert there == {"WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_ID"}


@pytest.mark.parametrize("path", ["~nosuchuser/netrc", "x" * 300])
def test_credentials_where_no_file_can_be_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str) -> None:
    monkeypatch.setenv("NETRC", path)
    monkeypatch.setenv("WANDB_CONFIG_DIR", path)
    assert asked().mode == "off"
    (tmp_path / "netrc").write_bytes(b"machine \xff\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert asked().mode == "off"


def name(*words: str) -> str:
    resolved = resolve(words)
    return run_name(resolved.flat, resolved.sources, symbols_of({"method": resolved.method_class, "model": None}))


def test_a_name_says_what_is_special_about_a_run() -> None:
    assert name("method=keeplora") == "keeplora-pocket-s0"
    assert name("method=keeplora", "method.rank=16", "seed=3", "out=x", "track.tags=[a]") == "keeplora-r16-pocket-s3"
    assert name("method=lora", "train.lr=0.01", "model=ViT-B-16/openai") == "lora-lr0.01-ViT-B-16-openai-pocket-s0"
    assert name("method=lora", f"stream={TOY}", f"model={TOY}") == "lora-tiny-toy-s0"


def test_a_number_stands_after_the_symbol_of_its_setting() -> None:
    assert name("method=lora", "method.alpha=2") == "lora-alpha2.0-pocket-s0"
    assert name("method=keeplora", "method.weight_energy.text=0.5") == "keeplora-eps_w.text0.5-pocket-s0"
    # W&B's page shows no paper beside a name: a word or a switch needs the name of its setting.
    assert name("method=keeplora", "method.weight_side=output") == "keeplora-weight_sideoutput-pocket-s0"
    assert name("method=keeplora", "method.zero_b=true", "method.init=random").startswith("keeplora-")
    assert "zero_btrue" in name("method=keeplora", "method.zero_b=true")


def test_symbols_of_a_record_come_from_registered_plug_ins_only(tmp_path: Path) -> None:
    assert recorded_symbols({"method.name": "lora", "stream.name": "pocket", "model.name": "pocket"}) == {
        "method.rank": "r",
        "method.alpha": "alpha",
    }
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit")
    flat = {"method.name": "lora", "method.file": str(trap), "stream.name": "gone", "model.name": "ViT-B-16/openai"}
    assert recorded_symbols(flat) == {}
