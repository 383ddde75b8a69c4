"""A mistake is one paragraph on stderr and exit status 2 (1 where the machine is at fault); nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inlearn.cli.main import main


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Run the command line in this process; (status, stdout, stderr)."""

    def call(*words: str, runs: Path | None = None) -> tuple[int, str, str]:
        where = ["--runs", str(runs or tmp_path / "runs")] if words[0] in WITH_RUNS else []
        monkeypatch.setattr(sys, "argv", ["inlearn", *words, *where])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


ENTER = "from inlearn.cli.main import main; main()"
WITH_RUNS = {"run", "resume", "show", "ls", "evaluate", "report", "compare", "table", "verify", "reproduce"}

MISTAKES = [
    (["task.cuont=3"], "unknown key 'study.task.cuont'; did you mean 'study.task.count'?"),
    (["taks.count=3"], "unknown key 'taks"),
    (["task.count=0"], "task.count = 0"),
    (["task.count=-3"], "task.count = -3"),
    (["task.count=some"], "task.count = some"),
    (["task.noise_variance=-1"], "task.noise_variance = -1: expected greater than or equal to 0"),
    (["task.dimension=four"], "task.dimension = four"),
    (["model.width=30", "model.heads=4"], "width = 30 is not divisible by heads = 4"),
    (["model.heads=4", "model.kv_heads=3"], "heads = 4 is not divisible by kv_heads = 3"),
    (["model.positions=rotary", "model.width=12", "model.heads=4"], "even head width"),
    (["model.tied=true"], "model.tied = true"),
    (["model=transfomer"], "unknown model 'transfomer'; did you mean 'transformer'?"),
    (["preset=paper-l"], "unknown preset 'paper-l'; did you mean 'paper-lr'?"),
    (["device=cdua"], "device = cdua: expected one of auto, cpu, cuda, mps, xla"),
    (["device=mps"], "no such device here"),
    (["threads=0"], "threads = 0"),
    (["seed=1,2"], "reads as a sweep axis"),
    (["seed=range(5)"], "reads as a sweep axis"),
    (["seed=1", "seed=2"], "seed is given twice: 1 and 2"),
    (["training.until=20000"], "training.until = 20000 lies beyond training.steps = 10000"),
    (["training.accumulate=3"], "training.batch = 256 is not divisible by training.accumulate = 3"),
    (["training.schedule=cosin"], "unknown training.schedule 'cosin'; did you mean 'cosine'?"),
    (["training.schedule=exponential"], "training.schedule.half_life is missing"),
    (["training.optimiser=sgd", "training.optimiser.nesterov=true"], "nesterov=true needs momentum above 0"),
    (["training.stop={}"], "needs below"),
    (["record.best=trian/loss"], "record.best: 'trian' is no evaluation set; known: train"),
    (["record.best=train/los"], "record.best: 'los' is not measured on 'train'"),
    (['record.evaluations={"kind":"listed","steps":[99999]}'], "a recorded step is 99999, but training.steps = 10000"),
    (["start=nobody"], "expected RUN@best, RUN@last or RUN@STEP"),
    (["start=nobody@best"], "no run 'nobody'"),
    (["name=../x"], "name = ../x"),
    (["preset"], "'preset' is not key=value"),
    (["precision=float16"], "precision = float16"),
]


