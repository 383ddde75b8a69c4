"""Which runs a sweep trains together, and what it says of the choice. Nothing is trained here but to have begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlearn.core.configuration import resolve
from inlearn.core.errors import UserError
from inlearn.lab.session import start
from inlearn.lab.signature import signature
from inlearn.sweeps import stacking
from inlearn.sweeps.engines import machine
from inlearn.sweeps.engines.config import LocalConfig, RayConfig, SlurmConfig
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import PlannedRun, planned
from inlearn.sweeps.stacking import Choice, Stacking
from inlearn.sweeps.sweep import asked_for

LARGE = ["preset=paper-lr", "training.batch=512"]


def plan(root: Path, *words: str) -> list[PlannedRun]:
    return planned(with_overrides(Plan(study="regression"), list(words)), root)[0]


def choose(root: Path, config, *words: str, lost=None) -> Choice:
    runs = plan(root, *words)
    found = Stacking("regression", root, config)
    found.check(runs)
    return found.choose(runs, lost)


def sizes(choice: Choice) -> list[int]:
    return [len(group) for group in choice.groups]


@pytest.fixture
def words(tiny) -> list[str]:
    """`tiny` without the keys that these tests vary."""
    return [word for word in tiny if not word.startswith(("model.width", "training.rate"))]


def test_small_models_are_stacked_evenly_over_the_workers(tiny, tmp_path):
    chosen = choose(tmp_path, LocalConfig(workers=2), *tiny, "task.count=1,inf", "seed=range(4)")
    assert sizes(chosen) == [4, 4]
    assert [run.axes["seed"] for run in chosen.groups[0]] == [0, 1, 2, 3]
    assert chosen.sentence == (
        "8 runs in 2 stacks of 4: 3,409 parameters × 80 tokens = 2.7e5 a step, below 5e7 "
        "(benchmarks/results/stacks.json)"
    )
    assert sizes(choose(tmp_path, LocalConfig(workers=3), *tiny, "seed=range(7)")) == [3, 2, 2]
    alone = choose(tmp_path, LocalConfig(workers=8), *tiny, "seed=range(8)")
    assert sizes(alone) == [1] * 8 and alone.sentence == "8 runs one by one: no more of them than places for them (8)"
    assert choose(tmp_path, LocalConfig(), *tiny, "seed=3") == Choice([plan(tmp_path, *tiny, "seed=3")], "")


def test_a_stack_has_at_most_so_many_members(tiny, tmp_path):
    assert sizes(choose(tmp_path, LocalConfig(workers=1), *tiny, "seed=range(100)")) == [50, 50]
    # As many stacks as workers, or twice as many: no worker is idle while another has a stack to go.
    assert sizes(choose(tmp_path, LocalConfig(workers=2), *tiny, "seed=range(130)")) == [33, 33, 32, 32]


def test_large_models_are_trained_alone(tmp_path):
    chosen = choose(tmp_path, LocalConfig(workers=1), *LARGE, "seed=range(3)")
    assert sizes(chosen) == [1, 1, 1]
    assert chosen.sentence == (
        "3 runs one by one: 51,717 parameters × 7,680 tokens = 4.0e8 a step, not below 5e7 "
        "(benchmarks/results/stacks.json)"
    )


def test_runs_of_other_shapes_have_stacks_of_their_own(words, tmp_path):
    shapes = ["model.width=16,32", "training.rate=0.01,0.02", "seed=range(3)"]
    chosen = choose(tmp_path, LocalConfig(workers=2), *words, *shapes)
    assert sizes(chosen) == [3] * 4 and {run.axes["model.width"] for run in chosen.groups[0]} == {16}
    assert chosen.sentence.startswith("12 runs in 4 stacks of 3: at most 12,961 parameters × 80 tokens = 1.0e6 a step")
    some = choose(tmp_path, LocalConfig(workers=1), *words, "model.width=16,32", "training.accumulate=1,2", "seed=1,2")
    assert sizes(some) == [2, 1, 1, 2, 1, 1]
    assert "4 runs in 2 stacks of 2: " in some.sentence and "; 4 one by one: training.accumulate = 2" in some.sentence


def test_as_many_as_asked_for(words, tmp_path):
    three = LocalConfig(workers=1, stack=3)
    chosen = choose(tmp_path, three, *words, "seed=range(7)", "training.accumulate=1,2")
    assert sorted(sizes(chosen)) == [1] * 7 + [2, 2, 3]
    assert chosen.sentence == "7 runs in 3 stacks of 2 to 3: engine.stack=3; 7 one by one: training.accumulate = 2"
    large = choose(tmp_path, LocalConfig(workers=8, stack=2), *LARGE, "seed=range(5)")
    assert sizes(large) == [2, 2, 1] and large.sentence == (
        "4 runs in 2 stacks of 2: engine.stack=2; 1 one by one: left over"
    )
    none = choose(tmp_path, LocalConfig(stack="none"), *words, "seed=range(7)")
    assert sizes(none) == [1] * 7 and none.sentence == "7 runs one by one: engine.stack=none"


def test_stacks_of_what_cannot_be_stacked_are_refused(words, tmp_path):
    two = LocalConfig(stack=2)
    with pytest.raises(UserError, match=r"^engine.stack = 2: no two of the 3 runs .* model.width = 16 and model.width"):
        choose(tmp_path, two, *words, "model.width=16,32,64")
    with pytest.raises(UserError, match=r"^engine.stack = 2: no two of the 2 runs .*: training.accumulate = 2$"):
        choose(tmp_path, two, *words, "seed=1,2", "training.accumulate=2")
    # What is left of a plan that has stacks may well be of different shapes.
    every = plan(tmp_path, *words, "model.width=16,32", "seed=1,2")
    found = Stacking("regression", tmp_path, two)
    found.check(every)
    assert sizes(found.choose(every[::2])) == [1, 1]
    for wrong in ("1", "0", "many", "2.5"):
        with pytest.raises(UserError, match=f"engine.stack: expected auto, none, or .* from 2 on, not {wrong}"):
            asked_for("regression", ["seed=1,2", f"engine.stack={wrong}"])


def test_more_members_than_memory_holds_are_refused_or_split(tiny, tmp_path):
    free = machine.free_memory("cpu")
    assert free is not None and 0 < free < 1 << 50
    huge = [word for word in tiny if not word.startswith("training.batch")] + ["training.batch=4194304"]
    runs = plan(tmp_path, *huge, "seed=range(40)")
    found = Stacking("regression", tmp_path, LocalConfig(workers=1, stack=40))
    with pytest.raises(UserError, match=r"^engine.stack = 40: 0 of about [\d,.]+ GB each fit into .*=none"):
        found.choose(runs)
    # The rule for GPUs: as many as fit, whatever the size of the model.
    chosen = choose(tmp_path, SlurmConfig(jobs=1, memory="1200K"), *tiny, "seed=range(8)")
    assert sizes(chosen) == [2] * 4, "four fifths of it hold two members"
    with pytest.raises(UserError, match=r"^engine.stack = 8: 2 of about 0.4 MB each fit .*; engine.stack=auto splits"):
        choose(tmp_path, SlurmConfig(jobs=1, memory="1200K", stack=8), *tiny, "seed=range(8)")
    tight = choose(tmp_path, SlurmConfig(jobs=1, memory="640K"), *tiny, "seed=range(8)")
    assert sizes(tight) == [1] * 8 and "1 of about 0.4 MB each fit into the memory of one worker" in tight.sentence


@pytest.mark.parametrize(("text", "size"), [("7", 7 << 20), ("7K", 7 << 10), ("7M", 7 << 20), ("16G", 16 << 30)])
def test_memory_as_slurm_spells_it(text, size):
    assert SlurmConfig(memory=text).places().memory == size


def test_a_stack_that_lost_its_worker_is_halved(tiny, tmp_path):
    runs = plan(tmp_path, *tiny, "seed=range(8)")
    for config, halves in ((LocalConfig(workers=1), [8]), (LocalConfig(workers=1, stack=8), [8])):
        found = Stacking("regression", tmp_path, config)
        assert sizes(found.choose(runs)) == halves
        once, often = {runs[0].id: 1}, {run.id: 5 for run in runs}
        assert sizes(found.choose(runs, once)) == ([8] if config.stack == "auto" else [4, 4])
        assert sizes(found.choose(runs, often)) == ([2] * 4 if config.stack == "auto" else [1] * 8)


def test_runs_that_have_begun_keep_their_form(tiny, tmp_path):
    def quiet(text: str) -> None:
        pass

    start("regression", [*tiny, "seed=0", "training.until=15"], tmp_path, quiet)
    start("regression", [*tiny, "seed=3", "training.until=15", "execution.engine=stacked"], tmp_path, quiet)
    chosen = choose(tmp_path, LocalConfig(workers=1), *tiny, "seed=range(5)")
    seeds = [[run.axes["seed"] for run in group] for group in chosen.groups]
    assert seeds == [[0], [3, 1, 2, 4]], "the farthest first, so that neighbours are equally far"
    assert chosen.sentence.startswith("4 runs in 1 stack of 4: ")
    assert chosen.sentence.endswith("; 1 one by one: begun so")


def test_what_goes_on_at_once_is_known_or_asked_for(tiny, tmp_path, monkeypatch):
    seeds = [*tiny, "seed=range(6)"]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for config, expected in (
        (SlurmConfig(), [1] * 6),
        (SlurmConfig(jobs=2), [3, 3]),
        (SlurmConfig(jobs=6, parallel=3), [2, 2, 2]),
        (SlurmConfig(stack=4), [3, 3]),
        (SlurmConfig(gpus=1, jobs=1), [6]),
        (RayConfig(address="10.0.0.1:6379"), [1] * 6),
        (RayConfig(address="10.0.0.1:6379", workers=2), [3, 3]),
        (RayConfig(workers=1), [6]),
        (LocalConfig(workers=1, stop_on_failure=True), [1] * 6),
    ):
        assert sizes(choose(tmp_path, config, *seeds)) == expected, config
    assert "engine.jobs=… or engine.parallel=…" in choose(tmp_path, SlurmConfig(), *seeds).sentence
    assert "on a GPU as many" in choose(tmp_path, SlurmConfig(gpus=1, jobs=1), *seeds).sentence
    assert sizes(choose(tmp_path, SlurmConfig(gpus=1, jobs=2), *LARGE, "seed=range(4)")) == [2, 2]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert sizes(choose(tmp_path, RayConfig(), *seeds)) == [1] * 6
    monkeypatch.setenv("DEVICE", "mps")
    assert "never tried on mps" in choose(tmp_path, LocalConfig(workers=1), *seeds).sentence
    # What a run says of its device counts more than what there is.
    assert sizes(choose(tmp_path, LocalConfig(workers=1), *seeds, "device=cpu")) == [6]


def test_auto_is_the_local_engine():
    assert asked_for("regression", ["engine=auto", "engine.workers=2"])[1] == LocalConfig(workers=2)
    assert asked_for("regression", ["engine.stack=none"])[1] == resolve(LocalConfig, {"stack": "none"})


def test_where_there_are_workers_enough_no_torch_is_imported(tiny, tmp_path):
    code = f"""
