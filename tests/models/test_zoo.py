"""What every registered model promises, whatever is inside. Members 3, rows 5, width 8; lengths cross chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformer_cases import Seeds
from zoo_cases import CASES, INTERFACES, TOKENS, VECTORS, built, config, some_inputs, stacked

from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.core.errors import UserError
from inlearn.core.spaces import Interface, Tokens
from inlearn.models.activations import capture, intervene, names
from inlearn.models.forward import outputs_at_scored
from inlearn.models.leaves import set_dropout, stack
from inlearn.models.recurrence import sequential
from inlearn.models.short_convolution import ShortConvolution
from inlearn.models.transformer import Transformer

LONG = 137  # more than two chunks of 64 and no multiple of anything
every_case = pytest.mark.parametrize("case", CASES)
every_interface = pytest.mark.parametrize("interface", INTERFACES.values(), ids=INTERFACES)


def gradients(model: torch.nn.Module, outputs: Tensor) -> dict[str, Tensor]:
    """Of a loss in which every output has a weight of its own."""
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad((outputs * weights).sum(), parameters), strict=True))


# ---------------------------------------------------------------- one function, computed in several ways


@every_case
@every_interface
def test_the_fast_form_computes_what_the_literal_one_does(case: str, interface: Interface) -> None:
    model, inputs = built(case, interface), some_inputs(interface, 3, LONG)
    fast, state = model(inputs)
    with sequential():
        literal, other = model(inputs)
    torch.testing.assert_close(fast, literal, rtol=1e-10, atol=1e-10)
    for one, two in zip(state.layers, other.layers, strict=True):
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    slow = gradients(model, literal)
    for name, gradient in gradients(model, fast).items():
        torch.testing.assert_close(gradient, slow[name], rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@every_case
@pytest.mark.parametrize("parts", [[1] * 9, [70, 1, 66], [64, 64, 9]], ids=str)
def test_a_sequence_may_come_in_parts(case: str, parts: list[int]) -> None:
    model, inputs = built(case), some_inputs(TOKENS, 3, sum(parts))
    state, outputs = None, []
    for part in inputs.split(parts, 1):
        output, state = model(part, state)
        outputs.append(output)
    whole = model(inputs)[0]
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-10, atol=1e-10)
    assert state.length == sum(parts)


@every_case
def test_gradients_pass_through_a_state(case: str) -> None:
    model, inputs = built(case), some_inputs(TOKENS, 3, 75)
    first, state = model(inputs[:, :70])
    parts = gradients(model, torch.cat((first, model(inputs[:, 70:], state)[0]), 1))
    for name, gradient in gradients(model, model(inputs)[0]).items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-9, atol=1e-9)


@every_case
def test_forks_equal_the_unshared_form(case: str) -> None:
    """2 contexts, each continued by 3 rows, each of those by 2."""
    model = built(case)
    a, b, c = (some_inputs(TOKENS, n, s, seed=s) for n, s in ((2, 4), (6, 3), (12, 2)))
    state = None
    for part in (a, b, c):
        outputs, state = model(part, state)
    whole = torch.cat((a.repeat_interleave(6, 0), b.repeat_interleave(2, 0), c), 1)
    torch.testing.assert_close(outputs, model(whole)[0][:, 7:], rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="7 rows cannot continue the 12 rows"):
        model(some_inputs(TOKENS, 7, 1), state)


@every_case
@every_interface
def test_only_scored_positions(case: str, interface: Interface) -> None:
    model, inputs = built(case, interface), some_inputs(interface, 4, 9)
    whole = model(inputs)[0].flatten(0, 1)
    for scored in (slice(2, 9, 3), torch.arange(36), torch.tensor([0, 8, 20]), torch.tensor([], dtype=torch.int64)):
        chosen = torch.arange(36).view(4, 9)[:, scored].flatten() if isinstance(scored, slice) else scored
        outputs, state = model(inputs, scored=scored)
        torch.testing.assert_close(outputs, whole[chosen], rtol=1e-10, atol=1e-10)
    _, state = model(inputs, scored=slice(0, 0))  # a context that is read for its state alone
    torch.testing.assert_close(
        model(inputs[:, :2], state)[0], model(torch.cat((inputs, inputs[:, :2]), 1))[0][:, 9:], rtol=1e-10, atol=1e-10
    )
    with pytest.raises(ValueError, match="positions after the last scored one"):
        model(inputs, model(inputs, scored=slice(0, 3))[1])


@every_case
def test_a_shared_prefix_and_its_literal_form(case: str) -> None:
    model = built(case)
    weights = torch.zeros(6, 5)
    weights[:, 2:] = 1
    batch = Batch(
        some_inputs(TOKENS, 6, 5), torch.zeros(6, 5, dtype=torch.int64), weights, some_inputs(TOKENS, 2, 70, seed=1)
    )
    torch.testing.assert_close(
        outputs_at_scored(model, batch), outputs_at_scored(model, batch.unshared()), rtol=1e-10, atol=1e-10
    )


# ---------------------------------------------------------------- time runs one way


@every_case
@every_interface
def test_the_future_changes_nothing_before_it(case: str, interface: Interface) -> None:
    """A changed symbol, in whatever place of a chunk, leaves every earlier output as it was and changes its own."""
    model, inputs = built(case, interface), some_inputs(interface, 3, LONG)
    before = model(inputs)[0]
    for cut in (1, 31, 64, 65, 136):
        other = inputs.clone()
        other[:, cut:] = inputs[:, cut:] * 2 + 1 if inputs.is_floating_point() else (inputs[:, cut:] + 1) % 11
        after = model(other)[0]
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.equal(before[:, cut], after[:, cut])


@every_case
def test_padding_after_a_row_changes_nothing(case: str) -> None:
    model, inputs = built(case), some_inputs(TOKENS, 3, 70)
    scored = torch.tensor([3, 69, 110])
    row, column = scored // 70, scored % 70
    padded = torch.cat((inputs, torch.zeros(3, 13, dtype=torch.int64)), 1)
    torch.testing.assert_close(
        model(padded, scored=row * 83 + column)[0], model(inputs, scored=scored)[0], rtol=1e-10, atol=1e-10
    )


# ---------------------------------------------------------------- members


@every_case
@pytest.mark.parametrize("scored", [None, slice(1, 70, 7), torch.tensor([0, 69, 200])], ids=["all", "grid", "some"])
def test_a_stack_computes_what_its_members_do_alone(case: str, scored: Tensor | slice | None) -> None:
    model, solo = stacked(case, 3)
    inputs = some_inputs(TOKENS, 3, 5, 70)
    outputs, state = model(inputs, scored=scored)
    grown = gradients(model, outputs)
    alone = [member(own, scored=scored)[0] for member, own in zip(solo, inputs, strict=True)]
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    for e, (member, own) in enumerate(zip(solo, alone, strict=True)):
        torch.testing.assert_close(outputs[e], own, rtol=1e-10, atol=1e-10)
        wanted = torch.autograd.grad((own * weights[e]).sum(), list(member.parameters()))
        for (name, _), gradient in zip(member.named_parameters(), wanted, strict=True):
            torch.testing.assert_close(grown[name][e], gradient, rtol=1e-9, atol=1e-9)
    if scored is None:
        later = some_inputs(TOKENS, 3, 10, 4, seed=1)  # each row forked twice
        further = model(later, state)[0]
        for e, member in enumerate(solo):
            own = member(later[e], member(inputs[e])[1])[0]
            torch.testing.assert_close(further[e], own, rtol=1e-10, atol=1e-10)


@every_case
@every_interface
def test_a_member_has_the_same_bits_in_any_company(case: str, interface: Interface) -> None:
    """Outputs and gradients in float32, in companies of 1, 3 and 4, at one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [_first_of(case, interface, company) for company in ([0], [2, 1, 0], [3, 0, 2, 1])]
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(value, other[name]), name


