"""How a run meets its device: what is asked of it, what is recorded, and what becomes of the run when it is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inlearn.core import device as devices
from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.build import build, build_trainer
from inlearn.lab.config import compose
from inlearn.lab.device_faults import DeviceFault
from inlearn.lab.session import resume, start
from inlearn.lab.stacked import start_together
from inlearn.runs.folder import RunFolder
from inlearn.training.stack import Member, Stack
from inlearn.training.trainer import Trainer


def quiet(text: str) -> None:
    pass


def only_run(root: Path) -> RunFolder:
    [path] = (p for p in root.iterdir() if not p.name.startswith("."))
    return RunFolder(path)


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("execution.step=graphs", "execution.step = graphs on cpu: expected eager, compiled or auto (CUDA graphs need"),
        ("execution.matmul=tf32", "execution.matmul = tf32 on cpu: expected float32"),
        ("execution.step=graph", "execution.step = graph"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused_before_anything_is_made(
    asked: str, words: str, tiny: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        start("regression", [*tiny, "device=cpu", asked], tmp_path / "runs", quiet)
    assert words in str(refused.value)
    assert not list((tmp_path / "runs").glob("[!.]*"))


@pytest.mark.parametrize("form", ["solo", "stacked"])
def test_how_updates_are_started_is_recorded_and_said(form: str, tiny: list[str], tmp_path: Path) -> None:
    run = start("regression", [*tiny, "device=cpu", f"engine={form}"], tmp_path, quiet)
    assert [(s["step"], s["matmul"]) for s in run.folder.segments] == [("eager", "float32")]
    log = (run.path / "run.log").read_text()
    assert log.count("updates: eager (training.steps = 60: less than 20,000 do not repay compiling)") == 1


def test_a_run_from_before_these_were_recorded_goes_on_without_a_warning(tiny: list[str], tmp_path: Path) -> None:
    run = start("regression", [*tiny, "training.until=20"], tmp_path, quiet)
    path = run.path / "environment.json"
    document = json.loads(path.read_text())
    for segment in document["segments"] if isinstance(document, dict) else document:
        del segment["step"], segment["matmul"]
    path.write_text(json.dumps(document))
    resume(run.folder.id, ["training.until=40"], tmp_path, quiet)
    assert "resumed elsewhere" not in (run.path / "run.log").read_text()
    document = json.loads(path.read_text())
    del document[-1]["mkl_cbwr"]  # before it was set, products had other last bits
    path.write_text(json.dumps(document))
    resume(run.folder.id, ["training.until=none"], tmp_path, quiet)
    assert "mkl_cbwr: None before" in (run.path / "run.log").read_text()


def test_products_are_computed_in_float32_whatever_the_process_did_before(tiny: list[str], tmp_path: Path) -> None:
    torch.set_float32_matmul_precision("medium")
    start("regression", [*tiny, "training.until=1"], tmp_path, quiet)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


# ---------------------------------------------------------------- a device that fails

LOST = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported elsewhere"


def lost() -> Exception:
    return getattr(torch, "AcceleratorError", RuntimeError)(LOST)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError(LOST), "lost"),
        (lost(), "lost"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (RuntimeError("shapes do not match"), None),
        (ValueError("CUDA error"), None),
    ],
)
def test_which_errors_are_the_device_s(error: Exception, kind: str | None) -> None:
    assert devices.fault_of(error) == kind


def failing(kind: type, error: Exception, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the update of a `kind` after `after` others raise `error`."""
    update, made = kind.update, [0]

    def broken(self: object, *given: object) -> None:
        if made[0] == after:
            raise error
        made[0] += 1
        update(self, *given)

    monkeypatch.setattr(kind, "update", broken)


@pytest.mark.parametrize(("form", "kind"), [("solo", Trainer), ("stacked", Stack)])
def test_a_lost_device_interrupts_the_run_which_goes_on_with_the_same_bytes(
    form: str, kind: type, tiny: list[str], tmp_path: Path
) -> None:
    asked = [*tiny, f"engine={form}"]
    whole = start("regression", asked, tmp_path / "whole", quiet)
    with pytest.MonkeyPatch.context() as patch:
        failing(kind, lost(), 35, patch)
        with pytest.raises(DeviceFault) as heard:
            start("regression", asked, tmp_path / "runs", quiet)
    folder = only_run(tmp_path / "runs")
    said = str(heard.value)
    assert "cpu was lost (CUDA error: an illegal memory access was encountered); " in said
    assert f"run {folder.id} is saved at step 30; go on with: inlearn resume {folder.id} --runs" in said
    assert (folder.status.state, folder.status.reason) == ("interrupted", said)
    resume(folder.id, [], tmp_path / "runs", quiet)
    assert (folder.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()


def test_a_full_memory_fails_the_run_and_says_what_leaves_room(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(Trainer, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 20, monkeypatch)
    with pytest.raises(DeviceFault, match=r"the memory of cpu is full .*fewer runs at once .*saved at step 15"):
        start("regression", [*tiny, "record.best=none"], tmp_path, quiet)
    assert only_run(tmp_path).status.state == "failed"


def test_every_member_of_a_stack_is_told_for_itself(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the device is heard of only as a member's numbers are read, which is no fault of that member's."""
    take = Member.take_mean_loss
    monkeypatch.setattr(Member, "take_mean_loss", lambda self: fail() if self.progress.step > 40 else take(self))

    def fail() -> None:
        raise lost()

    ended = start_together(
        "regression", [[*tiny, "record.best=none", f"seed={seed}"] for seed in (1, 2, 3)], tmp_path, quiet
    )
    assert [one.state for one in ended] == ["interrupted"] * 3
    for one in ended:
        assert f"run {one.id} is saved at step 30" in one.reason
        assert RunFolder(tmp_path / one.id).status.state == "interrupted"


def test_the_command_ends_without_a_traceback(tiny: list[str], tmp_path: Path) -> None:
    code = f"""
from inlearn.training.trainer import Trainer
def broken(self, task): raise RuntimeError({LOST!r})
Trainer.update = broken
from inlearn.cli.main import main
main()
"""
    command = [sys.executable, "-c", code, "run", "regression", *tiny, "--runs", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    assert "was lost (CUDA error" in ended.stderr and "Traceback" not in ended.stderr


# ---------------------------------------------------------------- how near reduced precision comes


def test_bfloat16_products_are_near_float32_and_float64_on_the_paper_model() -> None:
    """Loss and gradient of the paper's model on one batch of 256, against float64.

    Seen: float32 4e-8 and 2e-7, bfloat16 1e-5 and 3.8e-3 (its products keep 8 bits).
    """
    losses, gradients = {}, {}
    for precision in ("float64", "float32", "bfloat16"):
        config = compose(discovery.study("regression"), ["preset=paper-lr", f"precision={precision}", "device=cpu"])
        built = build(config)
        trainer = build_trainer(built)
        trainer.update(built.tasks[0])
        losses[precision] = trainer.waiting_losses().double().item()
        gradients[precision] = trainer.parameters.flat.gradients.double()

    def off(precision: str) -> tuple[float, float]:
        exact = gradients["float64"]
        loss = abs(losses[precision] - losses["float64"]) / losses["float64"]
        return loss, float((gradients[precision] - exact).norm() / exact.norm())

    assert off("float32")[0] < 1e-6 and off("float32")[1] < 1e-6
    assert off("bfloat16")[0] < 1e-4 and 1e-4 < off("bfloat16")[1] < 1e-2
