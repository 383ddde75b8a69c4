"""Rows in files: written whole or not at all, read back the same, refused where they are not what was asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from inlearn.core.draws import Address
from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.lab import discovery
from inlearn.lab.config import Seeds, compose, identity
from inlearn.lab.session import resume, start
from inlearn.studies.automata import stored
from inlearn.studies.automata.config import AutomataConfig
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.header import FORMAT, read_header

EVAL = Address(Seeds().following(0), "eval")
TINY = ("task.states=3", "task.actions=2", "task.demo_length=4", "task.query_length=4", "data=cached", "data.train=12",
        "data.validation=5", "data.test=5")  # fmt: skip


def config(folder: Path, *more: str) -> AutomataConfig:
    given = {text.partition("=")[0] for text in more}
    kept = [text for text in TINY if text.partition("=")[0] not in given]
    return compose(discovery.study("automata"), [*kept, f"data.folder={folder}", *more]).study


def built(folder: Path, *more: str):
    stored.cached.cache_clear()
    return config(folder, *more).build(Seeds().following(1), 4)


def prepare(folder: Path, *more: str) -> tuple[Path, str]:
    said: list[str] = []
    built(folder, *more).prepare(said.append)
    (path,) = folder.glob("*.safetensors")
    return path, said[-1]


def rows_of(study) -> list[torch.Tensor]:
    rows = study.tasks["train"].rows
    return [getattr(rows, part.name) for part in fields(Episodes)]


def test_prepared_rows_are_those_drawn_in_memory(tmp_path: Path):
    in_memory = rows_of(built(tmp_path / "none"))
    path, said = prepare(tmp_path / "data")
    assert said == f"{path}: 12 + 5 + 5 rows for training, validation and test"
    before = path.read_bytes()
    from_file = rows_of(built(tmp_path / "data"))
    assert all(
        one.dtype == other.dtype and torch.equal(one, other) for one, other in zip(in_memory, from_file, strict=True)
    )
    path_, said = prepare(tmp_path / "data")
    assert path_ == path and said.endswith("there already") and path.read_bytes() == before


def test_other_rows_have_another_file_and_other_answers_the_same(tmp_path: Path):
    """Demonstrations shown, supervision, head and evaluation are chosen when rows are read."""
    path, _ = prepare(tmp_path)
    for same in ("task.demos=2", "task.head=states", "supervision=dense", "evaluation.rows=3"):
        assert prepare(tmp_path, same)[0] == path
    for other in ("data.seed=1", "data.train=13", "task.jitter=0.1", "task.relabel=true"):
        task = config(tmp_path, other)
        assert stored.path_of(task.task, task.data) != path


def test_a_file_of_another_configuration_is_refused(tmp_path: Path):
    path, _ = prepare(tmp_path)
    task = config(tmp_path, "data.seed=1")
    path.rename(stored.path_of(task.task, task.data))
    with pytest.raises(UserError, match="holds rows of another configuration"):
        built(tmp_path, "data.seed=1")


@pytest.mark.parametrize("where", [-1, -200, 2000])
def test_a_damaged_file_is_refused(tmp_path: Path, where: int):
    path, _ = prepare(tmp_path)
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(EnvironmentFault, match="is damaged"):
        built(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int):
    path, _ = prepare(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises((UserError, EnvironmentFault), match=r"is no file of automata rows|is damaged"):
        built(tmp_path)


def test_a_kill_while_rows_are_written_leaves_nothing_under_their_name(tmp_path: Path):
    code = f"""
import os, signal
from pathlib import Path
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
from inlearn.cli.main import app
app(["prepare", "automata", *{TINY!r}, "data.folder={tmp_path}"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("[!.]*")) and list(tmp_path.glob(".*.aside"))
    assert prepare(tmp_path)[0].exists()


def test_a_full_disk_is_the_machines_fault_and_leaves_nothing(tmp_path: Path):
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from inlearn.cli import main
import inlearn.studies.automata.study
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
main.main()
"""
    asked = ["prepare", "automata", *TINY, f"data.folder={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True)
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- runs


MODEL = ("model=lstm", "model.width=8", "model.layers=1", "training.batch=4", "record.training=1",
         'record.evaluations={"kind":"never"}')  # fmt: skip


def quiet(text: str) -> None:
    pass


def test_where_rows_lie_is_no_part_of_a_run_and_may_change_on_resume(tmp_path: Path):
    study = discovery.study("automata")
    ids = {
        str(identity(compose(study, [*TINY, *MODEL, "training.steps=4", f"data.folder={folder}"]), study, None))
        for folder in ("here", "there")
    }
    assert len(ids) == 1 and "folder" not in next(iter(ids))
    asked = [*TINY, *MODEL, "training.steps=4"]
    one = start("automata", [*asked, "training.until=2", f"data.folder={tmp_path}/a"], tmp_path / "runs", quiet)
    prepare(tmp_path / "b")
    again = resume(one.id, ["training.until=4", f"data.folder={tmp_path}/b"], tmp_path / "runs", quiet)
    assert again.id == one.id and again.folder.config["unhashed"]["places"] == {"data.folder": f"{tmp_path}/b"}
    whole = start("automata", asked, tmp_path / "other", quiet)
    assert whole.id == one.id
    losses = [(tmp_path / root / one.id / "metrics.jsonl").read_text() for root in ("runs", "other")]
    assert losses[0] == losses[1]


def test_epochs_are_passes_over_the_rows():
    study = discovery.study("automata")
    assert compose(study, [*TINY, "training.batch=4", "training.epochs=5"]).training.steps == 15
    with pytest.raises(UserError, match="never come round"):
        compose(study, ["training.epochs=5"])


def test_the_header_of_another_file_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(3)}, tmp_path / "x.safetensors")
    (tmp_path / "y").write_bytes(os.urandom(200))
    (tmp_path / "z").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    said = json.dumps({"__metadata__": {"format": FORMAT, "splits": 5, "fingerprint": "", "made_of": ""}}).encode()
    (tmp_path / "n").write_bytes(len(said).to_bytes(8, "little") + said)
    for name in ("x.safetensors", "y", "z", "n"):
        with pytest.raises(UserError, match="is no file of automata rows"):
            read_header(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_header(tmp_path / "missing")