def _first_of(case: str, interface: Interface, company: list[int]) -> dict[str, Tensor]:
    model = stack([built(case, interface, seed, torch.float32) for seed in company])
    inputs = torch.stack([some_inputs(interface, 5, 67, seed=seed, dtype=torch.float32) for seed in company])
    place = company.index(0)
    outputs = model(inputs)[0]
    outputs.square().mean((1, 2, 3)).sum().backward()
    return {"outputs": outputs[place]} | {name: p.grad[place] for name, p in model.named_parameters()}


# ---------------------------------------------------------------- activations


@every_case
def test_every_activation_can_be_seen_and_identity_edits_change_nothing(case: str) -> None:
    model, inputs = built(case), some_inputs(TOKENS, 3, 9)
    plain = model(inputs)[0]
    with capture(model, ["*"]) as seen, intervene(model, {"*": lambda x: x.clone()}):
        torch.testing.assert_close(model(inputs)[0], plain, rtol=1e-10, atol=1e-10)
    assert set(seen) == set(names(model))
    assert {"embed", "final", "outputs", "blocks.0.input", "blocks.1.output"} <= set(seen)
    for name, value in seen.items():
        assert 9 in value.shape[:3], f"{name} has {tuple(value.shape)}"
    assert torch.equal(model(inputs)[0], plain)


def carried_names(model: torch.nn.Module) -> list[str]:
    """The parts of the state that have names; keys and values have none."""
    parts = ("mixer.state", "mixer.normaliser", "recurrence.hidden", "recurrence.cell")
    found = [name for name in names(model) if name.endswith(parts)]
    assert found or isinstance(model, Transformer)
    return found


