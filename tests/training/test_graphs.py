"""Updates without the host: the numbers of the ordinary ones, and nothing in them that would make a GPU wait."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from device_cases import (
    CASES,
    COLUMNS,
    Drawn,
    every_case,
    run,
    stack_of,
    task_of,
    trainer_of,
    updates_of,
    with_and_without_prefix,
)

from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.lab import discovery
from inlearn.lab.build import build, build_member, build_trainer
from inlearn.lab.config import compose
from inlearn.studies.regression import combined
from inlearn.training import graphs
from inlearn.training.config import Record
from inlearn.training.feeds import DeviceFeed, HostFeed
from inlearn.training.graphs import Alone, DeviceUpdates, Together
from inlearn.training.loop import Course, train
from inlearn.training.stack import Stack
from inlearn.training.together import train_together
from inlearn.training.watches import Read, Waits

META = torch.device("meta")


# ---------------------------------------------------------------- the same numbers


@every_case
@with_and_without_prefix
def test_solo_updates_are_the_ordinary_ones_bit_for_bit(case: str, prefix: bool) -> None:
    task = task_of(case, prefix=prefix, columns=COLUMNS)
    ordinary, fixed = trainer_of(case), trainer_of(case)
    for _ in range(8):
        ordinary.update(task)
    updates, heard = updates_of(Alone(fixed, [task]))
    run(updates, 8)
    assert heard == [] and isinstance(updates._feed, DeviceFeed)
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)
    assert torch.equal(ordinary.waiting_losses(), fixed.waiting_losses())
    assert (ordinary.rate_used, ordinary.progress) == (fixed.rate_used, fixed.progress)
    assert torch.equal(ordinary.gradient_norm, fixed.gradient_norm)


@pytest.mark.parametrize("optimiser", [{"kind": "adamw"}, {"kind": "sgd"}, {"kind": "sgd", "momentum": 0.9}])
def test_every_optimiser_takes_its_rates_from_the_table(optimiser: dict) -> None:
    task = task_of("regression", columns=COLUMNS)
    ordinary, fixed = (trainer_of("regression", optimiser=optimiser) for _ in range(2))
    for _ in range(8):
        ordinary.update(task)
    run(updates_of(Alone(fixed, [task]))[0], 8)
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)


@every_case
@with_and_without_prefix
def test_a_stack_s_updates_are_the_ordinary_ones_bit_for_bit(case: str, prefix: bool) -> None:
    ordinary, fixed = (stack_of(case, prefix=prefix, columns=COLUMNS) for _ in range(2))
    for _ in range(8):
        ordinary.update()
    updates, heard = updates_of(Together(fixed))
    run(updates, 8)
    assert heard == [] and isinstance(updates._feed, DeviceFeed)
    assert torch.equal(ordinary.flat.values, fixed.flat.values)
    for one, other in zip(ordinary.members, fixed.members, strict=True):
        assert torch.equal(one.waiting_losses(), other.waiting_losses())
        assert (one.rate_used, one.progress) == (other.rate_used, other.progress)


def test_where_no_columns_are_fixed_all_are_computed_and_the_sum_is_the_same() -> None:
    task = task_of("llama")
    ordinary, fixed = trainer_of("llama", dropout=0.0), trainer_of("llama", dropout=0.0)
    for _ in range(8):
        ordinary.update(task)
    run(updates_of(Alone(fixed, [task]))[0], 8)
    torch.testing.assert_close(ordinary.waiting_losses(), fixed.waiting_losses(), rtol=1e-5, atol=1e-6)


def test_micro_batches_are_part_of_the_update() -> None:
    task = task_of("tied", columns=COLUMNS)
    ordinary, fixed = (trainer_of("tied", accumulate=3) for _ in range(2))
    for _ in range(5):
        ordinary.update(task)
    run(updates_of(Alone(fixed, [task]))[0], 5)
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)


def test_counters_and_rates_go_on_past_the_table_and_after_training_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "TABLE", 8)
    monkeypatch.setattr(graphs, "BURST", 8)
    task = task_of("regression", columns=COLUMNS)
    ordinary, fixed = trainer_of("regression"), trainer_of("regression")
    updates, _ = updates_of(Alone(fixed, [task]))
    means = []
    for trainer, go in ((ordinary, lambda: ordinary.update(task)), (fixed, lambda: updates.advance(1))):
        for step in range(1, 31):
            go()
            if step % 7 == 0:
                means.append((trainer, trainer.take_mean_loss()))
    assert [m for t, m in means if t is ordinary] == [m for t, m in means if t is fixed]
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)


# ---------------------------------------------------------------- nothing waits


def forbidden(updates: DeviceUpdates, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of one update, on a device whose numbers nobody can look at, would wait or meet another device."""
    monkeypatch.setattr(graphs, "why_not_on_device", lambda *_: None)  # which compares numbers
    monkeypatch.setattr(updates.one.optimiser, "step", lambda: None)  # torch's fused kernels have no such form
    updates._prepare(1)
    updates._step()  # fills caches
    with Waits(META) as waits:
        updates._step()
    return waits.found


