"""What `inlearn models` prints is counted: held to formulas, and to a longer row."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from inlearn.cli.main import main
from inlearn.core.spaces import Interface, Tokens, Vectors
from inlearn.lab import discovery
from inlearn.lab.model_costs import model_costs
from inlearn.models.recurrence import sequential
from inlearn.training.costs import OperatorCounter

KINDS = tuple(discovery.models())
TOKENS = Interface(Tokens(21), Tokens(8), 165)


def costs(kind: str, interface: Interface = TOKENS, **fields: object):
    return model_costs(discovery.models()[kind](**fields), interface)


@pytest.mark.parametrize(("width", "layers"), [(64, 2), (20, 3)])
def test_state_sizes_are_those_of_the_formulas(width, layers):
    each = {"rnn": 1, "gru": 1, "lstm": 2}
    for kind, parts in each.items():
        found = costs(kind, width=width, layers=layers)
        assert (found.state, found.growth) == (parts * layers * width, 0), kind
    found = costs("transformer", width=width, layers=layers)
    assert (found.state, found.growth) == (2 * layers * width * 165, 2 * layers * width)
    grouped = costs("transformer", width=width, layers=layers, kv_heads=1)
    assert grouped.growth == 2 * layers * width // 4


@pytest.mark.parametrize("kind", KINDS)
def test_only_attention_keeps_more_of_a_longer_row(kind):
    """And only there one more position costs more: the state after a short row says so of a long one."""
    short, long = (costs(kind, Interface(Vectors(3), Vectors(2), length)) for length in (21, 87))
    if kind == "transformer":
        assert long.state > short.state and long.growth == short.growth > 0 and long.flop > short.flop
    else:
        assert (long.state, long.growth, long.flop) == (short.state, 0, short.flop)
    config = discovery.models()[kind]()
    model = config.build(Interface(Vectors(3), Vectors(2), 90)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        _, state = model(torch.zeros(1, 87, 3))  # the fast form, the whole row at once
    assert sum(t.numel() for t in tensors(state.layers)) == long.state


def tensors(node: object) -> list[torch.Tensor]:
    if isinstance(node, torch.Tensor):
        return [node]
    return [tensor for part in node for tensor in tensors(part)]


def test_the_products_of_a_recurrent_position_are_all_counted():
    """Two products of a layer's gates and the read-out, 2 FLOP a weight; then what the gates compute by element."""
    width, layers = 48, 2
    for kind, gates in (("rnn", 1), ("gru", 3), ("lstm", 4)):
        products = 2 * (layers * gates * 2 * width * width + width * 8)
        found = costs(kind, width=width, layers=layers)
        assert products < found.flop < products + 30 * layers * width, kind


def test_a_transformers_position_reads_every_key():
    width, layers, length = 64, 2, 165
    weights = layers * (4 * width**2 + 2 * width * 4 * width) + width * 8
    attention = layers * 4 * width * length
    found = costs("transformer")
    assert 2 * weights + attention < found.flop < 1.1 * (2 * weights + attention)


@pytest.mark.parametrize("length", [1, 2])
def test_rows_of_one_position_are_no_exception(length):
    for kind in KINDS:
        found = costs(kind, Interface(Tokens(3), Tokens(3), length))
        assert found.parameters > 0 and found.state > 0 and found.flop > 0, kind
        assert (found.growth > 0) == (kind == "transformer")


def test_elements_are_what_is_computed_and_not_what_is_moved():
    with OperatorCounter() as counter, sequential():
        x = torch.ones(3, 5)
        y = x.mT.contiguous() @ torch.ones(3, 2)  # a product: FLOP
        z = torch.cat((y, y), 1).clone()  # moved
        z.exp_()  # 20
        z.view(-1)[:7].add(1)  # 7
        z.sum(0)  # 4
        torch.ones(2, dtype=torch.complex64) * 1j  # 2 pairs
    assert counter.total.elements == 20 + 7 + 4 + 4
    assert counter.total.flop == 2 * 5 * 3 * 2


# ---------------------------------------------------------------- the verb


@pytest.fixture
def command(capsys, monkeypatch):
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inlearn", "models", *words])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, *capsys.readouterr()

    return call


