"""Updates as CUDA graphs against the ordinary ones on the same card."""

from __future__ import annotations

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
from torch import Tensor, nn

from inlearn.core.draws import Address, Addresses, integers, normal
from inlearn.lab import discovery
from inlearn.lab.build import build, build_member, build_trainer
from inlearn.lab.config import compose
from inlearn.models import attention
from inlearn.training.config import Record
from inlearn.training.feeds import DeviceFeed, HostFeed
from inlearn.training.graphs import WARM, Alone, Together
from inlearn.training.loop import Course
from inlearn.training.stack import Stack
from inlearn.training.together import train_together

pytestmark = pytest.mark.gpu

NEAR = {"rtol": 2e-4, "atol": 2e-5}  # after 30 updates: rates are rounded to float32, sums of atomics have no order


@every_case
@with_and_without_prefix
def test_solo(case: str, prefix: bool) -> None:
    task = task_of(case, prefix=prefix, columns=COLUMNS)
    ordinary, replayed = trainer_of(case, device="cuda"), trainer_of(case, device="cuda")
    for _ in range(30):
        ordinary.update(task)
    updates, heard = updates_of(Alone(replayed, [task]))
    run(updates, 30)
    assert heard == [] and updates._graph is not None and isinstance(updates._feed, DeviceFeed)
    torch.testing.assert_close(replayed.waiting_losses(), ordinary.waiting_losses(), **NEAR)
    torch.testing.assert_close(replayed.gradient_norm, ordinary.gradient_norm, **NEAR)
    assert replayed.progress == ordinary.progress


@every_case
@with_and_without_prefix
def test_stack(case: str, prefix: bool) -> None:
    ordinary, replayed = (stack_of(case, device="cuda", prefix=prefix, columns=COLUMNS) for _ in range(2))
    for _ in range(30):
        ordinary.update()
    updates, heard = updates_of(Together(replayed))
    run(updates, 30)
    assert heard == [] and updates._graph is not None
    for one, other in zip(replayed.members, ordinary.members, strict=True):
        torch.testing.assert_close(one.waiting_losses(), other.waiting_losses(), **NEAR)


@pytest.mark.parametrize("optimiser", [{"kind": "adamw"}, {"kind": "sgd"}, {"kind": "sgd", "momentum": 0.9}])
def test_every_optimiser(optimiser: dict) -> None:
    task = task_of("regression", columns=COLUMNS)
    ordinary, replayed = (trainer_of("regression", device="cuda", optimiser=optimiser) for _ in range(2))
    for _ in range(30):
        ordinary.update(task)
    updates, heard = updates_of(Alone(replayed, [task]))
    run(updates, 30)
    assert heard == [] and updates._graph is not None
    torch.testing.assert_close(replayed.parameters.values, ordinary.parameters.values, **NEAR)


