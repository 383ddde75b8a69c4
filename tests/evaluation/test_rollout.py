"""Acting models: forced tokens, environments, prompts of different lengths, a real transformer's cache."""

from __future__ import annotations

import pytest
import torch

from inlearn.core.draws import Address
from inlearn.core.spaces import Interface, Tokens
from inlearn.evaluation.rollout import rollout, sampled
from inlearn.lab.config import Seeds
from inlearn.models.initialise import initialise
from inlearn.models.transformer_config import TransformerConfig


class Counting:
    """A model that always says last token + 1, and keeps the number of tokens it has read as its state."""

    def __call__(self, inputs, state=None, scored=None):
        read = (state or 0) + inputs.shape[1]
        return torch.nn.functional.one_hot((inputs + 1) % 10, 10).float() * 50, read


def test_free_running_stops_at_the_limit():
    assert rollout(Counting(), [[1], [5, 3]], 4) == [[1, 2, 3, 4], [5, 3, 4, 5]]


class Doubling:
    """Forces 0 after every 3 and ends a row after its second 0."""

    def reply(self, row, tokens):
        if tokens.count(0) == 2:
            return None
        return [0] if tokens[-1] == 3 else []


def test_an_environment_forces_lets_go_and_ends():
    assert rollout(Counting(), [[1], [2]], 50, Doubling()) == [[1, 2, 3, 0, 1, 2, 3, 0], [2, 3, 0, 1, 2, 3, 0]]


def test_a_transformer_says_the_same_with_and_without_its_cache():
    model = TransformerConfig(width=16, layers=2, heads=2, positions="rotary", init_std=0.5).build(
        Interface(Tokens(7), Tokens(7), 12)
    )
    initialise(model, Seeds().following(0))
    model = model.double().eval()
    prompts = [[1, 2, 3], [4, 5, 6, 0, 1]]
    for row, prompt in zip(rollout(model, prompts, 12), prompts, strict=True):
        literal = list(prompt)
        while len(literal) < 12:
            with torch.inference_mode():
                literal.append(int(model(torch.tensor([literal]))[0][0, -1].argmax()))
        assert row == literal


def test_a_studys_own_environment_answers_a_real_model(lookup):
    """A table and a question: the environment forces symbol 0, lets the model say one, and ends the row."""
    from inlearn.lab import discovery
    from inlearn.lab.build import build_study
    from inlearn.lab.config import compose

    study = build_study(compose(discovery.study(lookup), ["preset=small"]))
    (environment,) = study.environments().values()
    model = TransformerConfig(width=16, layers=1, heads=2).build(Interface(Tokens(6), Tokens(4), 8))
    initialise(model, Seeds().following(0))
    prompts = [[1, 3, 4], [2, 0, 5]]
    for row, prompt in zip(rollout(model.eval(), prompts, 8, environment), prompts, strict=True):
        with torch.inference_mode():
            said = int(model(torch.tensor([[*prompt, 0]]))[0][0, -1].argmax())
        assert row == [*prompt, 0, said]


def test_sampling_is_addressed():
    at = Address(Seeds().following(0), "eval", 0)
    choose = sampled(at)
    outputs = torch.zeros(20000, 4)
    outputs[:, 1] = torch.log(torch.tensor(3.0))
    chosen = choose(outputs, 5)
    assert torch.equal(chosen, choose(outputs, 5)) and not torch.equal(chosen, choose(outputs, 6))
    share = torch.bincount(chosen, minlength=4) / 20000
    assert (share - torch.tensor([1, 3, 1, 1]) / 6).abs().max() < 5 * (0.25 / 20000) ** 0.5


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="no tokens"):
        rollout(Counting(), [[]], 3)
