from __future__ import annotations

from inlearn.cli.common import RUNS, Root, RunName, say


def push(run: RunName, runs: Root = RUNS) -> None:
    """Send what an upload left behind: `inlearn push RUN --runs s3://bucket/lab`. Twice is as good as once."""
    from inlearn.core.errors import UserError
    from inlearn.lab.object_storage import push_run
    from inlearn.runs.folder import RunFolder
    from inlearn.runs.remote_root import url_of

    url = url_of(runs)
    if url is None:
        raise UserError(f"--runs {runs}: expected a URL such as s3://bucket/prefix; a local folder has nowhere to go")
    folder = RunFolder.open(runs, run)
    push_run(runs, folder.id, say)
    print(f"{url}/{folder.id}")
