"""`model.match_params`: the nearest width, said once, stored as the width alone."""

from __future__ import annotations

import sys

import pytest
import yaml

from inlearn.cli.main import main
from inlearn.core.configuration import digest
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.build import build_study
from inlearn.lab.config import RunBase, compose, identity
from inlearn.lab.matching import count
from inlearn.lab.session import resume, start

FOUND = discovery.study("regression")
KINDS = tuple(discovery.models())


def composed(*words: str, study: discovery.FoundStudy = FOUND) -> RunBase:
    return compose(study, words)


def parameters(config: RunBase) -> int:
    """Of the model as a run builds it, with memory and all."""
    return sum(p.numel() for p in config.model.build(build_study(config).interface).parameters())


def nearest(asked: int, *words: str, until: int = 200) -> int:
    """The slow and obvious search: every width, one by one."""
    counts = {}
    for width in range(1, until):
        try:
            config = composed(*words, f"model.width={width}")
        except UserError:
            continue
        counts[width] = count(config.model, build_study(config).interface)
    return min(counts, key=lambda width: (abs(counts[width] - asked), width))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", [20_000, 68_224])
def test_no_width_comes_nearer_for_any_model(kind, asked):
    config = composed(f"model={kind}", f"model.match_params={asked}")
    assert config.model.width == nearest(asked, f"model={kind}")
    assert count(config.model, build_study(config).interface) == parameters(config)


@pytest.mark.parametrize(
    ("words", "step"),
    [
        (("model.heads=3",), 3),
        (("model.heads=3", "model.positions=rotary"), 6),
        (("model.heads=1", "model.layers=5", "model.mlp=48"), 1),
    ],
)
def test_only_possible_widths_are_picked_and_the_rest_stays_as_asked(words, step):
    config = composed(*words, "model.match_params=30000")
    assert config.model.width % step == 0 and config.model.width == nearest(30_000, *words)
    assert config == composed(*words, f"model.width={config.model.width}")


def test_of_two_widths_equally_near_the_smaller_is_picked():
    one, two = (composed("model.heads=1", f"model.width={width}") for width in (20, 21))
    here, there = parameters(one), parameters(two)
    half, odd = divmod(here + there, 2)
    assert composed("model.heads=1", f"model.match_params={half}").model.width == 20
    assert composed("model.heads=1", f"model.match_params={half + 1}").model.width == 21
    assert not odd, "choose widths whose counts have a middle"


@pytest.mark.parametrize("width", [4, 52, 256])
def test_a_count_that_a_width_has_gives_that_width_and_the_same_run(width):
    wide = composed(f"model.width={width}", "seed=3")
    matched = composed(f"model.match_params={parameters(wide)}", "seed=3")
    assert matched == wide
    assert digest(identity(matched, FOUND, None)) == digest(identity(wide, FOUND, None))
    assert "match_params" not in str(identity(matched, FOUND, None))


def test_it_is_said_once_in_one_line():
    said: list[str] = []
    config = compose(FOUND, ["model.match_params=68224"], say=said.append)
    off = 100 * abs(parameters(config) - 68_224) / 68_224
    assert said == [
        f"model.width = {config.model.width}: {parameters(config):,} parameters (asked for 68,224, {off:.1f} % off)"
    ]
    compose(FOUND, [f"model.match_params={parameters(config)}"], say=said.append)
    assert said[1].endswith("parameters (as asked)")