import sys
from pathlib import Path
from inlearn.sweeps.engines.config import LocalConfig
from inlearn.sweeps.plan import Plan, with_overrides
from inlearn.sweeps.planned import planned
from inlearn.sweeps.stacking import Stacking
words = {[*tiny, "model.layers=1,2", "seed=range(500)"]!r}
words = [w for w in words if w != "model.layers=1"]
root = Path({str(tmp_path)!r})
runs = planned(with_overrides(Plan(study="regression"), words), root)[0]
assert len(runs) == 1000
for config in (LocalConfig(workers=500), LocalConfig(stack="none")):
    chosen = Stacking("regression", root, config).choose(runs)
    assert len(chosen.groups) == 1000 and "torch" not in sys.modules, chosen.sentence
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_model_is_built_a_signature(tiny, tmp_path, monkeypatch):
    from inlearn.lab import footprint as module

    built = []
    real = module.footprint
    monkeypatch.setattr(module, "footprint", lambda config: built.append(signature(config)) or real(config))
    words = [word for word in tiny if not word.startswith("model.layers")]
    choose(tmp_path, LocalConfig(workers=1), *words, "model.layers=1,2", "seed=range(50)")
    assert len(built) == len(set(built)) == 2


@given(st.integers(1, 300), st.integers(1, 40))
def test_every_run_is_in_one_group(count, parts):
    runs = [PlannedRun(str(n), {}, (), 1) for n in range(count)]
    groups = stacking._cut(runs, min(parts, count))
    kept = [run for group in groups for run in group]
    assert len(set(map(len, groups))) <= 2 and len({run.id for run in kept}) == len(kept)
    assert count - len(kept) < parts or not kept
