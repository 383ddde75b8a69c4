"""Probes of real models: where planted information is found, what every architecture offers, what controls say."""

from __future__ import annotations

import math

import pytest
import torch

from inlearn.analysis.probe.config import ProbeConfig
from inlearn.analysis.probe.features import at_scored, chosen
from inlearn.analysis.probe.method import ProbeMethod
from inlearn.analysis.probe.targets import targets
from inlearn.analysis.results import Result
from inlearn.analysis.subject import Subject
from inlearn.core.configuration import resolve
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import Seeds
from inlearn.models.activations import intervene, names
from inlearn.models.forward import outputs_at_scored
from inlearn.models.initialise import initialise

SEEDS = Seeds().following(0)
SMALL = {"width": 16, "layers": 2}


def model_of(kind, interface, seed=0, **more):
    config = resolve(discovery.models()[kind], {"kind": kind, **SMALL, **more})
    model = config.build(interface)
    initialise(model, Seeds().following(seed))
    return model.eval()


def subject_of(study, kind="transformer", **more):
    def made(seed):
        return model_of(kind, study.interface, seed, **more)

    return Subject(study, made(0), lambda: made(1), SEEDS, torch.device("cpu"))


def recall(**task):
    tree = {"task": {"vocabulary": 16, "length": 16, "pairs": 3, **task}}
    return resolve(discovery.study("recall").config, tree).build(SEEDS)


def probed(subject, say=print, **asked) -> Result:
    return ProbeMethod(ProbeConfig(**asked), say).run(subject)


def score(result: Result, activation: str, target: str, network: str = "trained") -> float:
    places = (
        result.labels[a].index(v) for a, v in (("network", network), ("activation", activation), ("target", target))
    )
    return float(result.arrays["score"][tuple(places)])


def test_information_planted_in_one_layer_is_found_there_alone():
    subject = subject_of(recall(), heads=2)
    batch = subject.batch("train", 300)
    secret = torch.randint(0, 4, batch.inputs.shape, generator=torch.Generator().manual_seed(0))
    code = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)) * 3

    def plant(x):
        return x + code[secret[: x.shape[0], : x.shape[1]]]

    study = subject.study
    study.probe_targets = lambda batch: {"secret": secret}
    with intervene(subject.model, {"blocks.1.mlp.hidden": lambda x: x, "blocks.1.output": plant}):
        result = probed(subject, rows=300, targets=("secret",), activations=("blocks.*.output", "final"))
    assert score(result, "blocks.1.output", "secret") == 1.0
    assert score(result, "final", "secret") > 0.99
    for activation in ("embed", "blocks.0.output", "blocks.0.mlp.output", "blocks.1.attention.output"):
        assert 0.1 < score(result, activation, "secret") < 0.4
    for activation in result.labels["activation"]:
        assert 0.1 < score(result, activation, "secret", "untrained") < 0.4
        assert 0.05 < score(result, activation, "secret", "shuffled") < 0.55


def test_what_the_current_input_says_is_in_its_embedding_and_what_came_before_is_not():
    result = probed(subject_of(recall(), "lstm", width=64), rows=400)
    assert result.labels["activation"][0] == "embed"
    for network in ("trained", "untrained"):
        assert score(result, "embed", "current_input", network) == 1.0
        assert score(result, "blocks.0.recurrence.hidden", "previous_input", network) > 0.9
        assert score(result, "embed", "previous_input", network) < 0.4
    # The first pairs' value is the same all along a row: other rows' labels cannot be learnt from it.
    shuffled = [score(result, name, "first_value", "shuffled") for name in result.labels["activation"]]
    assert max(shuffled) < 0.3
    assert result.facts["units"]["first_value"] == "accuracy" and result.facts["rows"] == 400
    assert "target" not in result.labels["target"]  # recall's own name for it is asked_value


LAYERS = {
    "transformer": ["blocks.0.output", "blocks.1.output"],
    "linear_attention": ["blocks.0.mixer.state", "blocks.0.output", "blocks.1.mixer.state", "blocks.1.output"],
    "lstm": [f"blocks.{layer}.recurrence.{part}" for layer in (0, 1) for part in ("hidden", "cell")],
    "gru": ["blocks.0.recurrence.hidden", "blocks.1.recurrence.hidden"],
}


