"""Several processes (torchrun, gloo) train what one process trains, and go on from each other's checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inlearn.core.errors import UserError
from inlearn.lab.session import resume, start
from inlearn.runs.folder import RunFolder
from inlearn.runs.lease import Lease
from inlearn.runs.trajectory import Trajectory
from inlearn.runs.verify import verify
from inlearn.training.ranks import Ranks, share_of

DRIVER = Path(__file__).parent / "ranked_driver.py"


def torchrun(processes: int, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, *options, *command]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "DEVICE": "cpu"}


def quiet(text: str) -> None:
    pass


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize("rows,together,world,parts", [(16, 1, 3, 2), (256, 1, 3, 1), (12, 4, 3, 2), (20, 2, 3, 4)])
def test_shares_cover_a_batch_once_and_part_nothing(rows, together, world, parts):
    covered, counts = [], set()
    for rank in range(world):
        (start, own), spans = share_of(rows, together, Ranks(rank, world), parts)
        counts.add(len(spans))
        assert sum(count for _, count in spans) == own
        for first, count in spans:
            assert count > 0 and count % together == 0 and (start + first) % together == 0
            covered += range(start + first, start + first + count)
    assert covered == list(range(rows))
    assert len(counts) == 1  # each micro-batch is an exchange that every process takes part in


def test_alone_a_batch_is_cut_as_ever():
    assert share_of(16, 1, Ranks(), 4) == ((0, 16), [(0, 4), (4, 4), (8, 4), (12, 4)])


# ---------------------------------------------------------------- the same run


@pytest.fixture(scope="module")
def everything(tiny):
    """Dropout, clipping, micro-batches, a schedule, a trajectory: whatever several processes could get wrong."""
    return [
        *(text for text in tiny if not text.startswith(("training.steps", "training.rate"))),
        "training.steps=30",
        "training.rate=0.003",
        "model.dropout=0.2",
        "training.accumulate=2",
        "training.clip=0.5",
        "training.schedule=onecycle",
        'record.trajectory={"kind":"every","steps":4}',
    ]


CURRICULUM = [
    'training.phases=[{"steps":12,"study":{"task":{"noise_variance":0.01}}},{"steps":18,"optimiser":"fresh"}]',
    'training.stop={"measure":"loss","below":100.0,"every":20}',
    "training.optimiser=sgd",
    "training.optimiser.momentum=0.9",
]
"""Two phases and a condition that holds at step 20: the run ends there in every process."""

PREFIXED = ["model.width=16", "model.layers=2", "model.heads=2", "model.dropout=0.1", "training.batch=10",
            "training.steps=30", "training.accumulate=2", "queries=2", "record.training=5",
            "training.optimiser=adamw"]  # fmt: skip
"""Five contexts of two rows each: three processes get 2, 4 and 4 rows."""


@pytest.fixture(scope="module")
def cases(everything):
    lookup = str(Path(__file__).parents[1] / "lookup_study.py")
    return {
        "regression": ("regression", everything),
        "curriculum": ("regression", [*everything, *CURRICULUM]),
        "lookup": (lookup, PREFIXED),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cases):
    """Every case in one process."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("alone")
    return {name: start(study, asked, root / name, quiet).folder for name, (study, asked) in cases.items()}


QUICK = (("regression", "ddp", 3), ("lookup", "fsdp", 3), ("regression", "fsdp", 2), ("curriculum", "ddp", 2))
SLOW = (("curriculum", "fsdp", 3), ("lookup", "ddp", 3), ("regression", "fsdp", 3), ("regression", "ddp", 2),
        ("lookup", "ddp", 2), ("curriculum", "fsdp", 2))  # fmt: skip
RELAY = {3: ("ddp", 15), 2: ("fsdp", 22)}


