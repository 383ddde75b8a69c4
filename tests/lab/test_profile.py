"""`inlearn profile`: counts against closed forms, times that add up, refusals."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from inlearn.cli.main import main
from inlearn.cli.profile import si
from inlearn.lab import discovery
from inlearn.lab.build import build, build_trainer
from inlearn.lab.config import compose
from inlearn.lab.limits import Operator, limits, verdict
from inlearn.lab.profile import examine
from inlearn.lab.roofline import StepCost, hold, step_cost
from inlearn.models.attention import attend
from inlearn.training.costs import Cost, OperatorCounter
from inlearn.training.stopwatch import Stopwatch, TimedTask, watched


def live(*overrides: str, study: str = "regression"):
    built = build(compose(discovery.study(study), overrides))
    return build_trainer(built), built.tasks[0]


@pytest.fixture
def printed(capsys, monkeypatch, tmp_path):
    """The command line in an empty folder; (status, stdout, stderr)."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["inlearn", "profile", *words])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, *capsys.readouterr()

    return call


# ---------------------------------------------------------------- what is counted


def test_flop_of_linear_layers_is_the_closed_form():
    layers = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False))
    with OperatorCounter() as counter:
        layers(torch.ones(11, 13, 5)).sum().backward()
    tokens = 11 * 13
    first, second = 2 * tokens * 5 * 7, 2 * tokens * 7 * 3
    assert counter.total.flop == 2 * first + 3 * second, "nobody needs the gradient of the inputs"
    assert not any(cost.flop for name, cost in counter.costs.items() if name not in ("aten::addmm", "aten::mm"))


@pytest.mark.parametrize(("steps", "keys"), [(20, 20), (64, 64)], ids=["few keys", "the fused kernel"])
def test_flop_of_attention_is_the_closed_form(steps, keys):
    q, k, v = (torch.randn(3, steps, 2, 8, requires_grad=True) for _ in range(3))
    with OperatorCounter() as counter:
        attend(q, [(k, v)], slice(0, steps), steps).sum().backward()
    assert counter.total.flop == 3 * 2 * (2 * 3 * 2 * steps * keys * 8), "two products forward, four backward"


def test_flop_of_the_fused_lstm_is_the_closed_form():
    layer = nn.LSTM(5, 7, batch_first=True)
    with OperatorCounter() as counter:
        layer(torch.ones(3, 11, 5, requires_grad=True))[0].sum().backward()
    assert counter.total.flop == 3 * 2 * 3 * 11 * 4 * 7 * (5 + 7), "one product of each weight forward, two backward"


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_flop_of_recurrent_models_is_the_closed_form(kind, gates):
    trainer, task = live(f"model={kind}", "model.width=6", "training.batch=5")
    steps = task.interface.length - 1  # nothing is asked after the last input
    embedding, head = 2 * 5 * steps * task.interface.inputs.width * 6, 2 * 5 * 8 * 6
    layers = 2 * 2 * 5 * steps * gates * 2 * 6 * 6
    counted = step_cost(trainer, hold(trainer, task)).total.flop
    assert counted == 2 * embedding + 3 * (layers + head)


def test_a_step_counts_what_the_scored_positions_need_and_no_more():
    trainer, task = live("preset=paper-lr", "training.batch=6")
    N, T, n, C, D, H, d = 6, 15, 8, 64, 5, 4, 16
    everywhere, scored = N * T, N * n
    embedding, head = 2 * everywhere * D * C, 2 * scored * C * D
    square = 2 * C * C
    layers = 6 * everywhere * square + (2 * everywhere + 4 * scored) * square
    attention = sum(2 * 2 * N * H * queries * T * d for queries in (T, n))
    needed = 2 * embedding + 3 * (layers + head + attention)
    counted = step_cost(trainer, hold(trainer, task)).total.flop
    assert needed <= counted < 1.01 * needed, "keys may be padded to a vector's length"


def counted_bytes(call) -> int:
    with OperatorCounter() as counter:
        call()
    return counter.total.bytes


