"""Draws are functions of their address: slices, members, known answers, uniformity."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core import draws
from inlearn.lab.config import Seeds


def key(seed: int = 0, stream: str = "data", step: int = 3, what: str = "x") -> torch.Tensor:
    return draws.Address(Seeds().following(seed), stream, step).key(what)


def splitmix(state: int, count: int) -> list[int]:
    """The published sequential generator, in plain integers."""
    mask, out = (1 << 64) - 1, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


@given(st.integers(-(1 << 63), (1 << 63) - 1))
@settings(max_examples=30, deadline=None)
def test_bits_are_the_published_generator(state):
    words = draws.bits(torch.tensor(state), 3, 5).flatten().tolist()
    assert [w & ((1 << 64) - 1) for w in words] == splitmix(state & ((1 << 64) - 1), 15)


def test_known_answers_of_the_reference_implementation():
    # First outputs of Vigna's splitmix64.c for seed 1234567.
    words = draws.bits(torch.tensor(1234567), 1, 3).flatten().tolist()
    assert [w & ((1 << 64) - 1) for w in words] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(rows=st.integers(1, 40), first=st.integers(0, 50), width=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_a_slice_of_rows_is_the_same_as_in_the_whole(rows, first, width):
    k = key()
    for draw in (draws.uniform, draws.normal):
        whole = draw(k, first + rows, (width,))
        assert torch.equal(draw(k, rows, (width,), first=first), whole[first:])
    whole = draws.integers(k, first + rows, 21, (width,))
    assert torch.equal(draws.integers(k, rows, 21, (width,), first=first), whole[first:])


def test_a_member_alone_equals_the_member_in_a_stack():
    keys = torch.stack([key(seed) for seed in range(5)])
    together = draws.normal(keys, 6, (3,))
    assert together.shape == (5, 6, 3)
    for member, own in enumerate(keys):
        assert torch.equal(together[member], draws.normal(own, 6, (3,)))


def test_addresses_differ_in_every_part():
    base = draws.bits(key(), 1, 1)
    others = [key(seed=1), key(seed=1 << 32), key(stream="eval"), key(step=4), key(what="y")]
    assert all(not torch.equal(base, draws.bits(other, 1, 1)) for other in others)
    at = draws.Address(Seeds().following(0), "eval", 0)
    assert at.beside("noise").key("y") != draws.Address(Seeds().following(0), "noise", 0).key("y")


def test_streams_follow_their_own_seed():
    seeds = Seeds(noise=7).following(1)
    assert (seeds.data, seeds.noise, seeds.eval) == (1, 7, 0)
    at = draws.Address(seeds, "data", 2)
    other = draws.Address(Seeds(noise=8).following(1), "data", 2)
    assert at.key("x") == other.key("x")
    assert at.beside("noise").key("y") != other.beside("noise").key("y")


def test_a_step_may_be_a_tensor():
    seeds = Seeds().following(0)
    assert draws.Address(seeds, "data", torch.tensor(5)).key("x") == draws.Address(seeds, "data", 5).key("x")


def test_objects_keep_their_draws_whatever_set_they_are_in():
    k = key(stream="task")
    small = draws.normal(draws.each(k, torch.arange(16)), 1, (4,))
    large = draws.normal(draws.each(k, torch.arange(32)), 1, (4,))
    assert torch.equal(small, large[:16])


def test_moments_and_uniformity():
    """Bounds are 5 standard errors of fixed draws, so nothing here can flicker."""
    k, n = key(), 200_000
    z = draws.normal(k, n).double()
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert z.abs().max() < 5.8
    u = draws.uniform(k, n)
    assert u.min() > 0 and u.max() < 1
    counts = torch.bincount((u * 64).long(), minlength=64).double()
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 63 + 5 * math.sqrt(2 * 63)
    counts = torch.bincount(draws.integers(k, n, 21), minlength=21).double()
    assert ((counts - n / 21) ** 2 / (n / 21)).sum() < 20 + 5 * math.sqrt(2 * 20)


def test_neighbouring_steps_do_not_correlate():
    seeds, n = Seeds().following(0), 500
    z = torch.stack([draws.normal(draws.Address(seeds, "data", step).key("x"), n) for step in range(200)]).double()
    assert ((z[:-1] * z[1:]).sum(1) / math.sqrt(n)).abs().max() < 5
    assert abs((z[:, :-1] * z[:, 1:]).sum() / math.sqrt(200 * (n - 1))) < 5


@given(st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_permutations_hold_everything_once(count):
    order = draws.permutation(key(), count)
    assert order.sort().values.tolist() == list(range(count))


def test_every_order_of_three_is_equally_likely():
    keys = draws.each(key(), torch.arange(6000))
    codes = (draws.permutation(keys, 3) * torch.tensor([9, 3, 1])).sum(-1)
    counts = codes.unique(return_counts=True)[1].double()
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 5 + 5 * math.sqrt(10)


@pytest.mark.parametrize("high", [0, (1 << 31) + 1])
def test_integers_refuse_what_they_cannot_draw(high):
    with pytest.raises(ValueError, match="expected 1 to 2"):
        draws.integers(key(), 1, high)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draws.normal(key(), 10)
    draws.permutation(key(), 10)
    assert torch.equal(before, torch.get_rng_state())