@every_case
def test_an_edited_state_is_carried_on(case: str) -> None:
    """What follows from an edit at position 4 is what follows from a state that was edited by hand there."""
    model, inputs = built(case), some_inputs(TOKENS, 3, 9)
    for name in (name for name in carried_names(model) if name.startswith("blocks.0")):
        with capture(model, [name]) as seen, intervene(model, {name: _halved_at(4)}):
            edited = model(inputs)[0]
        with capture(model, [name]) as plain:
            before = model(inputs)[0]
        torch.testing.assert_close(seen[name][:, :4], plain[name][:, :4], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(seen[name][:, 4], plain[name][:, 4] / 2, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(seen[name][:, 5], plain[name][:, 5], rtol=1e-6)
        torch.testing.assert_close(edited[:, :4], before[:, :4], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(edited[:, 4], before[:, 4], rtol=1e-6)


def _halved_at(position: int):
    def edit(states: Tensor) -> Tensor:
        factors = torch.ones(states.shape[1], dtype=states.dtype)
        factors[position] = 0.5
        return states * factors.view(1, -1, *[1] * (states.dim() - 2))

    return edit


def test_states_that_stopped_being_numbers_are_seen_in_one_pass() -> None:
    """Not equal to themselves, they would pass for edited at every position, each with all later ones to compute."""
    model, inputs = built("lstm"), some_inputs(TOKENS, 2, 30)
    layer, calls = model.blocks[0].recurrence, []
    with torch.no_grad():
        layer.bias_ih.fill_(float("nan"))
    step = layer.step
    layer.step = lambda *given: calls.append(1) or step(*given)
    with capture(model, ["blocks.0.recurrence.cell"]) as seen:
        model(inputs)
    assert len(calls) == 30 and seen["blocks.0.recurrence.cell"].isnan().all()


@every_case
def test_patching_a_whole_state_makes_one_run_continue_as_another(case: str) -> None:
    """Every part of the state of every layer taken from another run at position 4: the rest follows that run."""
    model = built(case)
    carried = carried_names(model)
    if not carried or any(isinstance(module, ShortConvolution) for module in model.modules()):
        pytest.skip("this model keeps something besides what it names a state (keys and values, last inputs)")
    one, other = some_inputs(TOKENS, 3, 9), some_inputs(TOKENS, 3, 9, seed=1)
    one[:, 5:] = other[:, 5:]
    with capture(model, carried) as seen:
        theirs = model(other)[0]
    taken = {name: value[:, 4].clone() for name, value in seen.items()}

    def patch(name: str):
        def edit(states: Tensor) -> Tensor:
            return torch.cat((states[:, :4], taken[name][:, None], states[:, 5:]), 1)

        return edit

    with intervene(model, {name: patch(name) for name in carried}):
        patched = model(one)[0]
    torch.testing.assert_close(patched[:, 5:], theirs[:, 5:], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(patched[:, 3], theirs[:, 3], rtol=1e-3)


# ---------------------------------------------------------------- the rest of the contract


@every_case
def test_gradients_by_finite_differences(case: str) -> None:
    model, inputs = built(case, VECTORS), some_inputs(VECTORS, 2, 5).requires_grad_()
    named = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(named, values, strict=True)), (x,))[0]

    assert torch.autograd.gradcheck(outputs, (inputs, *named.values()), fast_mode=True)


@every_case
def test_dropout_of_a_slice_is_that_of_its_rows(case: str) -> None:
    model, inputs = built(case, dropout=0.3).train(), some_inputs(TOKENS, 6, 9)
    set_dropout(model, Address(Seeds(), "dropout", 3))
    whole = model(inputs)[0]
    set_dropout(model, Address(Seeds(), "dropout", 3), 4)
    torch.testing.assert_close(model(inputs[4:])[0], whole[4:], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(model.eval()(inputs)[0], whole)


@every_case
def test_learned_positions_have_an_end(case: str) -> None:
    model = config(case, positions="learned").build(Interface(Tokens(11), Tokens(6), 12))
    model(some_inputs(TOKENS, 1, 12))
    with pytest.raises(UserError, match=r"13 positions, but model\.positions = learned has a table of 12"):
        model(some_inputs(TOKENS, 1, 13))


@every_case
def test_bfloat16_autocast_stays_close(case: str) -> None:
    model, inputs = built(case, dtype=torch.float32), some_inputs(TOKENS, 3, 70)
    plain = model(inputs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(inputs)[0]
    outputs.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert (outputs.float() - plain).abs().mean() < 0.1 * plain.abs().mean()


@every_case
def test_inputs_without_positions_are_refused(case: str) -> None:
    with pytest.raises(ValueError, match="no positions"):
        built(case)(some_inputs(TOKENS, 3, 4)[:, :0])