def test_bytes_are_those_read_and_written():
    a, b, row, ids = torch.ones(8, 16), torch.ones(8, 16), torch.ones(16), torch.tensor([1, 2])
    size = 4 * 8 * 16
    assert counted_bytes(lambda: a + b) == 3 * size
    assert counted_bytes(lambda: a + row) == 2 * size + 4 * 16
    assert counted_bytes(lambda: a + row.expand(8, 16)) == 2 * size + 4 * 16, "an expanded axis is in memory once"
    assert counted_bytes(lambda: a.view(16, 8).t()[:4].detach()) == 0, "views"
    assert counted_bytes(lambda: torch.empty_like(a)) == 0
    assert counted_bytes(lambda: a.add_(b)) == 3 * size
    assert counted_bytes(lambda: a.copy_(b)) == 2 * size
    assert counted_bytes(lambda: a.zero_()) == size
    assert counted_bytes(lambda: torch.cat((a, b))) == 4 * size
    assert counted_bytes(lambda: nn.functional.embedding(ids, a)) == 2 * 2 * 16 * 4 + 2 * 8, "two of the rows"
    parameter = nn.Parameter(torch.ones(100))
    parameter.grad = torch.ones(100)
    adam = torch.optim.Adam([parameter], fused=True)
    adam.step()
    moved = counted_bytes(adam.step)
    assert 7 * 400 <= moved <= 8 * 400 + 100, "weight, gradient and two moments come; all but the gradient go back"


def test_compulsory_bytes_are_weights_gradients_moments_and_the_batch(tiny):
    trainer, task = live(*tiny)
    cost = step_cost(trainer, hold(trainer, task))
    T = 5
    batch = 4 * 16 * T * (3 + 1 + 1)  # tokens of D + 1, one target, one weight
    moments = 2 * trainer.count + 1  # Adam counts its steps in a tensor
    assert cost.compulsory == 4 * (4 * trainer.count + 2 * moments) + batch
    assert cost.compulsory < cost.total.bytes
    assert cost.floor(1e9, 1e9) == max(cost.total.flop, cost.compulsory) / 1e9


# ---------------------------------------------------------------- what is timed


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_watch_changes_no_bit_and_leaves_no_hook(tiny, accumulate):
    words = (*tiny, f"training.accumulate={accumulate}")
    (alone, task), (seen, _) = live(*words), live(*words)
    watch = Stopwatch(torch.device("cpu"))
    with watched(seen, watch):
        for _ in range(3):
            seen.update(TimedTask(task, watch))
    begun = [part for part, _ in watch.marks]
    for part in ("forward", "loss", "backward"):
        assert begun.count(part) >= 3 * accumulate
    for part in ("data", "norm and clip", "update"):
        assert begun.count(part) >= 3
    watch.marks.clear()
    for _ in range(3):
        alone.update(task)
    assert torch.equal(alone.parameters.row(), seen.parameters.row())
    seen.update(task)
    assert not watch.marks


def test_parts_add_up_and_shares_are_whole(tiny):
    trainer, task = live(*tiny, "training.clip=1.0")
    found = examine(trainer, task, "regression", "float32", 70)  # beyond the 60 steps of the schedule
    assert found.steps == 70 and found.threads == 1 and found.parameters == trainer.count
    assert math.isclose(sum(part.ms for part in found.parts), found.ms)
    assert all(part.ms > 0 for part in found.parts)
    assert math.isclose(sum(found.limits.values()), 1.0) and min(found.limits.values()) >= 0
    assert 0 < found.floor_ms < found.ms and 0 < found.flop_rate < found.product_rate
    assert found.flop == sum(o.flop for o in found.operators), "every operator with FLOP is in the table"
    assert 0 <= trainer.progress.step <= 60
    assert 0 <= found.waited < 1


def test_a_step_that_waits_for_others_is_known(tiny):
    trainer, task = live(*tiny)

    class Slow:
        interface, labels = task.interface, task.labels

        def sample(self, at, rows, first=0):
            time.sleep(0.02)  # as another program on the same core would
            return task.sample(at, rows, first)

    found = examine(trainer, Slow(), "regression", "float32", 4)
    assert found.waited > 0.5
    assert found.verdict.startswith("The next limit is making batches")