REFUSED = [
    (("model.match_params=1",), "model.match_params = 1: expected at least "),
    (("model.match_params=0",), "expected at least "),
    (("model.match_params=99999999999999999999",), "which model.width = 65536 has"),
    (("model.match_params=-5",), "model.match_params = -5: expected a whole number"),
    (("model.match_params=1e5",), "model.match_params = 1e5: expected a whole number"),
    (("model.match_params=68224.0",), "expected a whole number"),
    (("model.match_params=none",), "expected a whole number"),
    (("model.match_params=",), "expected a whole number"),
    (("model.match_params=5000", "model.width=16"), "model.match_params = 5000 and model.width = 16"),
    (("model.match_params=5000", "model.match_params=6000"), "is given twice"),
    (("model.match_params=1,2",), "reads as a sweep axis"),
    (("model.match_params.more=1",), "'model.match_params' is a value"),
    (("model.match_parms=5000",), "did you mean 'model.match_params'?"),
    (("match_params=5000",), "did you mean 'model.match_params'?"),
    (('model={"kind":"transformer","match_params":5000,"width":4}',), "model.match_params = 5000 and model.width = 4"),
    (('model={"kind":"transformer","match_params":true}',), "expected a whole number"),
    (('model={"kind":"transformer","match_params":5000,"heds":4}',), "did you mean 'model.heads'?"),
    (("model.match_params=5000", "model.heads=3", "model.kv_heads=2"), "heads = 3 is not divisible by kv_heads = 2"),
    (("model.match_params=5000", "model.heads=70000"), "is not divisible by heads = 70000"),
    (("model.match_params=5000", "model.tied=true"), "model.tied = true"),
    (("model.match_params=5000", "task.dimension=0"), "study.task.dimension = 0"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_what_cannot_be_matched_is_refused(words, said):
    with pytest.raises(UserError) as refused:
        composed(*words)
    assert said in str(refused.value)


def with_preset(model: dict) -> discovery.FoundStudy:
    presets = {"own": {"about": "", "model": {"kind": "transformer", **model}}}
    return discovery.FoundStudy(FOUND.kind, FOUND.config, presets, FOUND.folder)


def test_presets_may_have_it_and_what_is_given_later_counts():
    matched = composed("model.match_params=30000").model.width
    preset = with_preset({"match_params": 30_000})
    assert composed("preset=own", study=preset).model.width == matched
    assert composed("preset=own", "model.width=8", study=preset).model.width == 8
    assert composed("preset=own", "model=transformer", "model.width=12", study=preset).model.width == 12
    no_kind = discovery.FoundStudy(
        FOUND.kind, FOUND.config, {"own": {"about": "", "model": {"match_params": 30_000}}}, FOUND.folder
    )
    assert composed("preset=own", study=no_kind) == composed("preset=own", study=preset)
    assert composed('model={"match_params":30000}') == composed(f"model.width={matched}")
    wide = with_preset({"width": 8, "layers": 1})
    assert composed("preset=own", "model.match_params=30000", study=wide).model.width == nearest(
        30_000, "model.layers=1"
    )
    both = with_preset({"width": 8, "match_params": 30_000})
    with pytest.raises(UserError, match="expected one of them"):
        composed("preset=own", study=both)


def test_a_run_of_a_users_own_study_stores_the_width_and_cannot_change_it(lookup, tmp_path):
    words = ["preset=small", "training.steps=2", "training.batch=4"]
    said: list[str] = []
    matched = start(lookup, [*words, "model.match_params=4000"], tmp_path, said.append)
    stored = matched.folder.config["config"]["model"]
    assert "match_params" not in stored and f"model.width = {stored['width']}: " in said[0]
    again = start(lookup, [*words, f"model.width={stored['width']}"], tmp_path, said.append)
    assert again.path == matched.path and "is at step 2 already" in said[-1]
    with pytest.raises(UserError, match=r"model\.match_params is part of what the run is"):
        resume(matched.path.name, ["model.match_params=9000"], tmp_path)


def test_a_mistake_in_a_users_study_is_blamed_on_its_line(lookup, tmp_path):
    with open(lookup) as file:
        text = file.read()
    broken = tmp_path / "mine.py"
    broken.write_text(text.replace("config.symbols + config.cells\n", "config.symbols + config.sells\n", 1))
    with pytest.raises(UserError, match=r"mine\.py, line \d+: AttributeError"):
        composed("model.match_params=4000", study=discovery.study(str(broken)))


def test_completion_and_help_know_it(command):
    from types import SimpleNamespace

    from inlearn.cli import common

    context = SimpleNamespace(params={"study": "regression"})
    assert common.complete_overrides(context, "model.match") == ["model.match_params="]
    assert "model.match_params" in command("run", "--help")[0]


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the command line here; (stdout, stderr) of what must succeed."""

    def call(*words: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["inlearn", *words])
        try:
            main()
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err
        return capsys.readouterr()

    return call


def test_run_and_profile_say_it(command, tiny, tmp_path):
    words = [word for word in tiny if "width" not in word]
    width = composed(*words, "model.match_params=2000").model.width
    out, err = command("run", "regression", *words, "model.match_params=2000", "--dry-run", "--runs", str(tmp_path))
    assert f"model.width = {width}: " in err
    assert yaml.safe_load(out)["config"]["model"]["width"] == width
    _, err = command("profile", "regression", *words, "model.match_params=2000", "--steps", "2", "--json")
    assert f"model.width = {width}: " in err
