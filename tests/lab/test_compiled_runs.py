"""Runs whose updates are compiled: the same bytes however they are cut, eager ones up to rounding, and a way back."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys

import pytest

from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.build import build, why_not_compiled
from inlearn.lab.config import compose
from inlearn.lab.session import start
from inlearn.runs.folder import RunFolder
from inlearn.training import compiled

has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here: nothing can be compiled")


def quiet(_: str) -> None:
    pass


@has_compiler
def test_a_compiled_run_goes_on_compiled_and_learns_what_an_eager_one_does(tiny, tmp_path):
    whole = start("regression", [*tiny, "execution.step=compiled"], tmp_path / "whole", quiet)
    start("regression", [*tiny, "execution.step=compiled", "training.until=5"], tmp_path / "cut", quiet)
    cut = start("regression", tiny, tmp_path / "cut", quiet)
    eager = start("regression", tiny, tmp_path / "eager", quiet)
    assert [one["step"] for one in cut.folder.segments] == ["compiled", "compiled"]
    assert (cut.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
    assert whole.metrics.loss.tolist()[:3] == pytest.approx(eager.metrics.loss.tolist()[:3], rel=1e-5)
    assert "updates: compiled (as the run was begun)" in (cut.path / "run.log").read_text()


def test_a_compiler_that_fails_is_one_line(tiny, tmp_path):
    script = tmp_path / "broken-compiler"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    words = ["run", "regression", *tiny, "execution.step=compiled", "engine=stacked", "name=eager", "--runs", "runs"]
    environment = os.environ | {"CXX": str(script), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "inlearn.cli.main", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("but eager") == 1 and "Traceback" not in done.stderr
    folder = RunFolder.open(tmp_path / "runs", "eager")
    assert folder.segments[-1]["step"] == "eager" and folder.status.state == "finished"


@has_compiler
def test_what_is_chosen_for_long_runs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "STEPS", 4)
    words = [text for text in tiny if not text.startswith("precision")]
    dropping = start("regression", [*words, "model.dropout=0.1"], tmp_path, quiet)
    assert "updates: eager (not compiled: model.dropout is above 0)" in (dropping.path / "run.log").read_text()
    monkeypatch.setenv("CXX", "no-such-compiler")
    without = start("regression", words, tmp_path, quiet)
    assert "there is no C++ compiler" in (without.path / "run.log").read_text()


@has_compiler
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.dropout=0.1"], "model.dropout is above 0"),
        (["training.accumulate=2"], "training.accumulate = 2"),
        (["precision=bfloat16"], "precision = bfloat16"),
    ],
)
def test_what_cannot_be_compiled_is_refused(tiny, tmp_path, words, said):
    with pytest.raises(UserError, match=said):
        start("regression", [*tiny, *words, "execution.step=compiled"], tmp_path, quiet)
    assert not list(tmp_path.iterdir())


@has_compiler
def test_every_phase_must_have_fixed_columns(tiny):
    built = build(compose(discovery.study("regression"), tiny))
    probes = built.study.tasks["effective_weight"]
    legs = dataclasses.replace(built, tasks=(built.tasks[0], probes), together=(1, 6))
    assert why_not_compiled(built) is None
    assert why_not_compiled(legs) == "scored positions change from batch to batch"


def test_a_run_that_is_extended_was_begun_as_one_that_never_stopped(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "STEPS", 30)
    run = start("regression", [*tiny, "training.until=1"], tmp_path, quiet)
    assert [one["step"] for one in run.folder.segments] == ["compiled" if shutil.which("g++") else "eager"]