@pytest.mark.parametrize("kind", sorted(discovery.models()))
def test_every_architecture_is_probed_at_every_layer_and_state(kind):
    heads = {"heads": 2} if "heads" in discovery.models()[kind].model_fields else {}
    result = probed(subject_of(recall(), kind, **heads), rows=40, controls=False)
    found = result.labels["activation"]
    assert found[0] == "embed" and len(found) >= 3
    assert {name.split(".")[1] for name in found[1:]} == {"0", "1"}
    if kind in LAYERS:
        assert sorted(found[1:]) == sorted(LAYERS[kind])
    for name in found:
        assert math.isfinite(score(result, name, "asked_value"))
        assert score(result, name, "current_input") > 0.8 or name.endswith((".state", ".cell", ".hidden"))
    assert list(result.labels["network"]) == ["trained"]


def test_activations_are_those_of_the_scored_positions_also_behind_a_shared_prefix(lookup):
    study = discovery.study(lookup).config().build(SEEDS)
    subject = subject_of(study, heads=2)
    batch = subject.batch("train", 41)
    assert batch.rows == 40  # queries of one prefix stay together
    seen = at_scored(subject.model, batch, 2, {"outputs": 4, "final": 16}, torch.device("cpu"), "float32")
    with torch.no_grad():
        expected = outputs_at_scored(subject.model, batch)
        whole = outputs_at_scored(subject.model, batch.unshared())
    torch.testing.assert_close(seen["outputs"], expected)
    torch.testing.assert_close(seen["outputs"], whole, atol=1e-5, rtol=1e-5)
    assert seen["final"].shape == (40, 16)


def test_a_set_that_repeats_its_rows_says_so_and_reads_each_once(lookup):
    study = discovery.study(lookup).config(cells=1, symbols=3, queries=1).build(SEEDS)
    with pytest.raises(UserError, match="3 different rows; expected at least 5"):
        probed(subject_of(study, heads=2), rows=50)
    said = []
    study = discovery.study(lookup).config(cells=2, symbols=4, queries=1).build(SEEDS)
    result = probed(subject_of(study, heads=2), said.append, rows=400, controls=False)
    assert result.facts["rows"] == 32 and "368 of 400 rows of set 'train' repeat others: left out" in said


def test_a_finite_set_gives_no_more_rows_than_it_has():
    tree = {"task": {"dimension": 2, "examples": 3, "sequences": 50}}
    study = resolve(discovery.study("regression").config, tree).build(SEEDS, 16)
    said = []
    result = probed(subject_of(study, heads=2), said.append, set="train", rows=80, controls=False)
    assert result.facts["rows"] == 50 and said == ["set 'train': 50 of the 80 rows asked for"]


def test_dropout_is_not_active_and_nothing_else_is_changed():
    subject = subject_of(recall(), "lstm", dropout=0.5)
    subject.model.train()
    batch = subject.batch("train", 20)
    sizes = {"final": 16}
    twice = [at_scored(subject.model, batch, 1, sizes, torch.device("cpu"), "float32")["final"] for _ in range(2)]
    assert torch.equal(*twice)
    with torch.no_grad():
        outputs = outputs_at_scored(subject.model.eval(), batch)
    torch.testing.assert_close(subject.model.head(twice[0]), outputs)


def test_the_task_vector_is_read_as_quantities_and_shuffled_ones_explain_nothing():
    tree = {"task": {"dimension": 2, "examples": 6, "noise_variance": 0.01}}
    study = resolve(discovery.study("regression").config, tree).build(SEEDS)
    result = probed(
        subject_of(study, "lstm", width=48), set="gaussian" if "gaussian" in study.tasks else "train", rows=1500
    )
    assert result.facts["units"]["task_vector"] == "R²"
    assert score(result, "blocks.1.recurrence.cell", "task_vector") > 0.2 > 0.1 > score(result, "embed", "task_vector")
    assert abs(score(result, "blocks.1.recurrence.cell", "task_vector", "shuffled")) < 0.1
    assert score(result, "embed", "current_input") > 0.999


def test_entries_have_a_common_score_that_stands_before_them():
    subject = subject_of(recall(), "gru")
    places = torch.arange(16).expand(60, 16)
    entries = {f"place[{k},0]": (places % (k + 2)).contiguous() for k in range(3)}
    subject.study.probe_targets = lambda batch: entries
    result = probed(subject, rows=60, targets=("place",), controls=False)
    assert result.labels["target"] == ["place", *entries]
    for name in result.labels["activation"]:
        single = [score(result, name, entry) for entry in entries]
        assert score(result, name, "place") == pytest.approx(sum(single) / 3)
    one = probed(subject, rows=60, targets=("place[1,0]",), controls=False)
    assert one.labels["target"] == ["place", "place[1,0]"]


