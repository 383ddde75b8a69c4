"""Overrides, hints, unions by kind, merging, canonical form."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from inlearn.core.configuration import Config, assign, canonical, digest, merge, resolve, split_override
from inlearn.core.errors import UserError


class Fixed(Config):
    kind: Literal["fixed"] = "fixed"
    rate: float = 0.1


class Falling(Config):
    kind: Literal["falling"] = "falling"
    rate: float = 0.1
    half_life: float


class Inner(Config):
    count: PositiveInt | Literal["inf"] = "inf"
    noise: float = 0.5
    sizes: tuple[int, ...] = ()


class Root(Config):
    inner: Inner = Inner(noise=0.25)
    schedule: Annotated[Fixed | Falling, Field(discriminator="kind")] = Fixed()
    clip: float | None = 1.0
    wide: bool = False
    name: str = "a"


def made(*overrides: str, base: dict | None = None) -> Root:
    tree = merge({}, base or {})
    for text in overrides:
        assign(Root, tree, *split_override(text))
    return resolve(Root, tree)


def test_values_are_read_by_the_type_of_their_field():
    assert made("inner.count=16").inner.count == 16
    assert made("inner.count=inf").inner.count == "inf"
    assert made("clip=1e-3").clip == 1e-3
    assert made("clip=none").clip is None
    assert made("wide=yes").wide is True
    assert made("name=no").name == "no"
    assert made("name=1e3").name == "1e3"
    assert made("inner.sizes=[1,2]").inner.sizes == (1, 2)


def test_one_key_of_a_default_leaves_its_others():
    assert made("inner.count=3").inner == Inner(count=3, noise=0.25)


def test_choosing_a_kind_starts_its_group_afresh():
    preset = {"schedule": {"kind": "fixed", "rate": 0.7}}
    assert made(base=preset).schedule.rate == 0.7
    assert made("schedule=falling", "schedule.half_life=5", base=preset).schedule == Falling(half_life=5)
    assert made("schedule=fixed", base=preset).schedule.rate == 0.7
    assert made('schedule={"kind":"falling","half_life":2}').schedule == Falling(half_life=2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("inner.cuont=3", ["unknown key 'inner.cuont'", "did you mean 'inner.count'"]),
        ("iner.count=3", ["unknown key 'iner'", "'inner'"]),
        ("inner.count=0", ["inner.count = 0", "greater than 0", "'inf'"]),
        ("inner.noise=much", ["inner.noise = much", "number"]),
        ("schedule=faling", ["unknown schedule 'faling'", "did you mean 'falling'"]),
        ("schedule.half_life=3", ["unknown key 'schedule.half_life'", "known: kind, rate"]),
        ("schedule=falling", ["schedule.half_life is missing"]),
        ("clip.more=1", ["'clip' is a value"]),
        ("wide=maybe", ["wide = maybe", "boolean"]),
        ("clip=nan", ["clip = nan", "finite"]),
        ("inner.sizes=[1,", ["starts like JSON"]),
        ("clip", ["'clip' is not key=value"]),
    ],
)
def test_mistakes_name_the_key_the_value_and_what_was_expected(override, words):
    with pytest.raises(UserError) as caught:
        made(override)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_is_refused_with_a_hint():
    with pytest.raises(UserError, match=r"unknown key 'inner.nois'; did you mean 'inner.noise'"):
        resolve(Root, {"inner": {"nois": 1}})


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        made().name = "b"


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none(), max_size=4))
def test_the_canonical_form_ignores_order(content):
    assert canonical(content) == canonical(dict(reversed(content.items())))
    assert digest(content) == digest(dict(reversed(content.items())))


@given(st.integers(1, 10**6) | st.just("inf"), st.floats(0, 1e6), st.none() | st.floats(0.1, 10), st.booleans())
def test_a_configuration_survives_its_own_overrides(count, noise, clip, wide):
    config = made(f"inner.count={count}", f"inner.noise={noise!r}", f"clip={clip}".lower(), f"wide={wide}")
    assert (config.inner.count, config.inner.noise, config.clip, config.wide) == (count, noise, clip, wide)
    assert resolve(Root, config.model_dump(mode="json")) == config


def test_merge_replaces_a_mapping_of_another_kind():
    assert merge({"a": {"kind": "x", "p": 1}}, {"a": {"kind": "y"}}) == {"a": {"kind": "y"}}
    assert merge({"a": {"kind": "x", "p": 1}}, {"a": {"q": 2}}) == {"a": {"kind": "x", "p": 1, "q": 2}}