def test_a_study_with_a_shared_prefix_is_profiled(printed, lookup):
    status, out, err = printed(
        lookup, "preset=small", "model.dropout=0.1", "training.batch=8", "--steps", "4", "--json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["steps"] == 4 and found["study"] == "lookup"
    assert {part["name"] for part in found["parts"] if part["ms"] > 0} >= {"data", "forward", "loss", "backward"}


def test_the_command_prints_tables_and_a_sentence_and_leaves_nothing(printed, tiny, tmp_path):
    status, out, err = printed("regression", *tiny, "--steps", "20")
    assert status == 0 and (not err or "the machine is busy" in err)
    for words in (
        "norm and clip",
        "mm ",
        " others",
        "GFLOP/s",
        "measured ceiling",
        "floor",
        "launches",
        "20 steps timed",
    ):
        assert words in out
    assert out.strip().splitlines()[-1].startswith("The next limit is ")
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(printed, tiny):
    status, out, err = printed("regression", *tiny, "device=cuda", "--steps", "20", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["device"].startswith("cuda") and set(found["limits"]) == {"data", "products", "memory", "launches"}
    assert math.isclose(sum(found["limits"].values()), 1.0) and any(o["flop_rate"] for o in found["operators"])


# ---------------------------------------------------------------- what stands in the way

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def divided(device, data=0.0, products=0.0, others=0.0, calls=0, launch=0.0, inside=10.0, compiles=True):
    operators = [Operator("mm", products, 1, 10**9, None), Operator("add", others, calls, 0, None)]
    cost = StepCost({"aten::mm": Cost(0, 0, 10**9), "aten::add": Cost(calls)}, 0)
    shares = limits(inside, data, operators, inside, cost, launch, device)
    assert math.isclose(sum(shares.values()), 1.0)
    return shares, verdict(shares, operators, 1e12, device, compiles=compiles)


def test_the_largest_share_is_named():
    shares, said = divided(CPU, products=6.0, others=1.0)
    assert math.isclose(shares["products"], 0.6) and math.isclose(shares["python"], 0.3)
    assert "matrix products, which run at 17% of the measured rate: 60%" in said and "larger ones" in said
    assert "fewer of them" in divided(CPU, products=1.3, inside=1.4)[1]
    shares, said = divided(CPU, others=8.0, calls=100, launch=0.07)
    assert (
        math.isclose(shares["launches"], 0.7) and math.isclose(shares["memory"], 0.1) and "starting operators" in said
    )
    assert "only move numbers" in divided(CPU, others=8.0)[1]
    assert "between the operators" in divided(CPU)[1]
    assert "execution.step=compiled" in divided(CPU, others=8.0)[1]
    assert "execution.step" not in divided(CPU, others=8.0, compiles=False)[1] + divided(CPU, compiles=False)[1]
    assert "making batches: 50%" in divided(CPU, data=10.0, others=6.0)[1]


def test_on_a_gpu_time_without_a_kernel_is_lost_to_launches():
    shares, said = divided(CUDA, products=1.0, others=2.0, calls=100, launch=0.07)
    assert math.isclose(shares["launches"], 0.7) and "CUDA graphs" in said
    shares, _ = divided(CUDA, products=8.0, others=4.0)  # kernels of two streams overlap
    assert shares["launches"] == 0


def test_numbers_have_prefixes():
    assert [si(v, "B") for v in (0, None, 1, 999.4, 999.6, 1.5e6, 2e18)] == \
        ["–", "–", "1 B", "999 B", "1 kB", "1.5 MB", "2e+03 PB"]  # fmt: skip


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["regresion"], "unknown study 'regresion'; did you mean 'regression'?"),
        (["regression", "task.cuont=3"], "unknown key 'study.task.cuont'; did you mean 'study.task.count'?"),
        (["regression", "model.width=30", "model.heads=4"], "width = 30 is not divisible by heads = 4"),
        (["regression", "device=cdua"], "device = cdua: expected one of auto, cpu, cuda, mps, xla"),
        (["regression", "seed=1,2"], "reads as a sweep axis"),
        (["regression", "start=nobody@best"], "no run 'nobody'"),
        (["regression", "training.until=20000"], "lies beyond training.steps = 10000"),
        (["regression", "execution.parallel=fsdp"], "needs several processes"),
        (["regression", "execution.engine=stacked"], "execution.engine = stacked"),
        (["regression", "execution.step=graphs"], "execution.step = graphs: such a step has no parts to time"),
        (["regression", "model.positions=none", "model.tied=true"], "model.tied = true"),
    ],
)
def test_a_mistake_is_refused_as_a_run_refuses_it(printed, tmp_path, words, expected):
    status, out, err = printed(*words)
    assert status == 2 and out == "", err
    assert expected in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_several_processes_are_refused(printed, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = printed("regression")
    assert status == 2 and "one process" in err


def test_no_steps_are_refused(printed):
    status, _, err = printed("regression", "--steps", "0")
    assert status == 2 and "--steps" in err


def test_a_mistake_in_a_users_study_names_its_line(printed, lookup, tmp_path):
    text = Path(lookup).read_text()
    own = tmp_path / "mine.py"
    own.write_text(text.replace("target[:, None], torch.ones", "targt[:, None], torch.ones"))
    status, _, err = printed(str(own), "preset=small")
    assert status == 2 and "mine.py, line " in err and "NameError" in err