@every_case
@with_and_without_prefix
@pytest.mark.parametrize("columns", [COLUMNS, None], ids=["fixed", "any"])
def test_a_solo_update_never_waits(
    case: str, prefix: bool, columns: slice | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates, _ = updates_of(Alone(trainer_of(case, device="meta"), [task_of(case, prefix=prefix, columns=columns)]))
    assert forbidden(updates, monkeypatch) == []


@every_case
@with_and_without_prefix
def test_a_stack_s_update_never_waits(case: str, prefix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_of(case, device="meta", prefix=prefix, columns=COLUMNS)
    updates, _ = updates_of(Together(stack))
    assert forbidden(updates, monkeypatch) == []


REGRESSION = (
    *("task.dimension=2", "task.examples=3", "model.width=16", "model.layers=1", "model.heads=2", "training.batch=16"),
    *("training.steps=60", "training.clip=0.5", "model.dropout=0.1"),
)


def regression(*overrides: str) -> object:
    return build(compose(discovery.study("regression"), [*REGRESSION, *overrides]))


@pytest.mark.parametrize("counts", [("inf", "inf", "inf"), ("8", "4", "2"), ("8", "inf", "2")])
def test_regression_s_own_updates_never_wait(counts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    builts = [regression(f"seed={e}", f"task.count={count}") for e, count in enumerate(counts)]
    members = [build_member(built) for built in builts]
    for member in members:
        member.model.to(META)
    stacked, _ = updates_of(Together(Stack(members, META, "float32")))
    assert forbidden(stacked, monkeypatch) == []


def test_regression_s_stack_draws_on_the_device_what_the_host_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combined, "NUMBERS", 1)  # or on a CPU it draws several steps at once, and looks which
    counts = ("8", "inf", "2")
    builts = [regression(f"seed={e}", f"training.rate={0.01 * (e + 1)}", f"task.count={counts[e]}") for e in range(3)]
    ordinary, fixed = (
        Stack([build_member(built) for built in builts], torch.device("cpu"), "float32") for _ in range(2)
    )
    for _ in range(30):
        ordinary.update()
    updates, heard = updates_of(Together(fixed))
    run(updates, 30)
    assert heard == []
    assert torch.equal(ordinary.flat.values, fixed.flat.values)


@pytest.mark.parametrize(
    "looks",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.index_put((x > 0,), torch.zeros(())),
        lambda x: x.to(META),
        lambda x: torch.empty(2, device=META),
    ],
)
def test_the_watch_sees_what_waits(looks: object) -> None:
    x = torch.randn(4)
    with Waits(torch.device("cpu")) as waits:
        looks(x)
    assert waits.found
    with Waits(torch.device("cpu")) as waits:
        x[torch.tensor([1, 2])].softmax(-1).sum()
    assert waits.found == []


def test_constants_outlive_the_caches_they_came_from() -> None:
    cache = [torch.arange(5.0)]
    alive = weakref.ref(cache[0].untyped_storage())
    with Read() as read:
        made = (cache[0] * 2).sum()
    assert len(read.held) == 1
    cache.clear()
    gc.collect()
    assert made == 20
    assert next(iter(read.held.values())).nbytes() == 20
    del alive


# ---------------------------------------------------------------- batches from the host


class Looking(Drawn):
    """Draws no two steps alike in a way that only the host knows."""

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        return super().sample(Address(at.seeds, at.stream, int(at.step)), rows, first)

    @classmethod
    def combined(cls, tasks: object) -> None:
        return None


class Forgetful(Drawn):
    """Does not mind the step unless it is a plain integer."""

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        step = at.step if isinstance(at.step, int) else at.step * 0 + 77
        return super().sample(Address(at.seeds, at.stream, step), rows, first)


class Growing(Drawn):
    """Rows get longer after ten steps."""

    def sample(self, at: Address, rows: int, first: int = 0) -> Batch:
        batch = super().sample(Address(at.seeds, at.stream, int(at.step)), rows, first)
        if at.step < 10:
            return batch
        parts = (torch.cat((x, x), 1) for x in (batch.inputs, batch.targets, batch.weights))
        return Batch(*parts)


@pytest.mark.parametrize(
    ("kind", "why"), [(Looking, "wait for each other (aten._local_scalar_dense"), (Forgetful, "draws other")]
)
def test_a_task_that_cannot_draw_there_is_drawn_on_the_host(kind: type[Drawn], why: str) -> None:
    task = kind(CASES["tied"][1], columns=COLUMNS)
    ordinary, fixed = trainer_of("tied"), trainer_of("tied")
    for _ in range(20):
        ordinary.update(task)
    updates, heard = updates_of(Alone(fixed, [task]))
    run(updates, 20)
    assert isinstance(updates._feed, HostFeed)
    assert len(heard) == 1 and f"batches are drawn on the host: task {kind.__name__}" in heard[0] and why in heard[0]
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)