def test_a_new_head_learns_what_the_old_one_knew_and_does_so_again():
    """The old head's own answers are the targets: linear in what is read, so the new one can give them all."""
    subject = subject_of(recall(), width=32, heads=2)

    def own_answers(batch):
        with torch.no_grad():
            return subject.model(batch.inputs)[0][..., :16].argmax(-1)

    task = subject.study.tasks["train"]

    class Answered:
        interface, labels = task.interface, task.labels

        def sample(self, at, rows, first=0):
            from dataclasses import replace

            batch = task.sample(at, rows, first)
            return replace(batch, targets=own_answers(batch))

    subject.study.tasks = {"train": Answered()}
    asked = {"head_replacement": True, "rows": 500, "epochs": 15, "rate": 0.01}
    result = probed(subject, **asked)
    curve = result.arrays["accuracy"]
    assert len(curve) == 16 and curve[0] < 0.4 < 0.75 < result.facts["test_accuracy"]
    assert result.facts["best_validation_accuracy"] == curve.max()
    assert result.facts["parameters"]["new head"] == 33 * 16
    again = probed(subject, **asked)
    assert (again.arrays["loss"] == result.arrays["loss"]).all()
    assert (probed(subject, **asked, seed=1).arrays["loss"] != result.arrays["loss"]).any()
    vectors = resolve(discovery.study("regression").config, {}).build(SEEDS)
    with pytest.raises(UserError, match="answers are numbers here"):
        probed(subject_of(vectors), head_replacement=True, rows=20)


def test_what_has_no_value_for_each_position_is_refused():
    subject = subject_of(recall(), heads=2)
    batch = subject.batch("train", 10)
    for name in ("blocks.0.attention.pattern", "blocks.*.attention.scores"):
        with pytest.raises(UserError, match="no value for each row and position"):
            chosen(subject.model, batch, 1, [name], print)
    assert chosen(subject.model, batch, 1, ["blocks.1.attention.query"], print) == {
        "embed": 16,
        "blocks.1.attention.query": 16,
    }
    said = []
    found = chosen(subject.model, batch, 1, ["blocks.0.attention.*"], said.append)
    assert "blocks.0.attention.mixed" in found and "blocks.0.attention.pattern" not in found
    assert "blocks.0.attention.pattern is left out: it has no value for each row and position" in said
    with pytest.raises(UserError, match=r"unknown activation 'blocks.7.\*'"):
        chosen(subject.model, batch, 1, ["blocks.7.*"], print)


def test_a_wide_state_is_left_out_with_a_word_and_probed_when_asked_for():
    subject = subject_of(recall(), "linear_attention", width=96, heads=1)
    batch, said = subject.batch("train", 10), []
    assert "blocks.0.mixer.state" not in chosen(subject.model, batch, 1, None, said.append)
    assert len(said) == 2 and "9,216 numbers a position" in said[0]
    assert chosen(subject.model, batch, 1, ["blocks.0.mixer.state"], print)["blocks.0.mixer.state"] == 9216


def test_weights_that_are_not_finite_cannot_be_probed():
    subject = subject_of(recall(), "gru")
    with torch.no_grad():
        subject.model.embedding.weight[3] = math.nan
    with pytest.raises(UserError, match="embed has values that are not finite"):
        probed(subject, rows=50)


def test_targets_of_the_wrong_form_are_a_studys_mistake():
    study = recall()
    study.probe_targets = lambda batch: {"rows": torch.zeros(batch.rows, dtype=torch.int64)}
    with pytest.raises(ValueError, match="probe target 'rows'"):
        targets(study, subject_of(study).batch("train", 10), None)


def test_a_target_that_some_part_of_the_rows_lacks_is_left_out_with_a_word():
    subject, said = subject_of(recall(), "gru"), []
    late = torch.full((20, 16), -1)
    late[15:] = 1
    subject.study.probe_targets = lambda batch: {"late": late, "never": torch.full((20, 16), -1)}
    result = probed(subject, said.append, rows=20)
    assert said == ["left out, as no question of some part of the rows has them: late"]
    assert result.labels["target"] == ["target", "current_input", "previous_input"]
    with pytest.raises(UserError, match="none of them is defined in each part"):
        probed(subject, rows=20, targets=("late",))
    with pytest.raises(UserError, match="none of those asked for is defined at a question of set 'train'"):
        probed(subject, rows=20, targets=("never",))


def test_hooks_are_gone_afterwards():
    subject = subject_of(recall(), "gru")
    probed(subject, rows=20)
    assert not any(subject.model.get_submodule(name).hooked for name in names(subject.model))