def table(out: str) -> dict[str, list[int]]:
    """Numbers by model, of the first table."""
    lines = out.partition("state: numbers kept")[0].splitlines()
    rows = [line.split() for line in lines if re.match(r" +[a-z0-9_]+ +[\d,]+ ", line)]
    return {name: [int(cell.replace(",", "")) for cell in cells] for name, *cells in rows}


def test_every_model_is_listed_with_its_options(command):
    status, out, _ = command("regression", "model.layers=1")
    assert status == 0 and set(table(out)) == set(KINDS)
    for kind in KINDS:
        assert f"model={kind}\n" in out
    assert out.count("model.match_params") == len(KINDS)
    expected = model_costs(discovery.models()["lstm"](layers=1), Interface(Vectors(6), Vectors(1), 16))
    status, out, _ = command("regression", "model.layers=1", "task.dimension=5")
    assert table(out)["lstm"][1:] == [expected.state, 0, expected.flop] and "rows of 16 positions" in out


def test_one_model_is_listed_where_one_is_named(command):
    status, out, err = command("regression", "model=gru", "model.match_params=20000")
    assert status == 0 and set(table(out)) == {"gru"} and "model=lstm" not in out
    assert re.fullmatch(r"model\.width = \d+: [\d,]+ parameters \(asked for 20,000, .* % off\)\n", err)
    assert abs(table(out)["gru"][0] - 20_000) < 2_000


def test_models_of_a_users_study_at_equal_parameters(command, lookup):
    status, out, err = command(lookup, "model.match_params=20000")
    assert status == 0 and set(table(out)) == set(KINDS)
    assert all(abs(row[0] - 20_000) < 4_000 for row in table(out).values())
    assert all(f"{kind}: model.width = " in err for kind in KINDS)


def test_a_model_without_a_key_is_left_out_and_said(command):
    status, out, err = command("regression", "model.heads=2")
    assert status == 0 and "transformer" in table(out) and "lstm" not in table(out)
    assert "lstm is left out: it has no model.heads" in err


def test_a_model_that_a_value_does_not_fit_is_left_out_and_said(command):
    status, out, err = command("regression", "model.width=30")
    assert status == 0 and set(table(out)) == set(KINDS) - {"transformer", "linear_attention", "gated_deltanet"}
    assert err.count("\n") == 3 and "transformer is left out: model: width = 30 is not divisible by heads = 4" in err
    status, out, err = command("regression", "model.match_params=1")
    assert status == 2 and "gated_deltanet: model.match_params = 1: expected at least" in err and not out
    status, out, err = command("regression", "model.heads=2", "model.forget_bias=1")
    assert status == 2 and "lstm: it has no model.heads; " in err and not out


def test_options_are_shown_as_they_are_typed(command):
    _, out, _ = command("regression", "model=gated_deltanet", "model.key_width=8", "model.gate=no")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.strip()}
    assert rows["model.gate"] == "false true, false"
    assert rows["model.key_width"] == "8 whole number > 0, none"
    assert rows["model.mlp"] == "none whole number ≥ 0, none"
    assert rows["model.norm_eps"] == "1e-05 number > 0"
    assert rows["model.width"] == "64 whole number > 0 and ≤ 65536"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.heds=2"], "did you mean 'model.heads'?"),
        (["model=lstn"], "unknown model 'lstn'; did you mean 'lstm'?"),
        (["model=transformer", "model.width=7"], "width = 7 is not divisible by heads = 4"),
        (["model=lstm", "model.heads=2"], "unknown key 'model.heads'"),
        (["model=lstm", "model.match_params=1"], "expected at least"),
        (["heads"], "'heads' is not key=value"),
        (["taks.dimension=2"], "inlearn: unknown key 'taks.dimension'; did you mean 'task.dimension'?"),
        (["task.dimension=0"], "inlearn: study.task.dimension = 0: expected greater than 0"),
        (["model.bidirectional=true"], "inlearn: unknown key 'model.bidirectional'; known: activation,"),
    ],
)
def test_mistakes_are_refused_in_one_line(command, words, said):
    status, out, err = command("regression", *words)
    assert status == 2 and said in err and err.count("\n") == 1 and not out