@pytest.mark.parametrize(
    ("overrides", "words"), MISTAKES, ids=lambda value: "_".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_in_a_run_is_refused_before_anything_is_made(command, tmp_path, overrides, words):
    status, out, err = command("run", "regression", *overrides)
    assert status == 2, err
    assert words in err and "Traceback" not in err
    assert err.count("\n") == 1, "one paragraph"
    assert out == ""
    left = [
        p
        for p in (tmp_path / "runs").rglob("*")
        if not any(part.startswith(".") for part in p.relative_to(tmp_path).parts)
    ]
    assert not left


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "regresion"], "unknown study 'regresion'; did you mean 'regression'?"),
        (["run", "mine.py"], "study mine.py: no such file"),
        (["resume", "nobody"], "no run 'nobody'"),
        (["show", "nobody"], "no run 'nobody'"),
        (["report", "nobody"], "no run 'nobody'"),
        (["verify", "nobody"], "no run 'nobody'"),
        (["presets", "regresion"], "unknown study"),
        (["describe", "regression", "task.count=0"], "task.count = 0"),
        (["models", "regression", "model=transformer", "model.width=7"], "width = 7"),
        (["table", "select nothing from nowhere"], "nowhere"),
        (["reproduce", "regression/flors"], "did you mean 'regression/floors'?"),
        (["reproduce"], "name a claim, or a tier"),
        (["doctor", "--device", "cdua"], "device = cdua"),
    ],
)
def test_other_verbs_refuse_as_plainly(command, words, expected):
    status, _, err = command(*words)
    assert status == 2, err
    assert expected in err and "Traceback" not in err


def test_a_full_disk_is_the_machines_fault(tiny, tmp_path):
    """A subprocess that may write no file larger than 4 KiB stands in for the disk that fills up."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    code = f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {limit}; {ENTER}"
    command = [sys.executable, "-c", code, "run", "regression", *tiny, "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot write" in done.stderr
    assert not list(tmp_path.rglob("*.aside"))


def test_a_read_only_folder_is_the_machines_fault(tiny):
    """/sys refuses even root."""
    command = [sys.executable, "-c", ENTER, "run", "regression", *tiny, "--runs", "/sys/runs"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "cannot write /sys/runs" in done.stderr and "Traceback" not in done.stderr


def test_a_study_that_cannot_be_imported_says_why(command, tmp_path):
    (tmp_path / "bad.py").write_text("import nothing_like_this\n")
    status, _, err = command("run", str(tmp_path / "bad.py"))
    assert status == 2 and "cannot be imported: ModuleNotFoundError" in err
    (tmp_path / "empty.py").write_text("x = 1\n")
    status, _, err = command("run", str(tmp_path / "empty.py"))
    assert status == 2 and "must define exactly one StudyConfig" in err


HINTS = [
    (["widht=32"], "unknown key 'widht'; did you mean 'model.width'?"),
    (["modle.width=32"], "did you mean 'model.width'?"),
    (
        ['training.phases=[{"step":100}]'],
        "unknown key 'training.phases.0.step'; did you mean 'training.phases.0.steps'?",
    ),
    (["seed=-1"], "seed = -1"),
    (["seed=99999999999999999999999"], "seed = 99999999999999999999999"),
    (["task.count=1000000000000"], "task.count = 1000000000000"),
    (["model.width=1000000000"], "model.width = 1000000000"),
    (["training.batch=1000000000"], "training.batch = 1000000000"),
    (["task.examples=1000000000"], "task.examples = 1000000000"),
    (["evaluation.rows=1000000000"], "evaluation.rows = 1000000000"),
    (["name=" + "x" * 300], "expected up to 100 letters"),
]


@pytest.mark.parametrize(
    ("overrides", "words"), HINTS, ids=lambda value: value[0][:24] if isinstance(value, list) else ""
)
def test_hints_and_limits(command, overrides, words):
    status, _, err = command("run", "regression", *overrides)
    assert status == 2 and words in err, err


def test_a_runs_folder_that_is_a_file(command, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = command("ls", runs=tmp_path / "file")
    assert status == 2 and "expected a folder, found a file" in err
    assert "no runs in" in command("ls", runs=tmp_path / "nowhere")[2]
    assert command("table", "")[0] == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return LookupStudy()", "return None", "build() returned NoneType; expected a Study"),
        ("share = config.queries\n", "share = config.queris\n", "line 51: AttributeError"),
    ],
)
def test_a_mistake_in_a_users_study_names_its_line(command, lookup, tmp_path, old, new, words):
    text = Path(lookup).read_text()
    assert old in text
    (tmp_path / "mine.py").write_text(text.replace(old, new, 1))
    status, _, err = command("run", str(tmp_path / "mine.py"), "preset=small")
    assert status == 2 and words.partition(": ")[2] in err and "Traceback" not in err, err
    if "line" in words:
        assert "mine.py, line " in err