def train_in_ranks(root: Path, cases: dict, chosen: tuple, relay: dict) -> None:
    for world in (3, 2):
        asked = [(name, parallel, cases[name]) for name, parallel, n in chosen if n == world]
        jobs = [
            {"study": study, "overrides": [*overrides, f"execution.parallel={parallel}"],
             "root": str(root / f"{name}-{parallel}-{world}")}
            for name, parallel, (study, overrides) in asked
        ]  # fmt: skip
        if world in relay:
            parallel, until = relay[world]
            overrides = [*cases["regression"][1], f"training.until={until}", f"execution.parallel={parallel}"]
            jobs.append({"study": "regression", "overrides": overrides, "root": str(root / "relay")})
        file = root / f"jobs-{world}.json"
        file.write_text(json.dumps(jobs))
        command = torchrun(world, str(DRIVER), str(file))
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr and "terminate" not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cases):
    """The quick cases in three and in two processes; and one run that passes from 1 to 3 to 2 to 1 process."""
    torch.set_num_threads(1)
    root, (_, asked) = tmp_path_factory.mktemp("ranks"), cases["regression"]
    relay = start("regression", [*asked, "training.until=7"], root / "relay", quiet)
    train_in_ranks(root, cases, QUICK, RELAY)
    resume(relay.id, ["training.until=none", "execution.parallel=auto"], root / "relay", quiet)
    return root


def only_run(root: Path) -> RunFolder:
    (path,) = (path for path in root.iterdir() if not path.name.startswith("."))
    return RunFolder(path)


def lines(folder: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(ours: RunFolder, alone: RunFolder) -> None:
    """The same files, and the same numbers in them up to rounding."""
    assert ours.id == alone.id and verify(ours) == verify(alone) == []
    assert (ours.status.state, ours.status.step) == ("finished", alone.status.step)
    here, there = (sorted(p.name for p in (f.path / "checkpoints").iterdir()) for f in (ours, alone))
    assert here == there
    for name in (name for name in there if name.isdigit()):
        for file in ("weights.safetensors", "optimiser.safetensors"):
            a, b = (load_file(f.path / "checkpoints" / name / file) for f in (ours, alone))
            assert a.keys() == b.keys() and all(a[k].dtype == b[k].dtype for k in b)
            for key in b:
                torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4, msg=f"step {name}, {key}")
    mine, theirs = lines(ours), lines(alone)
    assert [(x["event"], x["step"]) for x in mine] == [(x["event"], x["step"]) for x in theirs]
    for a, b in zip(mine, theirs, strict=True):
        if a["event"] == "training":
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
            assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
            assert (a["rate"], a["phase"]) == (b["rate"], b["phase"])
        else:
            assert a["mean"] == pytest.approx(b["mean"], rel=1e-3)


def assert_trained_so(ours: RunFolder, alone: RunFolder, parallel: str, world: int) -> None:
    assert_same_run(ours, alone)
    assert (ours.segments[0]["processes"], ours.segments[0]["parallel"]) == (world, parallel)


@pytest.mark.parametrize("case,parallel,world", QUICK)
def test_any_number_of_processes_makes_the_same_run(trained, alone, case, parallel, world):
    assert_trained_so(only_run(trained / f"{case}-{parallel}-{world}"), alone[case], parallel, world)


@pytest.mark.slow
def test_every_other_case(tmp_path, cases, alone):
    train_in_ranks(tmp_path, cases, SLOW, {})
    for case, parallel, world in SLOW:
        assert_trained_so(only_run(tmp_path / f"{case}-{parallel}-{world}"), alone[case], parallel, world)


def test_a_condition_holds_in_every_process_at_once(alone):
    assert alone["curriculum"].status.step == 20 and "is below 100" in alone["curriculum"].status.reason


@pytest.mark.parametrize("name", ["regression-ddp-3", "regression-fsdp-2"])
def test_a_trajectory_is_recorded(trained, alone, name):
    runs = (only_run(trained / name), alone["regression"])
    ours, theirs = (Trajectory.open(run.path / "trajectory").read() for run in runs)
    assert ours.step.values.tolist() == theirs.step.values.tolist() == [*range(0, 30, 4), 30]
    assert abs(ours.values - theirs.values).max() < 1e-5


def test_a_run_passes_between_numbers_of_processes(trained, alone):
    relay = only_run(trained / "relay")
    assert_same_run(relay, alone["regression"])
    passed = [(s["processes"], s["parallel"], s["from_step"]) for s in relay.segments]
    assert passed == [(1, "none", 0), (3, "ddp", 7), (2, "fsdp", 15), (1, "none", 22)]
    assert "processes: 3 before, 2 now; parallel: ddp before, fsdp now" in (relay.path / "run.log").read_text()


# ---------------------------------------------------------------- the command line: refusals, signals, kills


def inlearn(processes: int, root: Path, asked: list[str], options: tuple[str, ...] = ()) -> list[str]:
    module = ("-m", "inlearn.cli.main", "run", "regression", *asked, "--runs", str(root))
    return torchrun(processes, *module, options=options)


