"""Runs: identity, names, children, phases, early stops, divergence, a user's own study."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.build import build, build_trainer
from inlearn.lab.config import compose, identity
from inlearn.lab.session import RunFailed, resume, start


def quiet(text: str) -> None:
    pass


def changed(overrides: list[str], *more: str) -> list[str]:
    """`overrides` with `more` in the place of those of the same key."""
    keys = {text.partition("=")[0] for text in more}
    return [text for text in overrides if text.partition("=")[0] not in keys] + list(more)


def run_id(*overrides: str) -> str:
    from inlearn.core.configuration import digest

    found = discovery.study("regression")
    return digest(identity(compose(found, list(overrides)), found, None))


def test_what_is_part_of_the_identity_and_what_is_not():
    base = run_id("preset=demo")
    same = ["training.until=5", "device=cpu", "threads=2", "record.training=7", "name=x", 'tags=["a"]', "seed=0",
            "seeds.init=0", "record.best=none"]  # fmt: skip
    assert all(run_id("preset=demo", text) == base for text in same)
    other = ["training.steps=6001", "seed=1", "seeds.init=1", "seeds.eval=1", "precision=float64", "model.width=32",
             "task.noise_variance=0.2", "training.accumulate=2"]  # fmt: skip
    ids = {run_id("preset=demo", text) for text in other}
    assert len(ids) == len(other) and base not in ids
    assert run_id("preset=demo", "seed=3") == run_id("preset=demo", *(
        f"seeds.{s}=3" for s in ("init", "task", "data", "noise", "dropout", "chain")))  # fmt: skip


def test_a_key_order_or_spelling_does_not_change_the_id():
    assert run_id("training.rate=0.003", "model.width=32") == run_id("model.width=32", "training.rate=3e-3")


def test_names(tiny, tmp_path):
    first = start("regression", [*tiny, "name=lr_seed1", "training.until=2"], tmp_path, quiet)
    assert resume("lr_seed1", ["training.until=4"], tmp_path, quiet).id == first.id
    with pytest.raises(UserError, match="already the name of run"):
        start("regression", [*tiny, "seed=9", "name=lr_seed1"], tmp_path, quiet)
    assert len([p for p in tmp_path.iterdir() if not p.name.startswith(".")]) == 1


def test_the_python_words(tiny, tmp_path):
    import inlearn

    run = inlearn.run("regression", *tiny, root=tmp_path, seed=4)
    assert list(run.metrics["step"]) == list(range(7, 60, 7))
    assert run.config.seed == 4 and run.config.seeds.data == 4
    model = run.checkpoint("best").model()
    assert sum(p.numel() for p in model.parameters()) > 0 and not model.training
    again = inlearn.open(run.id, root=tmp_path)
    lines = again.checkpoint(30).evaluate(["train", "effective_weight"])
    recorded = run.evaluations
    recorded = recorded[
        recorded["measure"].eq("loss") & recorded["step"].eq(60) & recorded["by"].eq("") & recorded["set"].eq("train")
    ]
    last = [
        x
        for x in run.checkpoint(60).evaluate()
        if (x["set"], x["learner"], x["measure"], x["by"]) == ("train", "model", "loss", [])
    ]
    assert last[0]["mean"][0] == recorded["mean"].iloc[0]
    assert {x["measure"] for x in lines} >= {"weight_cosine", "loss", "distance"}
    assert again.checkpoint(30).evaluate(["train", "effective_weight"]) == lines
    counted = inlearn.query("select count(*) as n from training", root=tmp_path)
    assert int(counted["n"].iloc[0]) == len(run.metrics)


def test_a_child_run_starts_from_its_parent(tiny, tmp_path):
    parent = start("regression", tiny, tmp_path, quiet)
    child = start("regression", [*tiny, f"start={parent.id}@best", "training.until=1"], tmp_path, quiet)
    best = parent.checkpoint("best")
    assert child.folder.config["config"]["start"] == f"{parent.id}@{best.step}"
    report = json.loads((child.path / "carried.json").read_text())
    assert report["fresh"] == [] and len(report["carried"]) == len(list(best.model().parameters()))
    for (name, a), (_, b) in zip(
        best.model().named_parameters(), child.checkpoint(0).model().named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    other = start("regression", [*tiny, f"start={parent.id}@15", "training.until=1"], tmp_path, quiet)
    assert other.id != child.id
    wider = start(
        "regression", changed(tiny, "task.examples=4", f"start={parent.id}@15", "training.until=1"), tmp_path, quiet
    )
    assert json.loads((wider.path / "carried.json").read_text())["other_shape"] == {"table.weight": [[6, 16], [8, 16]]}
    assert resume(child.id, ["training.until=3"], tmp_path, quiet).folder.status.step == 3


@pytest.mark.parametrize(
    "words",
    [
        ["model=mamba", "model.activation=swiglu"],
        ["model=transformer", "model.mlp=0", "model.mlp_bias=false"],
        ["model=transformer", "model.positions=learned", "model.rotary_base=500"],
    ],
)
def test_a_key_that_changes_nothing_is_refused(words):
    with pytest.raises(UserError, match=rf"^{words[-1].replace('=', ' = (?i:')}) has no effect: model\."):
        compose(discovery.study("recall"), words)


def test_a_preset_may_set_what_an_override_makes_idle():
    config = compose(discovery.study("regression"), ["preset=demo", "model.mlp=0"])
    assert "activation" in config.model.idle()


@pytest.mark.parametrize(
    ("start_at", "words"),
    [("nobody@best", "no run 'nobody'"), ("PARENT@7", "no checkpoint at step 7"), ("PARENT", "expected RUN@best")],
)
def test_a_parent_that_is_not_there_is_refused(tiny, tmp_path, start_at, words):
    parent = start("regression", [*tiny, "training.until=3"], tmp_path, quiet)
    with pytest.raises(UserError, match=words):
        start("regression", [*tiny, f"start={start_at.replace('PARENT', parent.id)}"], tmp_path, quiet)


def test_a_parent_that_reads_other_symbols_is_refused(tmp_path):
    words = ["task.length=16", "task.pairs=2", "model.width=8", "training.steps=1", "evaluation.rows=4"]
    parent = start("recall", [*words, "task.vocabulary=16"], tmp_path, quiet)
    with pytest.raises(UserError, match="that run reads 16 symbols, this one 32; expected as many"):
        start("recall", [*words, "task.vocabulary=32", f"start={parent.id}@last"], tmp_path, quiet)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [parent.id]


PHASES = [{"steps": 20, "study": {"task": {"noise_variance": 4.0}}}, {"steps": 40, "optimiser": "fresh"}]


def test_phases_change_the_task_and_forget_the_moments(tiny, tmp_path):
    asked = changed(tiny, f"training.phases={json.dumps(PHASES)}", "record.training=1")
    run = start("regression", asked, tmp_path / "a", quiet)
    losses = run.metrics.set_index("step")
    assert losses.loc[20, "phase"] == 0 and losses.loc[21, "phase"] == 1
    plain = start("regression", changed(tiny, "record.training=1"), tmp_path / "b", quiet).metrics.set_index("step")
    assert losses.loc[1, "loss"] > plain.loc[1, "loss"] + 1  # four times as noisy
    part = start("regression", [*asked, "training.until=25"], tmp_path / "c", quiet)
    part = resume(part.id, ["training.until=none"], tmp_path / "c", quiet)
    assert (part.path / "metrics.jsonl").read_bytes() == (run.path / "metrics.jsonl").read_bytes()


def test_a_phase_may_end_at_a_threshold_and_a_failed_one_stops_the_chain(tiny, tmp_path):
    end = {"measure": "loss", "below": 1e9, "every": 10}
    reached = [{"steps": 20, "end": end}, {"steps": 40}]
    run = start(
        "regression", changed(tiny, f"training.phases={json.dumps(reached)}", "record.training=5"), tmp_path, quiet
    )
    assert list(run.metrics["phase"]) == [0] * 2 + [1] * 8
    missed = [{"steps": 20, "end": {**end, "below": 0.0}}, {"steps": 40}]
    with pytest.raises(RunFailed, match="phase 0 did not reach its end condition within 20 steps"):
        start("regression", [*tiny, f"training.phases={json.dumps(missed)}"], tmp_path, quiet)


def test_the_last_phase_keeps_to_its_steps_and_a_phase_is_looked_at_before_it_fails(tiny, tmp_path):
    always = {"measure": "loss", "above": -1.0, "every": 10}
    early = [{"steps": 30, "end": always}, {"steps": 30}]
    run = start("regression", [*tiny, f"training.phases={json.dumps(early)}"], tmp_path, quiet)
    assert run.folder.status.step == 40 and run.folder.status.reason == "finished early: every phase is complete"
    rare = [{"steps": 15, "end": {**always, "every": 100}}, {"steps": 45}]
    run = start("regression", [*tiny, f"training.phases={json.dumps(rare)}"], tmp_path, quiet)
    assert run.folder.status.step == 60 and run.folder.status.state == "finished"


def test_a_failed_run_stays_failed_when_asked_again(tiny, tmp_path):
    missed = [{"steps": 20, "end": {"measure": "loss", "below": 0.0, "every": 10}}, {"steps": 40}]
    asked = [*tiny, f"training.phases={json.dumps(missed)}"]
    for _ in range(2):
        with pytest.raises(RunFailed, match="did not reach"):
            start("regression", asked, tmp_path, quiet)


def test_best_follows_the_measure_it_is_asked_for(tiny, tmp_path):
    run = start("regression", [*tiny, "record.best=train/distance/ridge", "training.until=20"], tmp_path, quiet)
    assert run.checkpoint("best").step == 20
    run = resume(run.id, ["record.best=train/loss", "training.until=60"], tmp_path, quiet)
    table = run.evaluations
    losses = table[
        (table["learner"] == "model") & (table["measure"] == "loss") & (table["by"] == "") & (table["set"] == "train")
    ]
    losses = losses[losses["step"] > 20].set_index("step")["mean"]
    best = json.loads((run.path / "checkpoints" / "best.json").read_text())
    assert best == {"step": int(losses.idxmin()), "measure": "train/loss", "value": losses.min()}


def test_a_schedule_that_comes_to_hold_a_step_keeps_its_checkpoint(tiny, tmp_path):
    run = start("regression", changed(tiny, "record.checkpoints=never", "training.until=30"), tmp_path, quiet)
    run = resume(run.id, ['record.checkpoints={"kind":"every","steps":15}', "training.until=none"], tmp_path, quiet)
    assert {0, 30, 45, 60} <= set(run.steps)


def test_a_trained_child_does_not_need_its_parents_checkpoint_any_more(tiny, tmp_path):
    parent = start("regression", [*tiny, "record.best=none", "training.until=20"], tmp_path, quiet)
    child = start("regression", [*tiny, f"start={parent.id}@20", "training.until=2"], tmp_path, quiet)
    resume(parent.id, ["training.until=25"], tmp_path, quiet)
    assert 20 not in parent.steps
    again = start("regression", [*tiny, f"start={parent.id}@20", "training.until=4"], tmp_path, quiet)
    assert again.id == child.id and again.folder.status.step == 4


def test_a_run_of_other_numerics_or_source_is_not_resumed(tiny, tmp_path, monkeypatch, lookup):
    from inlearn.lab import config

    run = start("regression", [*tiny, "training.until=5"], tmp_path, quiet)
    own = start(lookup, ["preset=small", "training.until=5", "training.steps=50"], tmp_path, quiet)
    monkeypatch.setattr(config, "NUMERICS", 2)
    with pytest.raises(UserError, match="numerics is 1 there, 2 was asked for"):
        resume(run.id, ["training.until=7"], tmp_path, quiet)
    monkeypatch.undo()
    with (own.path / "source.py").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(UserError, match="source is"):
        resume(own.id, ["training.until=7"], tmp_path, quiet)


def test_weights_that_broke_are_never_kept(tiny, tmp_path):
    """A finite loss does not vouch for the weights its update made; an interrupt saves nothing that is not finite."""
    import os
    import signal

    asked = changed(tiny, "training.optimiser=sgd", "training.rate=1e39", "record.training=50")
    with pytest.raises(RunFailed, match="the last good checkpoint is kept"):
        start("regression", changed(asked, 'record.checkpoints={"kind":"every","steps":1}'), tmp_path / "a", quiet)
    from inlearn.lab import session

    def interrupting(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return train(*arguments, **named)

    train, session.train = session.train, interrupting
    try:
        with pytest.raises(RunFailed, match="not finite after step 1"):
            start(
                "regression",
                changed(asked, "record.checkpoints=never", "record.evaluations=never"),
                tmp_path / "b",
                quiet,
            )
    finally:
        session.train = train
    from inlearn.lab.opened import Run
    from inlearn.runs.folder import list_runs

    for root in (tmp_path / "a", tmp_path / "b"):
        (folder,) = list_runs(root)
        for step in Run(folder).steps:
            assert all(torch.isfinite(p).all() for p in Run(folder).checkpoint(step).model().parameters())


def test_dropout_with_a_shared_prefix_does_not_depend_on_accumulation(lookup):
    found, losses = discovery.study(lookup), []
    for parts in (1, 4):
        asked = [
            "model.dropout=0.3",
            "model.width=16",
            "precision=float64",
            "training.batch=16",
            f"training.accumulate={parts}",
        ]
        built = build(compose(found, asked))
        trainer = build_trainer(built)
        trainer.update(built.tasks[0])
        losses.append(trainer.take_mean_loss())
    assert math.isclose(*losses, rel_tol=1e-7)


def test_naming_a_run_later_and_not_again(tiny, tmp_path):
    run = start("regression", [*tiny, "name=mine", "training.until=2"], tmp_path, quiet)
    again = start("regression", [*tiny, "training.until=4"], tmp_path, quiet)
    assert again.id == run.id and again.folder.config["unhashed"]["name"] == "mine"


def test_sql_knows_seeds_and_presets(tiny, tmp_path):
    import inlearn

    start("regression", [*tiny, "preset=demo", "seed=3", "training.until=1"], tmp_path, quiet)
    assert inlearn.query("select seed, preset, model from runs", tmp_path).values.tolist() == [
        [3, "demo", "transformer"]
    ]


def test_phases_are_checked_before_anything_is_made(tiny, tmp_path):
    for phases, words in (
        ([{"steps": 60, "study": {"task": {"nois": 1}}}], "training.phases.0.study.*noise_variance"),
        ([{"steps": 60, "study": {"task": {"dimension": 3}}}], "changes what the model reads"),
        ([{"steps": 60, "study": {"task": {"examples": 5}}}], "rows of 10 positions"),
        ([{"steps": 59}], "59 steps together"),
        ([{"steps": 60, "end": {"measure": "los", "below": 1}}], "'los' is not measured"),
    ):
        with pytest.raises(UserError, match=words):
            start("regression", [*tiny, f"training.phases={json.dumps(phases)}"], tmp_path, quiet)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_early_stop(tiny, tmp_path):
    stop = {"measure": "distance", "reference": "zero", "above": -1.0, "every": 25}
    run = start("regression", [*tiny, f"training.stop={json.dumps(stop)}"], tmp_path, quiet)
    assert run.folder.status.step == 25 and "above" in run.folder.status.reason
    assert run.steps[-1] == 25
    # Weights that do not move: the first look sets the mark, the next two do not improve on it.
    patient = {"measure": "loss", "patience": 2, "every": 5}
    still = changed(tiny, "training.rate=1e-30", f"training.stop={json.dumps(patient)}")
    run = start("regression", still, tmp_path, quiet)
    assert run.folder.status.step == 15 and "has not improved" in run.folder.status.reason


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tiny, tmp_path):
    asked = changed(tiny, "training.optimiser=sgd", "training.rate=1e9", "record.training=50", "model.norm=none")
    with pytest.raises(
        RunFailed, match=r"the loss is (nan|inf) at step \d+; the last good checkpoint is kept"
    ) as caught:
        start("regression", asked, tmp_path, quiet)
    (path,) = (p for p in tmp_path.iterdir() if not p.name.startswith("."))
    from inlearn.lab.opened import Run
    from inlearn.runs.folder import RunFolder

    run = Run(RunFolder(path))
    assert run.folder.status.state == "failed"
    step = int(str(caught.value).split("at step ")[1].split(";")[0])
    assert run.steps and max(run.steps) < step
    for weights in run.checkpoint("last").model().parameters():
        assert torch.isfinite(weights).all()


def test_the_exact_step_of_divergence_is_named(tiny, tmp_path):
    """The same run looked at after every step fails at the same step."""
    steps = []
    for every in ("1", "50"):
        bursting = ("training.optimiser=sgd", "training.rate=1e9", "model.norm=none", f"record.training={every}")
        asked = changed(tiny, *bursting, "record.checkpoints=never", "record.evaluations=never")
        with pytest.raises(RunFailed) as caught:
            start("regression", asked, tmp_path / every, quiet)
        steps.append(str(caught.value).split("at step ")[1].split(";")[0])
    assert steps[0] == steps[1]


def test_accumulation_equals_the_whole_batch(tiny):
    gradients = []
    for parts in (1, 4):
        config = compose(discovery.study("regression"), [*tiny, "precision=float64", f"training.accumulate={parts}"])
        built = build(config)
        trainer = build_trainer(built)
        trainer.update(built.tasks[0])
        gradients.append((trainer.parameters.flat.gradients.clone(), trainer.take_mean_loss()))
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-12)
    assert math.isclose(gradients[0][1], gradients[1][1], rel_tol=1e-6)


def test_one_step_against_torch_by_hand(tiny):
    """The obvious loop in float64: same batch, mean squared error over all answers, torch's own Adam and clip."""
    from inlearn.core.draws import Address

    config = compose(discovery.study("regression"), [*tiny, "precision=float64", "training.clip=0.1"])
    built = build(config)
    trainer, plain = build_trainer(built), build_trainer(built).model
    optimiser = torch.optim.Adam(plain.parameters(), lr=config.training.rate, fused=False, foreach=False)
    for step in range(3):
        trainer.update(built.tasks[0])
        batch = built.tasks[0].sample(Address(trainer.seeds, "data", step), config.training.batch)
        outputs, _ = plain(batch.inputs.double())
        loss = ((outputs[:, 0::2] - batch.targets[:, 0::2]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimiser.step()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10), name


def test_a_users_own_study_runs_and_learns(lookup, tmp_path):
    """Prefixes, tokens, cross-entropy and one-hot ideals, end to end: 95 % of answers right where chance is 25 %."""
    asked = ["preset=small", "training.steps=400", "training.rate=0.01", "training.batch=64",
             'record.checkpoints={"kind":"never"}', 'record.evaluations={"kind":"never"}']  # fmt: skip
    run = start(lookup, asked, tmp_path, quiet)
    table = run.evaluations
    last = table[(table["step"] == 400) & (table["by"] == "") & (table["learner"] == "model")].set_index(
        ["measure", "set"]
    )
    assert last.loc[("accuracy", "train"), "mean"] > 0.95
    assert "source" in run.folder.config["config"] and (run.path / "source.py").exists()
    again = resume(run.id, [], tmp_path, quiet)  # found by the copy in its folder
    assert again.id == run.id
    assert run.report().exists()


def test_the_identity_of_a_users_study_holds_its_source(lookup, tmp_path):
    changed = tmp_path / "lookup_study.py"
    changed.write_text(Path(lookup).read_text() + "\n# another version\n")
    ids = set()
    for path in (lookup, str(changed)):
        found = discovery.study(path)
        ids.add(json.dumps(identity(compose(found, ["preset=small"]), found, None), sort_keys=True))
    assert len(ids) == 2


def test_bfloat16_is_autocast_over_float32_weights(tiny, tmp_path):
    run = start("regression", [*tiny, "precision=bfloat16"], tmp_path, quiet)
    plain = start("regression", tiny, tmp_path, quiet)
    assert run.id != plain.id
    assert {p.dtype for p in run.checkpoint(60).model().parameters()} == {torch.float32}
    apart = (run.metrics["loss"] - plain.metrics["loss"]).abs().max()
    assert 0 < apart < 0.2, "rounded products, the same training"


def test_the_device_variable_is_obeyed(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    assert start("regression", [*tiny, "training.until=1"], tmp_path, quiet).folder.segments[0]["device"] == "cpu"
    monkeypatch.setenv("DEVICE", "abacus")
    with pytest.raises(UserError, match="device = abacus"):
        start("regression", [*tiny, "seed=2"], tmp_path, quiet)
    start("regression", [*tiny, "seed=2", "device=cpu", "training.until=1"], tmp_path, quiet)


def test_segments_say_who_did_what(tiny, tmp_path):
    run = start("regression", [*tiny, "training.until=10"], tmp_path, quiet)
    resume(run.id, ["training.until=20", "threads=2"], tmp_path, quiet)
    first, second = run.folder.segments
    assert (first["from_step"], first["to_step"], second["from_step"], second["to_step"]) == (0, 10, 10, 20)
    assert second["threads"] == 2 and first["seconds"] >= 0
    assert "resumed elsewhere" in (run.path / "run.log").read_text()
    torch.set_num_threads(1)


def test_a_finite_dataset_comes_once_an_epoch(tiny, tmp_path):
    """Eight sequences and a batch of sixteen: every batch is the whole set twice, and they are learned by heart."""
    few = changed(tiny, "task.sequences=8", "training.steps=300", "record.training=50")
    run = start("regression", few, tmp_path, quiet)
    table = run.evaluations
    table = table[
        (table["step"] == 300) & (table["measure"] == "loss") & (table["by"] == "") & (table["learner"] == "model")
    ]
    losses = table.set_index("set")["mean"]
    assert losses["train"] < 0.5 * losses["heldout"]


def test_a_gutted_or_edited_run_is_told(tiny, tmp_path, monkeypatch, capsys):
    """No checkpoints, damaged weights after an evaluation was kept, a config.json that was edited, a missing one."""
    import shutil

    from inlearn.cli.main import main
    from inlearn.core.errors import EnvironmentFault
    from inlearn.lab.opened import Run
    from inlearn.runs.verify import verify

    runs = [start("regression", [*tiny, f"seed={seed}"], tmp_path, quiet) for seed in range(3)]
    assert [verify(run.folder) for run in runs] == [[], [], []]
    shutil.rmtree(runs[0].path / "checkpoints")
    assert any("no checkpoint of step 60" in problem for problem in verify(runs[0].folder))

    runs[1].checkpoint(60).evaluate()
    weights = runs[1].path / "checkpoints" / "000000060" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(EnvironmentFault, match="damaged"):
        runs[1].checkpoint(60).evaluate()

    config = runs[2].path / "config.json"
    config.write_text(config.read_text().replace('"width": 16', '"width": 32'))
    with pytest.raises(EnvironmentFault, match=r"config\.json of run .* was changed"):
        resume(runs[2].id, [], tmp_path, quiet)
    config.unlink()
    with pytest.raises(EnvironmentFault, match="is missing"):
        _ = Run(runs[2].folder.__class__(runs[2].path)).config
    monkeypatch.setattr("sys.argv", ["inlearn", "ls", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    listed = capsys.readouterr().out
    assert "damaged" in listed and all(run.id in listed for run in runs)


def test_in_context_scores_have_errors_and_gain_sets_no_overall_loss(tiny, tmp_path):
    run = start("regression", changed(tiny, "task.examples=4", "training.steps=10"), tmp_path, quiet)
    table = run.evaluations
    scores = table[(table["measure"] == "icl_1_4") & (table["learner"] == "zero") & (table["set"] == "train")]
    assert len(scores) == 1 and 0 < scores["se"].iloc[0] < 10
    gains = table[(table["set"] == "input_gains") & (table["by"] == "")]
    assert set(gains["measure"]) == {"loss_scaled", "prediction_norm_ratio"}


def test_a_run_may_be_named_on_resume(tiny, tmp_path):
    run = start("regression", [*tiny, "training.until=2"], tmp_path, quiet)
    assert resume(run.id, ["name=later", "training.until=3"], tmp_path, quiet).folder.name == "later"
