"""Members of a stack, update by update: the same bits in any company, and what the solo engine computes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.spaces import Interface, Tokens
from inlearn.lab import discovery
from inlearn.lab.build import build, build_member, build_trainer
from inlearn.lab.config import Seeds, compose
from inlearn.models.initialise import initialise
from inlearn.models.transformer_config import TransformerConfig
from inlearn.training.config import Training
from inlearn.training.learner import Diverged
from inlearn.training.stack import Member, Stack

CPU = torch.device("cpu")
BASE = {
    **{"task.dimension": 2, "task.examples": 3, "model.width": 16, "model.layers": 1, "model.heads": 2},
    **{"training.batch": 16, "training.steps": 40, "training.rate": 0.01, "record.training": 5},
}
MEMBERS = (
    {},
    {"training.rate": 0.003, "training.clip": 0.5, "training.schedule": "cosine", "seed": 7},
    {"training.optimiser.weight_decay": 0.1, "task.count": 4, "training.clip": 0.01, "task.noise_variance": 2},
    {"training.optimiser.betas": "[0.5,0.9]", "task.prior_variance": 3, "seeds.data": 9, "training.rate": 0.1},
)
"""Everything that members have for themselves."""


def config(*more: dict, study: str = "regression"):
    asked: dict = {} if study != "regression" else dict(BASE)
    for each in more:
        asked |= each
    return compose(discovery.study(study), [f"{key}={value}" for key, value in asked.items()])


def members(shared: dict, company: Sequence[int], study: str = "regression") -> list[Member]:
    return [build_member(build(config(shared, MEMBERS[e], study=study))) for e in company]


def train(company: list[Member], steps: int, precision: str = "float32") -> Stack:
    stack = Stack(company, CPU, precision)
    for _ in range(steps):
        stack.update()
    return stack


def standing(member: Member) -> list[torch.Tensor]:
    """All that a checkpoint would keep of it: weights, moments, losses."""
    kept = [*member.weights().values(), *member.optimiser_state().values(), member.gradient_norm]
    return [tensor.detach().clone() for tensor in kept]


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other) > 3
    apart = [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if not torch.equal(a, b)]
    assert not apart, f"{len(apart)} of {len(one)} tensors differ: numbers {apart}"


# ---------------------------------------------------------------- company

ODD = {"training.batch": 7, "task.dimension": 3, "task.examples": 5, "model.width": 15, "model.heads": 3}
SHAPES = {
    "plain": {},
    "float64": {"precision": "float64"},
    "bfloat16": {"precision": "bfloat16", **ODD},
    "dropout": {"model.dropout": 0.2},
    "odd-gelu": {**ODD, "model.mlp": 13, "model.activation": "gelu"},  # no member begins where memory is aligned
    "odd-swiglu": {**ODD, "model.mlp": 11, "model.activation": "swiglu", "model.norm": "rmsnorm", "model.dropout": 0.1},
    "one-row": {"training.batch": 1, "task.dimension": 1, "task.examples": 1},  # one scored position in all
    "one-unit": {"model.width": 1, "model.heads": 1, "model.mlp": 1, "model.norm": "none"},
    "two-columns": {"outputs": "token", "task.dimension": 1, "model.width": 2, "model.heads": 1},
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_member_has_the_same_bits_in_any_company(name):
    shared = SHAPES[name]
    precision = shared.get("precision", "float32")
    together = members(shared, range(4))
    train(together, 6, precision)
    pair = members(shared, (3, 1))
    train(pair, 6, precision)
    for e in range(4):
        [alone] = members(shared, (e,))
        train([alone], 6, precision)
        assert_same(standing(together[e]), standing(alone))
        if e in (1, 3):
            assert_same(standing(pair[(3, 1).index(e)]), standing(alone))


def test_one_four_and_sixteen_beside_a_member_that_is_lost():
    """Of stacks of 1, 4 and 16, the last two with a neighbour whose weights stopped being numbers at once."""

    def one(e: int) -> Member:
        own = {"training.rate": 1e30 if e == 1 else 0.001 * (e + 1), "seed": e, **({"training.clip": 0.1} if e else {})}
        return build_member(build(config(own)))

    companies = [[0], [2, 1, 0, 3], list(range(16))]
    found = []
    for company in companies:
        stack = [one(e) for e in company]
        train(stack, 8)
        found.append(standing(stack[company.index(0)]))
        if 1 in company:
            lost = stack[company.index(1)]
            with pytest.raises(Diverged, match=r"not finite|is nan|is inf"):
                lost.check()
            assert all(member is lost or member.parameters.finite() for member in stack)
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_stacks_of_64():
    wanted = [{"seed": e, "training.rate": 0.001 * (e + 1)} for e in range(64)]
    many = [build_member(build(config(own, {"model.width": 10}))) for own in wanted]
    train(many, 3)
    for e in (0, 31, 63):
        alone = build_member(build(config(wanted[e], {"model.width": 10})))
        train([alone], 3)
        assert_same(standing(many[e]), standing(alone))


def test_a_finite_set_of_sequences_stacks_beside_an_endless_one():
    wanted = [{"task.sequences": 40}, {"task.sequences": 37, "seed": 2}, {}]
    company = [build_member(build(config(own))) for own in wanted]
    train(company, 6)
    for member, own in zip(company, wanted, strict=True):
        alone = build_member(build(config(own)))
        train([alone], 6)
        assert_same(standing(member), standing(alone))


@pytest.mark.parametrize(
    ("finite", "draw", "times"),
    [(4, "permutation", 0), (1, "normal", 3 * 8 + 3 * 3)],  # orders when they were built; the rest a step or a block
)
def test_each_member_keeps_what_it_drew_for_many_steps(monkeypatch, finite, draw, times):
    """Drawn again for every member at every step, an epoch's order or a block of steps costs more than the step."""
    wanted = [{"seed": e} | ({"task.sequences": 999} if e < finite else {}) for e in range(4)]
    company = [build_member(build(config(own))) for own in wanted]
    made, own = [], getattr(draws, draw)
    monkeypatch.setattr(draws, draw, lambda *some, **more: made.append(1) or own(*some, **more))
    train(company, 8)
    assert len(made) == times


