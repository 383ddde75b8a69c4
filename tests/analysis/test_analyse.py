"""`inlearn analyse` as a user calls it: kept results, interrupted work, full disks, mistakes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

import inlearn
from inlearn.cli.main import main
from inlearn.core.errors import EnvironmentFault
from inlearn.lab.session import start

ENTER = "from inlearn.cli.main import main; main()"
QUICK = ("rows=80", "activations=blocks.0.output")
TITLE = "what-can-be-read-off-the-activations"


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny):
    runs = tmp_path_factory.mktemp("runs")
    start("regression", [*tiny, "name=tiny"], runs, lambda text: None)
    start("recall", ["task.length=16", "task.vocabulary=16", "task.pairs=2", "model=gru", "model.width=8",
                     "model.layers=1", "training.steps=3", "evaluation.rows=16", "evaluation.pair_rows=8",
                     "name=words"], runs, lambda text: None)  # fmt: skip
    return runs


@pytest.fixture
def runs(root, tmp_path):
    shutil.copytree(root, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def command(capsys, monkeypatch):
    def call(*words, runs) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inlearn", "analyse", *words, "--runs", str(runs)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return (status, *capsys.readouterr())

    return call


def made(runs: Path) -> list[Path]:
    return sorted(path for path in runs.glob("*/analysis/*") if path.is_dir())


def test_a_probe_prints_a_table_and_keeps_arrays_a_figure_and_what_was_asked(command, runs):
    status, out, err = command("tiny", "probe", *QUICK, runs=runs)
    assert status == 0, err
    assert "task_vector" in out and "untrained" in out and "at step 60" in out
    (folder,) = made(runs)
    assert str(folder) in out
    described = json.loads((folder / "result.json").read_text())
    assert described["axes"]["score"] == ["network", "activation", "target"]
    assert described["asked"]["analysis"]["rows"] == 80 and described["asked"]["step"] == 60
    assert xml.parse(folder / "figures" / f"{TITLE}.svg").getroot().tag.endswith("svg")
    assert "untrained" in (folder / "figures" / f"{TITLE}.svg").read_text()
    assert json.loads((folder / "figures" / f"{TITLE}.json").read_text())["description"].startswith("The share")


def test_python_gives_the_same_as_named_arrays(runs):
    done = inlearn.open("tiny", runs).checkpoint("best").analyse("probe", *QUICK)
    data = done.data
    assert data["score"].dims == ("network", "activation", "target")
    own = float(data["score"].sel(network="trained", activation="embed", target="current_input"))
    assert own > 0.99
    assert [path.name for path in done.figures] == [f"{TITLE}.svg"]


def test_a_second_call_reads_what_the_first_one_kept(command, runs):
    checkpoint = inlearn.open("tiny", runs).checkpoint()
    first = checkpoint.analyse("probe", *QUICK)
    described = json.loads((first.path / "result.json").read_text())
    described["facts"]["rows"] = 777_777  # only who reads this file can say so
    (first.path / "result.json").write_text(json.dumps(described))
    status, out, _ = command("tiny", "probe", *QUICK, runs=runs)
    assert status == 0 and "777,777 rows" in out
    assert made(runs) == [first.path]
    checkpoint.analyse("probe", *QUICK, "seed=1")
    inlearn.open("tiny", runs).checkpoint(15).analyse("probe", *QUICK)
    assert len(made(runs)) == 3


def test_a_damaged_result_is_told(runs):
    checkpoint = inlearn.open("tiny", runs).checkpoint()
    kept = checkpoint.analyse("probe", *QUICK).path
    whole = (kept / "result.safetensors").read_bytes()
    for content in (whole[:-9], whole[:4], b""):
        (kept / "result.safetensors").write_bytes(content)
        with pytest.raises(EnvironmentFault, match="is damaged"):
            checkpoint.analyse("probe", *QUICK)
    (kept / "result.safetensors").unlink()
    with pytest.raises(EnvironmentFault, match="delete it to have it made again"):
        checkpoint.analyse("probe", *QUICK)


def limited(runs: Path, action: str) -> subprocess.CompletedProcess:
    """A process that may write no file larger than 4 KiB, and what becomes of it when it tries."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    code = f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.{action}); {limit}; {ENTER}"
    words = ["analyse", "tiny", "probe", *QUICK, "--runs", str(runs)]
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def test_a_full_disk_leaves_nothing(runs):
    full = limited(runs, "SIG_IGN")
    assert full.returncode == 1 and "cannot write" in full.stderr and "Traceback" not in full.stderr
    assert [path.name for path in runs.glob("*/analysis/*")] == [".lock"]


