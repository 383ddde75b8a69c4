from __future__ import annotations

import pytest
import torch
from transformer_cases import TOKENS, Seeds, config, some_inputs

from inlearn.core.draws import Address, Addresses
from inlearn.models.activations import capture
from inlearn.models.initialise import initialise
from inlearn.models.leaves import Dropout, set_dropout, stack
from inlearn.models.transformer import Transformer


def dropping(init: int = 0, p: float = 0.3) -> Transformer:
    model = config(dropout=p, attention_bias=True).build(TOKENS)
    initialise(model, Seeds(init))
    return model.double().train()


def at(step: int, dropout: int = 0) -> Address:
    return Address(Seeds(dropout=dropout), "dropout", step)


def test_masks_keep_the_mean_and_drop_the_asked_share() -> None:
    leaf = Dropout(0.3).train()
    set_dropout(torch.nn.Sequential(leaf), at(0))
    values = leaf(torch.ones(100, 500))
    assert sorted(values.unique().tolist()) == pytest.approx([0, 1 / 0.7])
    assert float((values == 0).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_a_slice_of_rows_has_the_masks_of_the_whole() -> None:
    model, ids = dropping(), some_inputs("tied", 5, 7)
    set_dropout(model, at(3))
    whole = model(ids)[0]
    for rows in (slice(0, 2), slice(2, 5)):
        set_dropout(model, at(3), rows.start)
        torch.testing.assert_close(model(ids[rows])[0], whole[rows], rtol=1e-12, atol=1e-12)


def test_masks_follow_the_address_and_no_global_generator() -> None:
    model, ids = dropping(), some_inputs("tied", 5, 7)
    outputs = []
    state = torch.get_rng_state()
    for address in (at(0), at(0), at(1), at(0, dropout=1)):
        set_dropout(model, address)
        outputs.append(model(ids)[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[3])


def test_leaves_and_later_positions_draw_masks_of_their_own() -> None:
    model, ids = dropping(), some_inputs("tied", 5, 4)
    set_dropout(model, at(0))
    with capture(model, ["blocks.*.mlp.output"]) as seen:
        _, state = model(ids)
        first, second = (value == 0 for value in seen.values())
        model(ids, state)
        later = seen["blocks.0.mlp.output"] == 0
    assert not torch.equal(first, second)
    assert not torch.equal(first, later)


def test_scored_positions_keep_their_masks() -> None:
    model, ids, scored = dropping(), some_inputs("tied", 5, 7), torch.tensor([1, 9, 30])
    set_dropout(model, at(0))
    assert torch.equal(model(ids, scored=scored)[0], model(ids)[0].flatten(0, 1)[scored])


def test_training_without_an_address_is_an_error_and_evaluation_needs_none() -> None:
    model, ids = dropping(), some_inputs("tied", 5, 7)
    with pytest.raises(RuntimeError, match="set_dropout"):
        model(ids)
    set_dropout(model, at(0))
    set_dropout(model, None)
    with pytest.raises(RuntimeError, match="set_dropout"):
        model(ids)
    plain = dropping(p=0.0)
    assert torch.equal(model.eval()(ids)[0], plain(ids)[0])


def test_members_of_a_stack_drop_what_they_drop_alone() -> None:
    solo = [dropping(init) for init in range(3)]
    model, ids = stack(solo).train(), torch.stack([some_inputs("tied", 5, 7, seed=e) for e in range(3)])
    addresses = [at(4, dropout=e) for e in range(3)]
    set_dropout(model, Addresses(tuple(a.seeds for a in addresses), "dropout", torch.full((3,), 4)))
    together = model(ids)[0]
    for e, alone in enumerate(solo):
        set_dropout(alone, addresses[e])
        torch.testing.assert_close(together[e], alone(ids[e])[0], rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match="2 dropout addresses for 3 members"):
        set_dropout(model, Addresses((Seeds(), Seeds()), "dropout", torch.tensor([4, 4])))