@pytest.mark.parametrize("more", [{}, {"model.dropout": 0.2, "model.kv_heads": 1, "model.positions": "rotary"}])
def test_branches_stack(more, lookup):
    """Rows that share a prefix, drawn by a user's own task, which knows nothing of stacks."""
    shared = {"model.width": 28, "model.heads": 7, "model.layers": 1, "training.batch": 6, "training.steps": 9} | more
    wanted = [shared | own for own in ({}, {"seed": 3}, {"training.rate": 0.1, "training.clip": 0.1})]
    company = [build_member(build(config(own, study=lookup))) for own in wanted]
    train(company, 5)
    for member, own in zip(company, wanted, strict=True):
        alone = build_member(build(config(own, study=lookup)))
        train([alone], 5)
        assert_same(standing(member), standing(alone))


class Scattered:
    """Symbols of which some are asked for: which ones, and how many, is drawn for each row."""

    interface = Interface(Tokens(7), Tokens(7), 6)
    labels: dict = {}  # noqa: RUF012

    def sample(self, at, rows, first=0):
        inputs = draws.integers(at.key("inputs"), rows, 7, (6,), first)
        weights = draws.integers(at.key("asked"), rows, 3, (6,), first).float()
        return Batch(inputs, inputs.roll(1, -1), weights)


def scattered(seed: int, tied: bool, **training) -> Member:
    asked = Training(batch=5, steps=20, **training)
    seeds = Seeds().following(seed)
    model = TransformerConfig(width=12, layers=1, heads=3, tied=tied, head_bias=False).build(Scattered.interface)
    initialise(model, seeds)
    return Member(model, asked, seeds, [Scattered()], 4)


@pytest.mark.parametrize("tied", [False, True])
def test_each_member_scores_its_own_positions(tied):
    company = [scattered(e, tied, rate=0.01 * (e + 1)) for e in range(3)]
    train(company, 6)
    for e, member in enumerate(company):
        alone = scattered(e, tied, rate=0.01 * (e + 1))
        train([alone], 6)
        assert_same(standing(member), standing(alone))


# ---------------------------------------------------------------- coming and going

