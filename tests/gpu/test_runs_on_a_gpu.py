"""Whole runs on a card: what is recorded, resumed, and how near its reduced precisions come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from inlearn.core import device as devices
from inlearn.lab import discovery
from inlearn.lab.build import build, build_member, build_trainer
from inlearn.lab.config import compose
from inlearn.lab.footprint import footprint
from inlearn.training.graphs import DeviceUpdates, Together
from inlearn.training.stack import Stack

pytestmark = pytest.mark.gpu


def quiet(text: str) -> None:
    pass


@pytest.mark.parametrize("form", ["solo", "stacked"])
def test_a_run_is_replayed_recorded_and_resumed(form: str, tiny: list[str], tmp_path: Path) -> None:
    session = pytest.importorskip("inlearn.lab.session")
    asked = [*tiny, "device=cuda", f"engine={form}"]
    whole = session.start("regression", asked, tmp_path / "whole", quiet)
    assert [(s["step"], s["form"]) for s in whole.folder.segments] == [("graphs", form)]
    log = (whole.path / "run.log").read_text()
    assert "updates: graphs" in log and "but eager" not in log and "on the host" not in log
    parted = session.start("regression", [*asked, "training.until=31"], tmp_path / "parted", quiet)
    session.resume(parted.folder.id, ["training.until=none"], tmp_path / "parted", quiet)
    assert [s["step"] for s in parted.folder.segments] == ["graphs"] * 2
    one, other = ((r.path / "metrics.jsonl").read_text().splitlines() for r in (whole, parted))
    for before, after in zip(map(json.loads, one), map(json.loads, other), strict=True):
        assert before["step"] == after["step"]
        if before["event"] == "training":
            assert after["loss"] == pytest.approx(before["loss"], rel=1e-4)


def test_eager_is_kept_on_resume(tiny: list[str], tmp_path: Path) -> None:
    session = pytest.importorskip("inlearn.lab.session")
    run = session.start(
        "regression", [*tiny, "device=cuda", "execution.step=eager", "training.until=20"], tmp_path, quiet
    )
    session.resume(run.folder.id, ["execution.step=auto", "training.until=none"], tmp_path, quiet)
    assert [s["step"] for s in run.folder.segments] == ["eager"] * 2


@pytest.mark.parametrize(
    ("asked", "loss", "gradient"),
    [(("execution.matmul=tf32",), 1e-4, 5e-3), (("precision=bfloat16",), 1e-3, 2e-2), ((), 1e-6, 1e-5)],
    ids=["tf32", "bfloat16", "float32"],
)
def test_reduced_precision_is_near_float64(asked: tuple[str, ...], loss: float, gradient: float) -> None:
    """Loss and gradient of the paper's model on one batch, against float64 on the same card."""

    def once(*overrides: str) -> tuple[float, torch.Tensor]:
        built = build(compose(discovery.study("regression"), ["preset=paper-lr", "device=cuda", *overrides]))
        trainer = build_trainer(built)
        trainer.update(built.tasks[0])
        return trainer.waiting_losses().double().item(), trainer.parameters.flat.gradients.double()

    try:
        exact, near = once("precision=float64"), once(*asked)
    finally:
        devices.set_matmul("float32", torch.device("cuda"))
    off = abs(near[0] - exact[0]) / exact[0], float((near[1] - exact[1]).norm() / exact[1].norm())
    print(asked, off)
    assert off[0] < loss and off[1] < gradient


def test_the_estimate_of_memory_is_near_what_the_card_gives() -> None:
    """Bytes a member, by counting on the CPU, against what the allocator took for stacks of 8 and 64."""
    config = compose(discovery.study("regression"), ["preset=paper-lr", "device=cuda"])
    built, estimate = build(config), footprint(config).bytes
    taken = []
    for count in (8, 64):
        torch.cuda.empty_cache()
        before = torch.cuda.mem_get_info()[0]
        stack = Stack([build_member(built) for _ in range(count)], torch.device("cuda"), "float32")
        updates = DeviceUpdates(Together(stack), quiet, quiet)
        while stack.tick < 10:
            updates.advance(10 - stack.tick)
        torch.cuda.synchronize()
        taken.append(before - torch.cuda.mem_get_info()[0])
        del stack, updates
    each = (taken[1] - taken[0]) / 56
    print(f"estimated {estimate / 2**20:.1f} MiB a member, taken {each / 2**20:.1f} MiB")
    assert each / 3 < estimate < 3 * each
