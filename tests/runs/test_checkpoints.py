from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.runs.checkpoints import PARTS, Checkpoint, CheckpointStore, Damaged

FILES = [*PARTS, "manifest.json"]
LENGTHS = {"metrics.jsonl": 123, "trajectory": 4}


def made_at(step: int) -> Checkpoint:
    moments = torch.arange(10.0).view(2, 5) + step  # rows are views of one buffer, as the trainer's are
    optimiser = {"mean": moments[0], "square": moments[1], "count": torch.tensor(step)}
    weights = {"layer.weight": torch.full((3, 2), step + 0.5), "half": torch.ones(4, dtype=torch.bfloat16)}
    return Checkpoint(step, weights, optimiser, {"phase": 1, "best": None, "rate": 0.1 + step})


def same(a: Checkpoint, b: Checkpoint) -> bool:
    def equal(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> bool:
        return x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x)

    return a.step == b.step and a.state == b.state and equal(a.weights, b.weights) and equal(a.optimiser, b.optimiser)


def store_with(run: Path, *steps: int) -> CheckpointStore:
    store = CheckpointStore(run)
    for step in steps:
        store.save(made_at(step), LENGTHS)
    return store


def flip(path: Path, offset: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    store = store_with(tmp_path, 0, 1000, 20)
    assert store.steps() == [0, 20, 1000]
    for step in store.steps():
        loaded = store.load(step)
        assert same(loaded, made_at(step))
        loaded.weights["half"].add_(1)  # writable, and nobody else's memory
        assert same(store.load(step), made_at(step))
    assert store.manifest(20)["lengths"] == LENGTHS and store.manifest(20)["step"] == 20
    assert sorted(path.name for path in store.folder(1000).iterdir()) == sorted(FILES)
    assert store.folder(1000).name == "000001000" and store.folder(10**9).name == "1000000000"


def test_the_same_checkpoint_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = store_with(tmp_path / "one", 5), store_with(tmp_path / "two", 5)
    for name in FILES:
        assert (one.folder(5) / name).read_bytes() == (two.folder(5) / name).read_bytes()


def test_strided_tensors_and_parameters_are_saved_by_value(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    store = CheckpointStore(tmp_path)
    store.save(Checkpoint(1, {"transposed": weight.T}, {}, {}), {})
    assert torch.equal(store.load(1).weights["transposed"], weight.detach().T)


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    store, said = CheckpointStore(tmp_path), []
    assert store.steps() == [] and store.best() is None and store.load_last_good(said.append) is None and said == []
    with pytest.raises(UserError, match=r"no checkpoint at step 5 .* there are none"):
        store.load(5)


def test_an_unknown_step_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at step 21 .* nearest: 20, 30, 40"):
        store_with(tmp_path, 0, 20, 30, 40, 90).load(21)


def test_a_step_that_is_saved_again_is_replaced(tmp_path: Path) -> None:
    store = store_with(tmp_path, 7)
    other = made_at(7)
    other.state["phase"] = 2
    store.save(other, {"metrics.jsonl": 200})
    assert same(store.load(7), other) and store.manifest(7)["lengths"] == {"metrics.jsonl": 200}
    assert [path.name for path in store.path.iterdir()] == ["000000007"]


def test_a_replacement_that_was_cut_short_is_undone_or_finished(tmp_path: Path) -> None:
    store = store_with(tmp_path, 7)
    store.folder(7).rename(store.path / "000000007.replaced")
    assert store.steps() == []
    loaded = store.load_last_good(pytest.fail)
    assert loaded is not None and same(loaded[0], made_at(7))
    shutil.copytree(store.folder(7), store.path / "000000007.replaced")
    store.load_last_good(pytest.fail)
    assert [path.name for path in store.path.iterdir()] == ["000000007"]


@pytest.mark.parametrize("old", [None, 5])
def test_what_cannot_be_stored_leaves_the_store_as_it_was(tmp_path: Path, old: int | None) -> None:
    store = store_with(tmp_path, 1, *([] if old is None else [old]))
    shared = torch.ones(3)
    for bad in (
        Checkpoint(5, {"a": shared, "b": shared}, {}, {}),
        Checkpoint(5, {}, {}, {"loss": float("nan")}),
        Checkpoint(5, {}, {}, {"a": object()}),
    ):
        with pytest.raises((ValueError, RuntimeError, TypeError)):
            store.save(bad, {})
    names = ["000000001"] if old is None else ["000000001", "000000005"]
    assert sorted(path.name for path in store.path.iterdir()) == names


def test_remove_and_best(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1, 2)
    store.set_best(2, "loss", 1.5)
    store.set_best(1, "loss", 1.25)
    assert store.best() == {"step": 1, "measure": "loss", "value": 1.25}
    store.remove(2)
    assert sorted(path.name for path in store.path.iterdir()) == ["000000001", "best.json"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pristine")
    store_with(run, 10, 20)
    return run


def refused_and_left_out(run: Path) -> None:
    """Step 20 of `run` is damaged: loading says so, resuming takes step 10 and records why."""
    store, said = CheckpointStore(run), []
    store.set_best(20, "loss", 1.0)
    with pytest.raises(Damaged, match="is damaged"):
        store.load(20)
    loaded = store.load_last_good(said.append)
    assert loaded is not None and same(loaded[0], made_at(10)) and loaded[1]["lengths"] == LENGTHS
    assert len(said) == 1 and "checkpoint 20 is left out" in said[0]
    assert store.steps() == [10] and (store.path / "damaged" / "000000020-0").is_dir() and store.best() is None
    (line,) = [json.loads(text) for text in (store.path / "warnings.jsonl").read_text().splitlines()]
    assert line["step"] == 20 and line["kept"] == "damaged/000000020-0"


@settings(max_examples=60, deadline=None)
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found(pristine: Path, file: str, place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(pristine, run)
        path = CheckpointStore(run).folder(20) / file
        before = path.read_bytes()
        flip(path, int(place * len(before)), bit)
        if file == "manifest.json" and means_the_same(path.read_bytes(), before):
            assert same(CheckpointStore(run).load(20), made_at(20))  # one kind of white space for another
        else:
            refused_and_left_out(run)


def means_the_same(after: bytes, before: bytes) -> bool:
    try:
        return json.loads(after) == json.loads(before)
    except ValueError:
        return False


@settings(max_examples=30, deadline=None)
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_found(pristine: Path, file: str, place: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(pristine, run)
        path = CheckpointStore(run).folder(20) / file
        content = path.read_bytes()
        path.write_bytes(content[: int(place * len(content))])
        refused_and_left_out(run)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_found(pristine: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(pristine, tmp_path / "run")
    (CheckpointStore(tmp_path / "run").folder(20) / file).unlink()
    refused_and_left_out(tmp_path / "run")


def test_a_checkpoint_under_another_steps_name_is_damaged(tmp_path: Path) -> None:
    store = store_with(tmp_path, 10)
    store.folder(10).rename(store.folder(11))
    with pytest.raises(Damaged):
        store.load(11)


def test_when_all_are_damaged_nobody_starts_afresh(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1, 2)
    for step in (1, 2):
        flip(store.folder(step) / "weights.safetensors", 60, 0)
    for _ in range(2):  # the second time nothing but damaged/ is left
        with pytest.raises(EnvironmentFault, match=r"every checkpoint in .* is damaged"):
            store.load_last_good(lambda message: None)
    assert sorted(path.name for path in (store.path / "damaged").iterdir()) == ["000000001-0", "000000002-0"]


def test_a_step_damaged_twice_is_kept_twice(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1, 2)
    for _ in range(2):
        store.save(made_at(2), LENGTHS)
        flip(store.folder(2) / "state.json", 3, 1)
        assert store.load_last_good(lambda message: None) is not None
    assert sorted(path.name for path in (store.path / "damaged").iterdir()) == ["000000002-0", "000000002-1"]
