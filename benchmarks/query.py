"""Many runs at once: SQL over 1,000 runs of 500 metric lines each, a summary of them, and how 10,000 runs stand.

    python benchmarks/query.py

Runs are made from one real run of the regression study: its configuration, its evaluation lines (overall and by
position) and its ideal learners' lines, with numbers of their own. Two mixtures: 400 training and 100 evaluation
lines a run, and 100 and 400. Each run has 144 lines of ideal learners beside them.

- warm: least of several, the files in the page cache, in one process; imports (0.3 s) are not counted
- CPU: least processor time of the same, over all threads: what it costs where others use the machine too
- cold: the files' pages dropped first (fadvise), the first query of a new process, imports counted
- states: 10,000 finished runs, `inlearn.runs.states.states` and the whole command `inlearn status PLAN`

Writes benchmarks/results/query.json.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measuring import fastest, print_table, store

import inlearn
from inlearn.runs.folder import RunFolder
from inlearn.runs.query import query
from inlearn.runs.states import states
from inlearn.sweeps.folder import store_plan
from inlearn.sweeps.plan import Plan
from inlearn.sweeps.planned import PlannedRun

RUNS, LINES, MANY = 1000, 500, 10_000
MIXTURES = {"100 evaluation lines of 500": 100, "400 evaluation lines of 500": 400}
BARS = {"query of 1,000 x 500 lines, ms": 1000.0, "status of 10,000 runs, ms": 2000.0}
QUERIES = {
    "last loss per run": "select run, arg_max(loss, step) from training group by run",
    "mean loss by learner": "select learner, avg(mean) from evaluations where measure = 'loss' and \"by\" = '' "
    "group by 1",
    "loss at the last step per run": "select run, arg_max(mean, step) from evaluations where learner = 'model' and "
    "set = 'train' and measure = 'loss' and \"by\" = '' group by run",
    "loss by position": "select level[1], avg(mean) from evaluations where learner = 'model' and set = 'gaussian' and "
    "measure = 'loss' and \"by\" = 'position' group by 1",
    "all columns of one run": "select * from evaluations where run = '{first}'",
    "finished runs": "select count(*) from runs where state = 'finished'",
    "losses beside configurations": "select config->'$.study.task.count', avg(mean) from evaluations join runs on "
    "run = id where learner = 'model' and set = 'train' and measure = 'loss' and \"by\" = '' group by 1",
}


def real_run(root: Path) -> RunFolder:
    words = ("preset=demo", "training.steps=40", "record.training=20", 'record.evaluations={"kind":"every","steps":20}')
    return inlearn.run("regression", *words, root=root).folder


def write_runs(root: Path, like: RunFolder, evaluations: int) -> list[PlannedRun]:
    """RUNS finished runs in 20 groups of 50 seeds, as a plan called bench."""
    lines = [json.loads(line) for line in (like.path / "metrics.jsonl").read_text().splitlines()]
    training = next(line for line in lines if line["event"] == "training")
    evaluated = [line for line in lines if line["event"] == "evaluation" and line["step"] == 0]
    ideal, study = ((like.path / name).read_bytes() for name in ("references.jsonl", "study.json"))
    rng, runs = random.Random(0), []
    for number in range(RUNS):
        id, seed, count = f"{rng.getrandbits(48):012x}", number % 50, 2 ** (number // 50)
        folder = root / id
        folder.mkdir(parents=True)
        document = json.loads(json.dumps(like.config))
        document["id"], document["config"]["study"]["task"]["count"] = id, count
        document["unhashed"]["seed"] = seed
        status = {"state": "finished", "step": 10_000, "reason": ""}
        for name, content in (("config.json", document), ("status.json", status)):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n")
        (folder / "study.json").write_bytes(study)
        (folder / "references.jsonl").write_bytes(ideal)
        made = [{**training, "step": 20 * step, "loss": 4 * rng.random()} for step in range(LINES - evaluations)]
        for place in range(evaluations):
            line, factor = evaluated[place % len(evaluated)], 0.5 + rng.random()
            mean = [None if value is None else factor * value for value in line["mean"]]
            made.append({**line, "step": 1000 * (place // len(evaluated)), "mean": mean})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x, separators=(",", ":")) + "\n" for x in made))
        words = (f"task.count={count}", f"seed={seed}")
        runs.append(PlannedRun(id, {"task.count": count, "seed": seed}, words, 10_000))
    store_plan(root, Plan(study="regression", name="bench"), runs)
    return runs


def cold(root: Path, sql: str) -> float:
    """Milliseconds of one query in a new process, the interpreter's start included, without cached pages."""
    os.sync()
    for path in root.rglob("*.json*"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    code = "import sys, inlearn; inlearn.query(sys.argv[2], root=sys.argv[1])"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(root), sql], check=True)
    return (time.perf_counter() - start) * 1e3


def processor(step: Callable[[], object]) -> float:
    """Least processor milliseconds of three calls, all threads together."""
    found = []
    for _ in range(3):
        start = time.process_time()
        step()
        found.append((time.process_time() - start) * 1e3)
    return min(found)


def queries(root: Path, runs: list[PlannedRun]) -> dict[str, dict[str, float]]:
    asked = {name: sql.format(first=runs[0].id) for name, sql in QUERIES.items()}
    opened = inlearn.open_runs("bench", root)
    steps = {name: (lambda sql=sql: query(root, sql)) for name, sql in asked.items()}
    steps["summarise, 20 groups of 50, paired"] = lambda: opened.summarise(pair="task.count")
    warm = fastest(steps, 60)
    found = {name: {"warm ms": warm[name], "CPU ms": processor(step)} for name, step in steps.items()}
    for name, sql in asked.items():
        found[name]["cold ms"] = cold(root, sql)
    return found


def many_states(root: Path) -> dict[str, float]:
    runs = []
    for number in range(MANY):
        id = f"{number:012x}"
        (root / id).mkdir(parents=True)
        (root / id / "status.json").write_text('{\n "state": "finished",\n "step": 60,\n "reason": ""\n}\n')
        runs.append(PlannedRun(id, {"seed": number}, (f"seed={number}",), 60))
    store_plan(root, Plan(study="regression", name="many"), runs)
    command = [str(Path(sys.executable).parent / "inlearn"), "status", "many", "--runs", str(root)]
    return fastest(
        {
            "states(), ms": lambda: states(root),
            "inlearn status PLAN, ms": lambda: subprocess.run(command, check=True, capture_output=True),
        },
        15,
    )


def main() -> None:
    results = {}
    with tempfile.TemporaryDirectory() as place:
        like = real_run(Path(place) / "like")
        for title, evaluations in MIXTURES.items():
            root = Path(place) / str(evaluations)
            runs = write_runs(root, like, evaluations)
            size = sum(path.stat().st_size for path in root.glob("*/*.jsonl")) / 1e6
            results[title] = {"JSON lines, MB": size, "queries": queries(root, runs)}
            print(f"\n{RUNS:,} runs, {title}: {size:.0f} MB")
            found = results[title]["queries"].items()
            rows = [(name, n["warm ms"], n["CPU ms"], n.get("cold ms", "-")) for name, n in found]
            print_table(("query", "warm ms", "CPU ms", "cold ms, with imports"), rows)
        standing = many_states(Path(place) / "many")
    for name, value in standing.items():
        print(f"{MANY:,} finished runs: {name} {value:.0f}")
    print(f"bars: {BARS}")
    load = {"load average at the end": os.getloadavg()[0]}
    store("query", load | {"mixtures": results, f"{MANY:,} finished runs": standing, "bars": BARS})


if __name__ == "__main__":
    main()