@contextlib.contextmanager
def launched(command: list[str]) -> Iterator[subprocess.Popen]:
    """torchrun at work; whatever happens, nothing of it is left afterwards."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        yield process
    finally:
        if process.poll() is None:
            for pid in [*children(process.pid), process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.communicate()


def await_checkpoints(process: subprocess.Popen, root: Path) -> None:
    while len(list(root.glob("*/checkpoints/*/manifest.json"))) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def long_run(everything: list[str]) -> list[str]:
    replaced = ("training.steps", "record.rolling", "record.checkpoints", "record.trajectory")
    kept = [text for text in everything if not text.startswith(replaced)]
    return [*kept, "training.steps=3000", "record.rolling=0.05", 'record.checkpoints={"kind":"never"}']


def test_interrupted_then_killed_it_goes_on(tmp_path, everything):
    """SIGTERM to torchrun saves; kill -9 of a process ends the others soon, and leaves a run that one goes on with."""
    asked = long_run(everything)
    with launched(inlearn(2, tmp_path, asked)) as first:
        await_checkpoints(first, tmp_path)
        first.send_signal(signal.SIGTERM)
        _, err = first.communicate(timeout=100)
    folder = only_run(tmp_path)
    saved = folder.status
    assert saved.state == "interrupted" and folder.path.joinpath("checkpoints", f"{saved.step:09d}").is_dir()
    assert f"is saved at step {saved.step:,}; go on with: torchrun --nproc-per-node 2" in err
    assert err.count("is saved at step") == 1

    with launched(inlearn(2, tmp_path, [*asked, "execution.parallel=fsdp"])) as second:
        while RunFolder(folder.path).status.step <= saved.step:
            assert second.poll() is None, second.stderr.read()
            time.sleep(0.02)
        os.kill(children(second.pid)[1], signal.SIGKILL)
        _, err = second.communicate(timeout=100)
    status = RunFolder(folder.path).status
    assert second.returncode == 1 and status.state == "interrupted" and status.step > saved.step, err
    assert err.count("another of the 2 processes that train this run is gone") == 1, err
    assert "inlearn/training" not in err  # no traceback of ours

    run = resume(folder.id, ["execution.parallel=auto", f"training.until={status.step + 3}"], tmp_path, quiet)
    assert run.folder.status.step == status.step + 3 and verify(run.folder) == []


def refused(processes: int, root: Path, asked: list[str]) -> str:
    """The one sentence with which all processes end, each with exit status 2."""
    logs = root / "logs"
    command = inlearn(processes, root / "runs", asked, ("--log-dir", str(logs), "--redirects", "3"))
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    statuses = set(re.findall(r"exitcode +: (-?\d+)", done.stderr))
    assert done.returncode == 1 and statuses <= {"2", "-15"} and "2" in statuses, done.stderr
    said = [line for path in logs.rglob("stderr.log") for line in path.read_text().splitlines() if line]
    assert len(said) == 1 and said[0].startswith("inlearn: "), said
    return said[0]


def test_a_refusal_of_the_first_process_ends_all_with_one_sentence(tmp_path, everything):
    """The run is held by this very process, which only the first of the others finds out."""
    run = start("regression", [*everything, "training.until=3"], tmp_path / "runs", quiet)
    with Lease(run.path):
        assert "is held by process" in refused(2, tmp_path, everything)
    assert run.folder.status.step == 3


@pytest.mark.slow
@pytest.mark.parametrize("asked,sentence", [
    (["execution.parallel=none"], "execution.parallel = none, but 2 processes were started; expected ddp or fsdp"),
    (["model.widht=3"], "unknown key 'model.widht'; did you mean 'model.width'?"),
    (["training.batch=1", "training.accumulate=1"], "leaves nothing for some of 2 processes"),
    (["device=mps"], "device = mps"),
])  # fmt: skip
def test_what_every_process_refuses_is_said_once(tmp_path, everything, asked, sentence):
    replaced = {text.partition("=")[0] for text in asked}
    kept = [text for text in everything if text.partition("=")[0] not in replaced]
    assert sentence in refused(2, tmp_path, [*kept, *asked])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("asked,environ,sentence", [
    (["execution.parallel=fsdp"], {}, "execution.parallel = fsdp needs several processes"),
    ([], {"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
    ([], {"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two': expected a number"),
])  # fmt: skip
def test_refused_without_others(tmp_path, everything, monkeypatch, asked, environ, sentence):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(sentence)):
        start("regression", [*everything, *asked], tmp_path, quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_starts_it_again_by_itself(tmp_path, everything):
    """`--max-restarts`: all processes begin anew after one was killed, from the last checkpoint."""
    asked = [*long_run(everything), "training.until=400"]
    with launched(inlearn(3, tmp_path, asked, ("--max-restarts", "1"))) as process:
        await_checkpoints(process, tmp_path)
        os.kill(children(process.pid)[2], signal.SIGKILL)
        _, err = process.communicate(timeout=200)
    folder = only_run(tmp_path)
    assert process.returncode == 0 and len(folder.segments) == 2, err
    assert (folder.status.state, folder.status.step) == ("finished", 400) and verify(folder) == []


@pytest.mark.slow
def test_a_full_disk_is_said_once_and_ends_all(tmp_path, everything):
    """The first process may write 100 kB a file, less than a checkpoint, while the other waits for it."""
    asked = [*(text for text in long_run(everything) if not text.startswith("model.width")), "model.width=32"]
    limited = f"ulimit -f 100; exec {shlex.join(inlearn(2, tmp_path, asked))}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 1 and done.stderr.count("inlearn: ") == 1, done.stderr
    assert only_run(tmp_path).status.state == "failed"


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_and_is_kept(tmp_path, lookup):
    """A user's own study that fails in the second process: its line is named once, and status.json has the reason."""
    text = Path(lookup).read_text().replace("from types import", "import os\nfrom types import")
    wrong = 'if os.environ.get("RANK") == "1" and at.step == 5: raise ValueError("no table")'
    after = "share = config.queries\n"
    study = tmp_path / "own.py"
    study.write_text(text.replace(after, f"{after}            {wrong}\n"))
    command = torchrun(2, "-m", "inlearn.cli.main", "run", str(study), *PREFIXED, "--runs", str(tmp_path / "runs"))
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 1 and done.stderr.count("inlearn: ") == 1, done.stderr
    assert re.search(r"inlearn: .*own.py, line \d+: ValueError: no table", done.stderr)
    status = only_run(tmp_path / "runs").status
    assert status.state == "failed" and "process 1 of 2 failed: UserError" in status.reason
    assert "no table" in status.reason


