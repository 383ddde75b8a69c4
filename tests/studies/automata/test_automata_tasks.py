"""Batches by address: fresh rows and finite ones, on stacks and on devices; which rows sets share and which not."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.batch import Batch
from inlearn.core.draws import Address, Addresses
from inlearn.core.errors import UserError
from inlearn.lab.config import Seeds
from inlearn.studies.automata.config import AutomataConfig, MachinesConfig
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.machines import bucket
from inlearn.studies.automata.stored import Finite
from inlearn.studies.automata.study import AutomataStudy
from inlearn.studies.automata.tasks import Machines
from inlearn.training.feeds import why_not_on_device

SEEDS = Seeds().following(4)
HERE = Address(SEEDS, "data", 3)
EVAL = Address(Seeds().following(0), "eval")
CACHED = {"kind": "cached", "train": 20, "validation": 9, "test": 7}


def study(data: dict | None = None, batch: int | None = 6, **more: object) -> AutomataStudy:
    task = {"kind": "machines", "states": 4, "actions": 3, "demo_length": 7, "query_length": 6} | more.pop("task", {})
    evaluation = {"rows": 30, "free_rows": 5} | more.pop("evaluation", {})
    tree = {"task": task, "data": data or {"kind": "fresh"}, "evaluation": evaluation, **more}
    return AutomataConfig.model_validate(tree).build(SEEDS, batch)


def same(batch: Batch, other: Batch, cut: slice | int = slice(None), latents: bool = True) -> bool:
    """Whether `batch` is that part of `other`."""
    pairs = [(getattr(batch, name), getattr(other, name)) for name in ("inputs", "targets", "weights")]
    pairs += [(batch.marks[name], other.marks[name]) for name in other.marks]
    assert batch.marks.keys() == other.marks.keys()
    if latents:
        pairs += [(getattr(batch.latents, p.name), getattr(other.latents, p.name)) for p in fields(Episodes)]
    return all(torch.equal(part, whole[cut]) for part, whole in pairs)


KINDS = [
    {},
    {"relabel": True, "outputs": 3},
    {"absorbing": "one"},
    {"connected": True},
    {"defined": 0.8, "absorbing": "none"},
    {"states": 5, "actions": 2, "demos": 5},
]


@pytest.mark.parametrize("task", KINDS, ids=str)
@pytest.mark.parametrize("name", ["train", "validation", "test", "free"])
def test_a_row_depends_on_its_address_and_number_alone(task: dict, name: str):
    rows = study(task=task).tasks[name]
    for at in (HERE, EVAL, Address(SEEDS, "data", 17)):
        whole = rows.sample(at, 23)
        whole.check(rows.interface)
        assert same(rows.sample(at, 8, 5), whole, slice(5, 13))


def test_steps_drawn_in_a_block_are_those_drawn_alone():
    """Few rows of a training step are drawn with those of other steps; many are not."""
    task = study().tasks["train"]
    for step in (0, 5, 63, 64):
        few, many = (task.sample(Address(SEEDS, "data", step), rows) for rows in (9, 4000))
        assert same(few, many, slice(0, 9))
    assert not torch.equal(task.sample(HERE, 9).inputs, task.sample(Address(SEEDS, "data", 4), 9).inputs)


@pytest.mark.parametrize("task", KINDS, ids=str)
def test_members_of_a_stack_get_what_their_own_tasks_draw(task: dict):
    seeds = tuple(Seeds().following(e) for e in range(3))
    steps = torch.tensor([4, 0, 31])
    tasks = [study(task=task).tasks["train"] for _ in seeds]
    together = Machines.combined(tasks).sample(Addresses(seeds, "data", steps), 5, 2)
    for e, (own, step) in enumerate(zip(seeds, steps.tolist(), strict=True)):
        assert same(tasks[e].sample(Address(own, "data", step), 5, 2), together, e)


def test_tasks_that_differ_are_drawn_one_by_one():
    one = study().tasks["train"]
    others = [study(task={"relabel": True}), study(supervision="dense"), study(task={"demo_length": 8})]
    assert all(Machines.combined([one, other.tasks["train"]]) is None for other in others)
    # One machine in seven is connected: too many candidates to draw them all at once.
    rare = study(task={"states": 5, "actions": 1, "demos": 3, "connected": True}).tasks["train"]
    assert Machines.combined([rare, rare]) is None and rare.sample(HERE, 3).rows == 3


@pytest.mark.parametrize("data", [None, CACHED, CACHED | {"train": 21}], ids=["fresh", "whole epochs", "ragged epochs"])
@pytest.mark.parametrize("task", KINDS, ids=str)
def test_batches_can_be_drawn_where_the_step_is_counted(task: dict, data: dict | None):
    """What a CUDA graph of an update asks of a task: no look at values, no shapes that depend on them."""
    train = study(data, task=task).tasks["train"]
    for step in (0, 3, 7):
        there = Address(SEEDS, "data", torch.tensor(step))
        drawn = train.sample(Address(SEEDS, "data", step), 6)
        assert why_not_on_device(train, there, 6, drawn, torch.device("cpu")) is None


# ---------------------------------------------------------------- sets


def machines_of(batch: Batch) -> set[bytes]:
    return {bytes(table) for table in batch.latents.table.flatten(1).to(torch.uint8).numpy()}


@pytest.mark.parametrize("data", [None, CACHED], ids=["fresh", "cached"])
def test_sets_share_no_machine_with_training_whatever_their_lengths(data: dict | None):
    found = study(data, task={"states": 3, "actions": 2}, evaluation={"query_lengths": [9, 30], "rows": 300})
    trained = set()
    for step in range(40):
        trained |= machines_of(found.tasks["train"].sample(Address(SEEDS, "data", step), 6))
    validation = machines_of(found.tasks["validation"].sample(EVAL, found.evaluation_rows("validation")))
    tested = [
        machines_of(found.tasks[name].sample(EVAL, found.evaluation_rows(name)))
        for name in ("test", "free", "query_9", "query_30")
    ]
    assert not trained & validation
    assert all(not (trained | validation) & own for own in tested)


@pytest.mark.parametrize("data", [None, CACHED], ids=["fresh", "cached"])
def test_longer_queries_go_on_from_those_of_the_test_rows(data: dict | None):
    """Same machines and demonstrations, and the same walk to begin with: lengths are compared on the same rows."""
    found = study(data, evaluation={"query_lengths": [20]})
    short, long = (found.tasks[name].sample(EVAL, 7).latents for name in ("test", "query_20"))
    for name in ("table", "demo_lengths"):
        assert torch.equal(getattr(short, name), getattr(long, name))
    for row in range(7):
        for demo, length in enumerate(short.demo_lengths[row].tolist()):
            for name in ("demo_states", "demo_actions"):
                one, other = getattr(short, name)[row, demo], getattr(long, name)[row, demo]
                assert torch.equal(one[:length], other[:length])
        length = int(short.query_lengths[row])
        assert torch.equal(long.query_states[row, : length + 1], short.query_states[row, : length + 1])
        assert 16 <= int(long.query_lengths[row]) <= 24


def test_the_free_set_is_the_first_test_rows_with_what_is_fed_back():
    for data in (None, CACHED):
        found = study(data)
        free, test = found.tasks["free"].sample(EVAL, 5), found.tasks["test"].sample(EVAL, 5)
        assert same(free, test) and test.feedback is None
        after = torch.zeros_like(free.weights, dtype=torch.bool)
        after[:, 1:] = free.weights[:, :-1] > 0  # the answer asked for at a position is the next input
        assert torch.equal(free.feedback, after)
        assert torch.equal(free.inputs[:, 1:][after[:, 1:]], free.targets[:, :-1][after[:, 1:]])


def test_dense_supervision_is_of_training_alone():
    found = study(supervision="dense")
    row = found.tasks["train"].sample(EVAL, 5)
    asked = row.latents.demo_lengths.sum(1) + row.latents.query_lengths
    assert torch.equal(row.weights.sum(1).long(), asked)
    test = found.tasks["test"].sample(EVAL, 5)
    assert torch.equal(test.weights.sum(1).long(), test.latents.query_lengths)


def test_what_evaluation_sets_hold():
    fresh, cached = study(evaluation={"query_lengths": [9]}), study(CACHED, evaluation={"query_lengths": [9]})
    assert {name: fresh.evaluation_rows(name) for name in fresh.tasks} == {
        "train": 30, "validation": 30, "test": 30, "free": 5, "query_9": 30}  # fmt: skip
    assert {name: cached.evaluation_rows(name) for name in cached.tasks} == {
        "train": 20, "validation": 9, "test": 7, "free": 5, "query_9": 30}  # fmt: skip
    assert fresh.monitored == cached.monitored == ("train", "validation")


@pytest.mark.parametrize(
    "task, among, size",
    [
        ({}, 4, 8),
        ({"states": 8, "actions": 3}, None, 8),
        ({"relabel": True}, None, 8),
        ({"outputs": 3}, 3, 8),
        ({"head": "states"}, None, 4),
        ({"head": "states", "outputs": 3}, 3, 4),
    ],
)
def test_what_answers_can_be(task: dict, among: int | None, size: int):
    found = study(task=task, evaluation={"query_lengths": [40]})
    outputs = found.interface.outputs
    assert (outputs.size, outputs.among) == (size, among)
    assert found.interface.inputs.size == 21
    longest = found.tasks["query_40"].sample(EVAL, 3)
    assert longest.inputs.shape[1] == found.interface.length  # a model with learned positions has one for each


def test_machines_that_cannot_be_are_refused_when_the_study_is_built():
    with pytest.raises(UserError, match="too few different machines"):
        study(task={"states": 2, "actions": 1, "demos": 1})


# ---------------------------------------------------------------- finite rows


def test_cached_rows_are_fresh_rows_of_their_own_address():
    """A cached row's machine, query and demonstrations are those of the law, and its splits the same."""
    found = study(CACHED)
    for name, (low, high) in {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}.items():
        task = found.tasks[name]
        own = Machines(task.interface, found.config.task, name, place=task.place)
        batch = task.sample(EVAL, 7)
        assert same(own.sample(EVAL, 7), batch, latents=False)
        assert all(low <= place < high for place in bucket(batch.latents.table).tolist())


