from __future__ import annotations

from inlearn.cli.common import RUNS, Root, RunName


def show(run: RunName, runs: Root = RUNS) -> None:
    """Show one run: what was asked, where it is, its checkpoints and its latest numbers."""
    import yaml

    from inlearn.cli.common import print_table
    from inlearn.runs.checkpoints import CheckpointStore
    from inlearn.runs.folder import RunFolder
    from inlearn.runs.metrics import evaluation_table
    from inlearn.runs.remote_pull import known_steps

    folder = RunFolder.open(runs, run)
    status, store = folder.status, CheckpointStore(folder.path)
    print(f"run {folder.id}" + (f" ({folder.name})" if folder.name else "") + f" in {folder.path}")
    print(f"{status.state} at step {status.step:,}" + (f": {status.reason}" if status.reason else ""))
    steps = known_steps(folder.path)
    if steps:
        best = store.best()
        print(
            f"{len(steps)} checkpoints, {steps[0]:,} to {steps[-1]:,}"
            + (f"; best {best['step']:,} ({best['measure']} = {best['value']:.4g})" if best else "")
        )
    print(yaml.safe_dump(folder.config, sort_keys=False).rstrip())
    table = evaluation_table(folder)
    overall = table[table["by"] == ""]
    latest = overall[overall["step"] == overall["step"].max()]
    floors = overall[overall["step"].isna() & (overall["measure"] == "loss")]
    for title, part in ((f"step {overall['step'].max()}" if len(latest) else "", latest), ("ideal learners", floors)):
        if len(part):
            columns = ("set", "learner", "measure", "reference", "mean", "se", "unit")
            print_table(columns, part[list(columns)].itertuples(index=False), title)