@pytest.mark.parametrize("optimiser", [
    ["training.optimiser=adamw", "training.optimiser.weight_decay=0.1"],
    pytest.param(["training.optimiser=sgd", "training.optimiser.momentum=0.9", "training.optimiser.weight_decay=0.1"],
                 marks=pytest.mark.slow),
])  # fmt: skip
def test_parameters_without_a_gradient_are_trained_as_in_one_process(tmp_path, everything, optimiser):
    """alone -> fsdp -> alone, alone -> ddp, and fsdp or ddp from the start make what one process makes by itself."""
    asked = [*everything, *optimiser]
    names = ("3", "9", "fsdp", "ddp", "3-fsdp", "3-ddp", "3-fsdp-3")
    step = {name: str(tmp_path / name) for name in names}

    def carry_out(launcher: list[str], *jobs: tuple[str, int, str | None, str]) -> None:
        keys = ("parallel", "steps", "source", "target", "overrides")
        listed = [dict(zip(keys, (*job, [*asked, f"execution.parallel={job[0]}"]), strict=True)) for job in jobs]
        (tmp_path / "jobs.json").write_text(json.dumps(listed))
        command = [*launcher, str(DRIVER.with_name("idle_driver.py")), str(tmp_path / "jobs.json")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=200)
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr

    carry_out([sys.executable], ("none", 3, None, step["3"]), ("none", 9, None, step["9"]))
    carry_out(
        torchrun(2),
        *((parallel, 9, None, step[parallel]) for parallel in ("fsdp", "ddp")),
        ("fsdp", 3, step["3"], step["3-fsdp"]),
        ("ddp", 6, step["3"], step["3-ddp"]),
    )
    carry_out([sys.executable], ("none", 3, step["3-fsdp"], step["3-fsdp-3"]))

    alone = load_file(step["9"])
    assert any(name.startswith("moments.") for name in alone)
    assert (alone["weights.first"] < 1).all()  # by weight decay: there is no gradient
    for name in ("fsdp", "ddp", "3-ddp", "3-fsdp-3"):
        ours = load_file(step[name])
        assert ours.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-4, msg=f"{name}, {key}")