def test_cached_rows_are_the_same_for_every_run_and_others_with_another_seed():
    tree = {"task": {"kind": "machines", "states": 4, "actions": 3}, "data": CACHED}
    one, other = (AutomataConfig.model_validate(tree).build(Seeds().following(seed), 6) for seed in (0, 9))
    seeded = AutomataConfig.model_validate(tree | {"data": CACHED | {"seed": 1}}).build(SEEDS, 6)
    for name in ("train", "validation", "test", "free"):
        assert same(one.tasks[name].sample(EVAL, 7), other.tasks[name].sample(EVAL, 7))
        assert not torch.equal(one.tasks[name].sample(EVAL, 7).inputs, seeded.tasks[name].sample(EVAL, 7).inputs)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 3))
def test_every_row_comes_once_an_epoch(rows: int, batch: int, epoch: int):
    """Epochs laid end to end, in random orders; a batch larger than the set goes through it more than once."""
    task = study(CACHED | {"train": rows}, batch=batch).tasks["train"]
    tables = [bytes(table) for table in task.rows.table[:rows].flatten(1).numpy()]
    steps = range((rows * 4 + batch - 1) // batch)
    drawn = torch.cat([task.sample(Address(SEEDS, "data", step), batch).latents.table for step in steps])
    shown = [bytes(table) for table in drawn.to(torch.int8).flatten(1).numpy()]
    assert sorted(shown[epoch * rows : (epoch + 1) * rows]) == sorted(tables)
    on_device = [task.sample(Address(SEEDS, "data", torch.tensor(step)), batch).inputs for step in list(steps)[:3]]
    assert all(
        torch.equal(task.sample(Address(SEEDS, "data", step), batch).inputs, there)
        for step, there in enumerate(on_device)
    )


def test_a_rank_draws_its_share_of_a_step():
    task = study(CACHED).tasks["train"]
    whole = task.sample(HERE, 6)
    assert same(task.sample(HERE, 2, 3), whole, slice(3, 5))


def test_training_rows_show_other_demonstrations_each_time_and_evaluation_rows_never():
    train = study(CACHED | {"train": 1}, batch=1).tasks["train"]
    starts = [tuple(train.sample(Address(SEEDS, "data", step), 1).latents.demo_states[0, :, 0].tolist())
              for step in range(600)]  # fmt: skip
    assert len(set(starts)) == 4 * 3 * 2  # three of four states in every order
    assert max(starts.count(one) for one in set(starts)) < 60  # 25 expected, standard deviation 5
    for name in ("train", "validation", "test"):
        task = study(CACHED).tasks[name]
        assert same(task.sample(EVAL, 7), task.sample(Address(SEEDS, "eval", 5), 7))


@pytest.mark.parametrize("train", [20, 18])
def test_members_of_a_stack_share_finite_rows(train: int):
    data = CACHED | {"train": train}
    seeds = tuple(Seeds().following(e) for e in range(3))
    tasks = [study(data).tasks["train"] for _ in seeds]
    steps = torch.tensor([4, 0, 31])
    together = Finite.combined(tasks).sample(Addresses(seeds, "data", steps), 5, 1)
    for e, (own, step) in enumerate(zip(seeds, steps.tolist(), strict=True)):
        assert same(tasks[e].sample(Address(own, "data", step), 5, 1), together, e)
    assert Finite.combined([tasks[0], study(data | {"seed": 3}).tasks["train"]]) is None
    assert Finite.combined([tasks[0], study(data, supervision="dense").tasks["train"]]) is None


def test_demonstrations_may_be_as_many_as_states_and_no_more():
    assert study(CACHED, task={"demos": 4}).tasks["train"].sample(HERE, 2).latents.demo_states.shape[1] == 4
    with pytest.raises(ValueError, match=r"task\.demos = 5, but each demonstration starts from another"):
        MachinesConfig(states=4, actions=3, demos=5)