COMERS = [{**own, "model.width": 10, "record.training": 20} for own in MEMBERS]
LONGEST = 7


@cache
def alone_at() -> list[list[list[torch.Tensor]]]:
    """Of each member, what it is after every update when alone."""
    found = []
    for own in COMERS:
        member = build_member(build(config(own)))
        stack, here = Stack([member], CPU, "float32"), []
        for _ in range(LONGEST):
            stack.update()
            here.append(standing(member))
        found.append(here)
    return found


@given(
    company=st.permutations(range(4)).flatmap(lambda order: st.integers(1, 4).map(lambda n: order[:n])),
    lives=st.lists(st.integers(1, LONGEST), min_size=4, max_size=4),
    begun=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
@settings(max_examples=6, deadline=None)
def test_members_come_at_any_step_and_leave_in_any_order(company, lives, begun):
    """Each was trained for `begun` updates elsewhere, is taken up as from a checkpoint, and leaves after `lives`."""
    fresh = [build_member(build(config(COMERS[e]))) for e in company]
    stack = Stack(fresh, CPU, "float32")
    for member, e in zip(fresh, company, strict=True):
        if begun[e]:
            elsewhere = build_member(build(config(COMERS[e])))
            train([elsewhere], begun[e])
            member.load(elsewhere.weights(), elsewhere.optimiser_state(), elsewhere.progress.as_dict())
    stack.settle(fresh)
    going = dict(zip(company, fresh, strict=True))
    while going:
        done = [e for e, member in going.items() if member.progress.step >= max(lives[e], begun[e])]
        for e in done:
            member = going.pop(e)
            assert_same(standing(member)[:-1], alone_at()[e][member.progress.step - 1][:-1])  # norms are no state
        if done and going:
            stack.settle(list(going.values()))
        if going:
            stack.update()


def test_losses_wait_for_each_members_own_line():
    """More updates than the history has room for; lines at steps of their own; one that left takes nothing along."""
    company = members({}, range(3))
    stack = Stack(company, CPU, "float32")
    seen: list[list[float]] = [[], [], []]
    for step in range(1, 14):
        stack.update()
        for e, member in enumerate(company):
            assert len(member.waiting_losses()) <= 5
            if step % (3 + e) == 0:
                seen[e] += member.waiting_losses().tolist()
                member.keep_losses(None)
    for e in range(3):
        [alone] = members({}, (e,))
        one = Stack([alone], CPU, "float32")
        losses = []
        for _ in range(len(seen[e])):
            one.update()
            losses.append(float(one.history[(one.tick - 1) % len(one.history), 0]))
        assert seen[e] == losses and len(losses) == 13 // (3 + e) * (3 + e)


# ---------------------------------------------------------------- the solo engine


def against_solo(precision: str, e: int) -> tuple[float, float]:
    """Member e and the solo engine after ten updates from one beginning: the largest difference of a weight, as a share
    of its tensor's largest, and that of a loss, as a share of the loss."""
    shared = {"precision": precision, "model.dropout": 0.1, "record.training": 20}
    [member], built = members(shared, (e,)), build(config(shared, MEMBERS[e]))
    trainer = build_trainer(built)
    train([member], 10, precision)
    for _ in range(10):
        trainer.update(built.tasks[0])
    pairs = [(member.weights()[name], value) for name, value in trainer.weights().items()]
    weights = max(float((own - value).abs().max() / value.abs().max().clamp(min=1e-3)) for own, value in pairs)
    losses = (member.waiting_losses() / trainer.waiting_losses() - 1).abs().max()
    return weights, float(losses)


@pytest.mark.parametrize("e", [0, 1, 2, 3])
def test_a_member_is_what_the_solo_engine_trains_in_float64(e):
    weights, losses = against_solo("float64", e)
    assert weights < 1e-10 and losses < 1e-12


@pytest.mark.parametrize(("e", "tolerance"), [(0, 1e-4), (1, 1e-5), (2, 1e-5), (3, 1e-2)])
def test_and_in_float32_up_to_rounding_which_a_high_rate_amplifies(e, tolerance):
    assert against_solo("float32", e)[1] < tolerance  # the fourth has a rate of 0.1