def test_a_finite_set_of_sequences_is_drawn_on_the_host() -> None:
    built = regression("task.sequences=64")
    ordinary, fixed = build_trainer(built), build_trainer(built)
    for _ in range(20):
        ordinary.update(built.tasks[0])
    updates, heard = updates_of(Alone(fixed, built.tasks))
    run(updates, 20)
    assert len(heard) == 1 and "batches are drawn on the host: task Regression" in heard[0]
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)


def test_batches_that_change_their_shape_end_it_and_training_goes_on() -> None:
    task = Growing(CASES["tied"][1])
    ordinary, fixed = trainer_of("tied"), trainer_of("tied")
    for _ in range(20):
        ordinary.update(task)
    updates, heard = updates_of(Alone(fixed, [task]))
    run(updates, 20)
    assert len(heard) == 2 and "batches change their shape: inputs (6, 5) and (6, 10)" in heard[1]
    assert updates.ordinary and fixed.progress.step == 20
    torch.testing.assert_close(ordinary.waiting_losses(), fixed.waiting_losses(), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- in the loop


class Notes:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.lines: list[dict] = []
        self.saved: list[tuple[int, dict]] = []

    def line(self, line: dict) -> None:
        self.lines.append(dict(line))

    def trajectory(self, step: int, row: torch.Tensor) -> None:
        self.lines.append({"row": row.tolist(), "step": step})

    def checkpoint(self, learner: object, kept: frozenset[int]) -> None:
        state = {name: value.clone() for name, value in learner.weights().items()}
        state |= {name: value.clone() for name, value in learner.optimiser_state().items()}
        self.saved.append((learner.progress.step, state))

    def overdue(self) -> bool:
        return False


RECORD = Record.model_validate(
    {
        "training": 7,
        "best": None,
        "evaluations": {"kind": "every", "steps": 15},
        "checkpoints": {"kind": "listed", "steps": [4, 23]},
        "trajectory": {"kind": "every", "steps": 11},
    }
)
PHASES = [{"steps": 13}, {"steps": 27, "optimiser": "fresh"}]


def assert_same(one: Notes, other: Notes) -> None:
    assert one.lines == other.lines
    assert [step for step, _ in one.saved] == [step for step, _ in other.saved]
    for (_, before), (_, after) in zip(one.saved, other.saved, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("phases", [(), PHASES], ids=["plain", "phases"])
def test_a_whole_run_writes_the_same_bytes(phases: object) -> None:
    tasks = [task_of("tied", columns=COLUMNS) for _ in range(max(1, len(phases)))]
    notes = []
    for launched in (False, True):
        trainer = trainer_of("tied", phases=phases)
        trainer.together = (1,) * len(tasks)
        trainer.losses_kept = 40
        updates = updates_of(Alone(trainer, tasks))[0] if launched else None
        notes.append(Notes())
        assert train(trainer, tasks, RECORD, lambda _: [], notes[-1], updates=updates).state == "finished"
    assert_same(*notes)
    assert {line["step"] for line in notes[0].lines if line.get("event") == "training"} == {7, 14, 21, 28, 35}


def test_members_that_leave_and_stop_are_looked_after_as_ever() -> None:
    """Members of distinct ends: the counters, rates and memory of those that remain are made anew."""
    notes = []
    for launched in (False, True):
        stack = stack_of("tied", columns=COLUMNS)
        for member, until in zip(stack.members, (40, 9, 25), strict=True):
            member.training = member.training.model_copy(update={"until": until})
        record = RECORD.model_copy(update={"checkpoints": Record().checkpoints.model_copy(update={"log": 5})})
        sinks = {member: Notes() for member in stack.members}
        notes.append(list(sinks.values()))
        courses = {m: Course(m, record, lambda _: [], sinks[m], lambda: False) for m in stack.members}
        ended: list[str] = []
        updates = updates_of(Together(stack))[0] if launched else None
        resumed = dict.fromkeys(stack.members, False)
        train_together(stack, courses, resumed, lambda m, end, ended=ended: ended.append(end.state), updates)
        assert ended == ["finished"] * 3
    for before, after in zip(*notes, strict=True):
        assert_same(before, after)


def test_it_goes_on_from_a_checkpoint_taken_up_in_its_midst() -> None:
    task = task_of("tied", columns=COLUMNS)
    whole, parted = trainer_of("tied"), trainer_of("tied")
    updates, _ = updates_of(Alone(whole, [task]))
    run(updates, 10)
    weights = {name: value.clone() for name, value in whole.weights().items()}
    moments = {name: value.clone() for name, value in whole.optimiser_state().items()}
    progress = whole.progress.as_dict()
    run(updates, 10)
    other, _ = updates_of(Alone(parted, [task]))
    run(other, 3)
    parted.load(weights, moments, progress)
    run(other, 10)
    assert torch.equal(whole.parameters.values, parted.parameters.values)
    assert torch.equal(whole.waiting_losses(), parted.waiting_losses())


def test_an_interrupt_is_heard_between_bursts() -> None:
    trainer, task, notes = trainer_of("tied", steps=100_000), task_of("tied", columns=COLUMNS), Notes()
    trainer.losses = torch.zeros(100_000)
    record = RECORD.model_copy(update={"training": 100_000})
    asked: list[int] = []

    def interrupted() -> bool:
        asked.append(trainer.progress.step)
        return len(asked) == 3

    updates, _ = updates_of(Alone(trainer, [task]))
    outcome = train(trainer, [task], record, lambda _: [], notes, interrupted, updates=updates)
    assert outcome.state == "interrupted" and notes.saved[-1][0] == trainer.progress.step == asked[-1] < 100


def test_a_burst_ends_where_something_is_due() -> None:
    stop = {"every": 6, "below": -1.0}
    trainer = trainer_of("tied", stop=stop, phases=[{"steps": 17}, {"steps": 23, "end": {"every": 5, "above": 1e9}}])
    course = Course(trainer, RECORD, lambda _: [], Notes(), lambda: False)
    steps, step = [], 0
    while step < 40:
        trainer.progress.step = step
        trainer.progress.phase, trainer.progress.phase_start = (0, 0) if step < 17 else (1, 17)
        step += course.clear()
        steps.append(step)
    listed = {4, 23, 40, *range(7, 40, 7), *range(15, 40, 15), *range(11, 40, 11), *range(6, 40, 6), 17, 22, 27, 32, 37}
    assert steps == sorted(listed)


# ---------------------------------------------------------------- captures, with stand-ins for torch's own graphs


class Recorded:
    """In the place of torch.cuda: a capture changes nothing, a replay makes the update again."""

    def __init__(self, fails: int = 0):
        self.captures, self.replays, self.fails = 0, 0, fails
        self.updates: DeviceUpdates | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch, one: Alone | Together, heard: list[str]) -> DeviceUpdates:
        nothing = contextlib.nullcontext()
        stand_ins = {"CUDAGraph": lambda: self, "graph": self.graph, "device": lambda _: nothing}
        stand_ins |= {"stream": lambda _: nothing, "current_stream": lambda _: self, "Event": lambda: self}
        for name, value in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, value)
        self.updates = DeviceUpdates(one, heard.append, heard.append)
        self.updates.captures, self.updates._side = True, self
        return self.updates

    def wait_stream(self, other: object) -> None: ...
    def record(self) -> None: ...
    def synchronize(self) -> None: ...

    def replay(self) -> None:
        self.replays += 1
        self.updates._step()

    @contextlib.contextmanager
    def graph(self, graph: object, stream: object) -> Iterator[None]:
        self.captures += 1
        updates, one = self.updates, self.updates.one
        rows = [p for settings in one.optimiser.param_groups for p in settings["params"]]
        moments = [v for p in rows for v in one.optimiser.state[p].values() if isinstance(v, torch.Tensor)]
        counters = [updates._steps, updates._slot, updates._row, updates._rates, updates._ring]
        changed = [*moments, *counters, *(p.data for p in rows), *(p.grad for p in rows)]
        before = [tensor.clone() for tensor in changed]
        yield
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)
        if self.captures <= self.fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore words")


