"""Vanilla recurrent layers: members 3, rows 2, positions 1 to 7, width 5."""

from __future__ import annotations

import math

import pytest
import recurrent_cases as cases
import torch
from transformer_cases import Seeds

from inlearn.core.configuration import resolve
from inlearn.core.draws import Address, Addresses
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface, Tokens
from inlearn.models.activations import capture
from inlearn.models.initialise import initialise
from inlearn.models.leaves import set_dropout, stack
from inlearn.models.rnn_config import RNNConfig
from inlearn.models.sequence import RecurrentModel

PLAIN = ["rnn", "rnn-relu"]
DROPPING = ["rnn-dropping", "rnn-dropping-relu"]


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("kind", PLAIN)
def test_all_forms_agree(kind: str, members: int | None, steps: int, continued: bool) -> None:
    cases.check_forms(kind, members, steps, continued)


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("kind", DROPPING)
def test_all_forms_agree_while_dropping(kind: str, continued: bool) -> None:
    cases.check_forms(kind, None, 7, continued)


@pytest.mark.parametrize("kind", [*PLAIN, *DROPPING])
def test_gradients(kind: str) -> None:
    cases.check_gradients_numerically(kind)


def test_gradients_of_torch_func() -> None:
    cases.check_functional_gradients("rnn")
    cases.check_second_derivatives("rnn")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("width", "rows", "steps"), [(1, 1, 7), (2, 3, 7), (5, 2, 7), (17, 5, 1), (33, 1, 2)])
@pytest.mark.parametrize("kind", PLAIN)
def test_a_member_has_the_same_bits_in_any_company(
    kind: str, width: int, rows: int, steps: int, dtype: torch.dtype
) -> None:
    cases.check_bits(kind, width, rows, steps, dtype)


def test_float32_under_autocast() -> None:
    cases.check_autocast("rnn")


def test_compiled() -> None:
    cases.check_compiled("rnn")


# ---------------------------------------------------------------- dropout of what is carried on


def dropping(init: int = 0, **fields: object) -> RecurrentModel:
    config = {"width": 5, "layers": 3, "dropout": 0.4, "recurrent_dropout": True, **fields}
    model = RNNConfig(**config).build(Interface(Tokens(11), Tokens(6), 12))
    initialise(model, Seeds(init))
    return model.double().train()


def at(step: int, dropout: int = 0) -> Address:
    return Address(Seeds(dropout=dropout), "dropout", step)


IDS = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(0))


def test_what_a_layer_drops_it_does_not_carry_on() -> None:
    """Hidden states have the zeros of their outputs, afresh at each position, in all layers but the last."""
    model = dropping()
    set_dropout(model, at(1))
    with capture(model, ["blocks.*"]) as seen:
        model(IDS)
    shares = []
    for layer in range(2):
        hidden, output = seen[f"blocks.{layer}.recurrence.hidden"], seen[f"blocks.{layer}.output"]
        assert torch.equal(hidden, output)
        dropped = hidden == 0
        assert not torch.equal(dropped[:, 1:], dropped[:, :-1])
        shares.append(float(dropped.double().mean()))
    assert shares == pytest.approx([0.4, 0.4], abs=0.12)
    assert not (seen["blocks.2.recurrence.hidden"] == 0).any()
    assert (seen["blocks.2.output"] == 0).any()


def test_without_the_quirk_what_is_carried_on_is_whole() -> None:
    model = dropping(recurrent_dropout=False)
    set_dropout(model, at(1))
    with capture(model, ["blocks.*"]) as seen:
        model(IDS)
    for layer in range(3):
        assert not (seen[f"blocks.{layer}.recurrence.hidden"] == 0).any()
        assert (seen[f"blocks.{layer}.output"] == 0).any()


def test_evaluation_drops_nothing() -> None:
    with_quirk, without = dropping().eval(), dropping(recurrent_dropout=False).eval()
    assert torch.equal(with_quirk(IDS)[0], without(IDS)[0])


def test_a_slice_of_rows_drops_what_the_whole_does() -> None:
    model = dropping()
    set_dropout(model, at(3))
    whole = model(IDS)[0]
    for rows in (slice(0, 1), slice(1, 4)):
        set_dropout(model, at(3), rows.start)
        torch.testing.assert_close(model(IDS[rows])[0], whole[rows], rtol=1e-12, atol=1e-12)


def test_members_drop_what_they_drop_alone() -> None:
    solo = [dropping(init) for init in range(3)]
    model = stack(solo).train()
    addresses = [at(4, dropout=e) for e in range(3)]
    set_dropout(model, Addresses(tuple(a.seeds for a in addresses), "dropout", torch.full((3,), 4)))
    outputs = model(IDS.expand(3, -1, -1))[0]
    outputs.square().sum().backward()
    grown = dict(model.named_parameters())
    for e, alone in enumerate(solo):
        set_dropout(alone, addresses[e])
        own = alone(IDS)[0]
        own.square().sum().backward()
        torch.testing.assert_close(outputs[e], own, rtol=1e-11, atol=1e-11)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(grown[name].grad[e], parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"recurrent_dropout": True}, "dropout = 0"),
        ({"recurrent_dropout": True, "dropout": 0.1, "layers": 1}, "layers"),
        ({"nonlinearity": "gelu"}, "nonlinearity = gelu"),
        ({"recurrent_dropuot": True}, "recurrent_dropout"),
    ],
)
def test_what_means_nothing_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve(RNNConfig, fields)


# ---------------------------------------------------------------- initial weights


def test_initial_weights() -> None:
    orthogonal = cases.initialised(RNNConfig(width=48))
    cases.assert_orthogonal(orthogonal["weight_hh"])
    cases.assert_uniform(orthogonal["weight_ih"], math.sqrt(6 / (2 * 48)))
    assert not orthogonal["bias_ih"].any()
    for values in cases.initialised(RNNConfig(width=48, recurrent_init="uniform")).values():
        cases.assert_uniform(values, 48**-0.5)


def test_identity_and_xavier() -> None:
    identity = cases.initialised(RNNConfig(width=48, recurrent_init="identity"))
    assert torch.equal(identity["weight_hh"], torch.eye(48))
    cases.assert_uniform(identity["weight_ih"], math.sqrt(6 / (2 * 48)))
    xavier = cases.initialised(RNNConfig(width=48, recurrent_init="xavier"))
    for name in ("weight_ih", "weight_hh"):
        assert float(xavier[name].std()) == pytest.approx(math.sqrt(2 / (3 * 48)), rel=0.05)
        assert float(xavier[name].abs().max()) > 3 * math.sqrt(2 / (3 * 48))  # normal, not uniform
    assert not xavier["bias_ih"].any()