@pytest.mark.parametrize("form", ["solo", "stack"])
def test_cuda_sees_no_wait_in_a_burst(form: str) -> None:
    """By torch's own watch, which raises at every operation that makes the host wait."""
    if form == "solo":
        one = Alone(trainer_of("llama", device="cuda"), [task_of("llama", columns=COLUMNS)])
    else:
        one = Together(stack_of("llama", device="cuda", columns=COLUMNS))
    updates, _ = updates_of(one)
    run(updates, WARM + 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        updates._make(16)  # replays
        updates._drop()
        updates._step()  # and the same operations one by one
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("counts", [("inf", "inf", "inf"), ("8", "4", "2"), ("8", "inf", "2")])
def test_regression_s_stacks_are_drawn_on_the_card(counts: tuple[str, ...]) -> None:
    asked = ["device=cuda", "model.width=32", "model.heads=2", "training.batch=32"]
    builts = [
        build(compose(discovery.study("regression"), [*asked, f"seed={e}", f"task.count={count}"]))
        for e, count in enumerate(counts)
    ]
    ordinary, replayed = (
        Stack([build_member(built) for built in builts], torch.device("cuda"), "float32") for _ in range(2)
    )
    for _ in range(30):
        ordinary.update()
    updates, heard = updates_of(Together(replayed))
    run(updates, 30)
    assert heard == [] and isinstance(updates._feed, DeviceFeed)
    torch.testing.assert_close(replayed.history, ordinary.history, **NEAR)


def test_a_finite_set_is_drawn_on_the_host_and_the_rest_replayed() -> None:
    asked = ["device=cuda", "model.width=32", "model.heads=2", "training.batch=32", "task.sequences=100"]
    built = build(compose(discovery.study("regression"), asked))
    ordinary, replayed = build_trainer(built), build_trainer(built)
    for _ in range(30):
        ordinary.update(built.tasks[0])
    updates, heard = updates_of(Alone(replayed, built.tasks))
    run(updates, 30)
    assert len(heard) == 1 and isinstance(updates._feed, HostFeed) and updates._graph is not None
    torch.testing.assert_close(replayed.waiting_losses(), ordinary.waiting_losses(), **NEAR)


def test_caches_that_are_emptied_between_replays_do_no_harm() -> None:
    task = task_of("llama", columns=COLUMNS)
    ordinary, replayed = trainer_of("llama", device="cuda"), trainer_of("llama", device="cuda")
    for _ in range(30):
        ordinary.update(task)
    updates, _ = updates_of(Alone(replayed, [task]))
    run(updates, 10)
    attention.causal_mask.cache_clear()
    attention.rotation.cache_clear()
    torch.cuda.empty_cache()
    rubbish = [torch.full((1 << n,), float("nan"), device="cuda") for n in range(20) for _ in range(8)]
    run(updates, 20)
    torch.testing.assert_close(replayed.waiting_losses(), ordinary.waiting_losses(), **NEAR)
    assert rubbish[0].isnan().all()


class NoSink:
    def line(self, line: dict) -> None: ...
    def trajectory(self, step: int, row: Tensor) -> None: ...
    def checkpoint(self, learner: object, kept: frozenset[int]) -> None: ...
    def overdue(self) -> bool:
        return False


def test_members_that_leave_are_followed_by_a_new_graph() -> None:
    stacks = [stack_of("tied", device="cuda", columns=COLUMNS) for _ in range(2)]
    ends: list[list[Tensor]] = []
    never = {"kind": "never"}
    record = Record.model_validate({"training": 40, "best": None, "evaluations": never, "checkpoints": never})
    for stack, launched in zip(stacks, (False, True), strict=True):
        members = list(stack.members)
        for member, until in zip(members, (40, 9, 25), strict=True):
            member.training = member.training.model_copy(update={"until": until})
        courses = {m: Course(m, record, lambda _: [], NoSink(), lambda: False) for m in members}
        updates, heard = updates_of(Together(stack)) if launched else (None, [])
        train_together(stack, courses, dict.fromkeys(members, False), lambda member, end: None, updates)
        assert heard == []
        ends.append([member.parameters.row().clone() for member in members])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, **NEAR)


class Peeking(nn.Module):
    """A model that looks at a number, as a user's own might."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.inner = model

    def forward(self, inputs: Tensor, state: object = None, scored: object = None) -> tuple[Tensor, object]:
        outputs, state = self.inner(inputs, state, scored)
        if float(outputs.detach().sum()) == float("inf"):
            raise OverflowError
        return outputs, state


def test_what_cannot_be_captured_goes_on_with_the_ordinary_updates() -> None:
    task = task_of("tied", columns=COLUMNS)
    ordinary, fallen = (trainer_of("tied", dropout=0.0, device="cuda") for _ in range(2))
    fallen.parameters.loss.model = Peeking(fallen.model)
    for _ in range(30):
        ordinary.update(task)
    updates, heard = updates_of(Alone(fallen, [task]))
    run(updates, 30)
    assert updates.ordinary and len(heard) == 1
    torch.testing.assert_close(fallen.waiting_losses(), ordinary.waiting_losses(), **NEAR)


def test_many_tokens_of_an_embedding() -> None:
    """Above 3,072 ids torch's backward pass sorts them: by replays, or by the ordinary updates, and never wrongly."""
    task = Drawn(CASES["tied"][1], columns=COLUMNS)
    ordinary, replayed = (trainer_of("tied", device="cuda", batch=1000) for _ in range(2))
    for _ in range(10):
        ordinary.update(task)
    updates, heard = updates_of(Alone(replayed, [task]))
    run(updates, 10)
    print("an embedding of 5,000 ids:", heard or "captured")
    torch.testing.assert_close(replayed.waiting_losses(), ordinary.waiting_losses(), **NEAR)


def test_draws_are_those_of_the_host() -> None:
    class Seeds:
        data = eval = 7

        def __hash__(self) -> int:
            return 7

    step = torch.tensor(12_345, device="cuda")
    here, there = Address(Seeds(), "data", 12_345).key("x"), Address(Seeds(), "data", step).key("x", device="cuda")
    assert int(here) == int(there)
    assert torch.equal(integers(here, 100, 1000, (7,)), integers(there, 100, 1000, (7,)).cpu())
    torch.testing.assert_close(normal(here, 1000, (7,)), normal(there, 1000, (7,)).cpu(), rtol=1e-5, atol=1e-6)
    many = Addresses((Seeds(), Seeds()), "data", step.expand(2))
    assert many.key("x", device="cuda").tolist() == [int(here)] * 2