def test_what_is_killed_while_it_writes_leaves_no_result_and_is_swept_by_the_next(command, runs):
    killed = limited(runs, "SIG_DFL")
    assert killed.returncode == -signal.SIGXFSZ
    assert not [path for path in made(runs) if not path.name.startswith(".")]
    assert list(runs.glob("*/analysis/.*.aside"))
    assert command("tiny", "probe", *QUICK, runs=runs)[0] == 0
    assert [path.name[:6] for path in made(runs)] == ["probe-"]


def test_two_at_once_agree(runs):
    words = [sys.executable, "-c", ENTER, "analyse", "tiny", "probe", *QUICK, "--runs", str(runs)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [each.communicate()[0] for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert printed[0] == printed[1] and len(made(runs)) == 1


MISTAKES = [
    (["tiny", "prob"], "unknown analysis 'prob'; did you mean 'probe'?"),
    (["tiny", "probe", "row=5"], "unknown key 'row'; did you mean 'rows'?"),
    (["tiny", "probe", "rows=4"], "rows = 4: expected greater than or equal to 5"),
    (["tiny", "probe", "rows"], "'rows' is not key=value"),
    (["tiny", "probe", "rows=8", "rows=9"], "rows is given twice: 8 and 9"),
    (["tiny", "probe", "method=lda"], "method = lda: expected 'ridge' or 'logistic'"),
    (["tiny", "probe", "set=trian"], "unknown evaluation set 'trian'; did you mean 'train'?"),
    (["tiny", "probe", "targets=task_vectr"], "unknown target 'task_vectr'; did you mean 'task_vector'?"),
    (["tiny", "probe", "activations=blocks.0.outpt"], "unknown activation 'blocks.0.outpt'"),
    (["tiny", "probe", "activations=*.attention.pattern"], "has no value for each row and position"),
    (["tiny", "probe", "epochs=3"], "epochs has an effect with head_replacement = true alone"),
    (["tiny", "probe", "head_replacement=true", "method=ridge"], "method has an effect with head_replacement = false"),
    (["tiny", "probe", "head_replacement=true"], "answers are numbers here"),
    (["tiny@7", "probe"], "7"),
    (["tiny@first", "probe"], "expected best, last or a step"),
    (["nobody", "probe"], "no run 'nobody'"),
    (["tiny", "probe", "--device", "cdua"], "device = cdua"),
    (["words", "probe", "rows=5", "set=pairs", "targets=nothing"], "unknown target 'nothing'"),
]


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_paragraph_and_leaves_nothing(command, runs, words, expected):
    status, out, err = command(*words, runs=runs)
    assert status == 2, err
    assert expected in err and "Traceback" not in err and err.count("\n") == 1
    assert out == "" and made(runs) == []


def test_a_study_with_words_is_probed_and_its_head_replaced(command, runs):
    status, out, err = command("words", "probe", "rows=60", "targets=asked_place,pairs", "method=logistic", runs=runs)
    assert status == 0 and "asked_place" in out, err
    status, out, err = command("words", "probe", "rows=60", "head_replacement=true", "epochs=2", runs=runs)
    assert status == 0 and "parameters: new head" in out, err
    assert len(made(runs)) == 2


def test_help_names_the_verb(command, runs):
    status, out, _ = command("--help", runs=runs)
    assert status == 0 and "KEY=VALUE" in out