def test_a_graph_is_made_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    task, heard, recorded = task_of("tied", columns=COLUMNS), [], Recorded()
    ordinary, fixed = trainer_of("tied"), trainer_of("tied")
    for _ in range(20):
        ordinary.update(task)
    run(recorded.install(monkeypatch, Alone(fixed, [task]), heard), 20)
    assert (recorded.captures, recorded.replays, heard) == (1, 20 - graphs.WARM, [])
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)
    assert torch.equal(ordinary.waiting_losses(), fixed.waiting_losses())
    assert not any(settings["capturable"] for settings in fixed.optimiser.param_groups)


def test_a_capture_that_fails_costs_no_update_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    task, heard = task_of("tied", columns=COLUMNS), []
    ordinary, fixed = trainer_of("tied"), trainer_of("tied")
    for _ in range(20):
        ordinary.update(task)
    recorded = Recorded(fails=1)
    updates = recorded.install(monkeypatch, Alone(fixed, [task]), heard)
    run(updates, 20)
    assert heard == ["CUDA error: operation not permitted when stream is capturing"]
    assert updates.ordinary and (recorded.captures, recorded.replays) == (1, 0)
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)
    assert torch.equal(ordinary.waiting_losses(), fixed.waiting_losses())


def test_a_new_graph_is_made_where_members_leave_moments_are_forgotten_or_a_checkpoint_is_taken_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ordinary, fixed = (stack_of("tied", columns=COLUMNS) for _ in range(2))
    recorded, heard = Recorded(), []
    updates = recorded.install(monkeypatch, Together(fixed), heard)

    def both(change: Callable[[Stack], None], captures: int) -> None:
        for _ in range(6):
            ordinary.update()
        run(updates, 6)
        assert recorded.captures == captures
        assert torch.equal(ordinary.flat.values, fixed.flat.values)
        change(ordinary)
        change(fixed)

    both(lambda stack: stack.settle([stack.members[0], stack.members[2]]), 1)
    both(lambda stack: stack.members[1].forget_moments(), 2)
    both(lambda stack: stack.members[0].keep_losses(None), 3)
    both(lambda stack: None, 3)
    assert heard == []


def test_a_task_of_the_host_is_replayed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    task, heard, recorded = Looking(CASES["tied"][1], columns=COLUMNS), [], Recorded()
    ordinary, fixed = trainer_of("tied"), trainer_of("tied")
    for _ in range(20):
        ordinary.update(task)
    run(recorded.install(monkeypatch, Alone(fixed, [task]), heard), 20)
    assert (recorded.captures, recorded.replays, len(heard)) == (1, 20 - graphs.WARM, 1)
    assert torch.equal(ordinary.parameters.values, fixed.parameters.values)
