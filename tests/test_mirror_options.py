"""Whether and as what a run is mirrored in W&B: login, environment variables, W&B's own files, names."""

from pathlib import Path

import pytest
from support.fake_wandb import KEY
from support.mirroring import TOY, toy

from bench.config.resolve import resolve
from bench.core.errors import UserError
from bench.runs.run import run
from bench.tracking.options import MirrorOptions, mirror_options, recorded_symbols, run_name, symbols_of


def asked(*words: str) -> MirrorOptions:
    resolved = toy(Path("runs"), *words)
    return mirror_options(resolved.flat, resolved.sources)


def test_auto_without_a_login_is_off_and_says_how_to_turn_it_on() -> None:
    found = asked()
    assert found.mode == "off"
    assert "wandb login" in found.note and "track.wandb=offline" in found.note and "\n" not in found.note
    assert asked("track.wandb=off").note == ""


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
