"""What a worker of any engine does with one job."""

from __future__ import annotations

import sys
import traceback

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.runs.lease import Held
from inlearn.runs.remote_root import open_root, url_of
from inlearn.sweeps.engine import Job, Result


def carry_out(job: Job) -> Result:
    """Train the job's run in this process, or go on with it; never raises for what the run, user or machine did.

    A traceback of an unforeseen error goes to stderr, which engines keep in a file.
    """
    try:
        return _carry_out(job)
    except Held as error:
        return Result(job.id, "busy", str(error))
    except UserError as error:
        return Result(job.id, "refused", str(error))
    except EnvironmentFault as error:
        return Result(job.id, "failed", str(error))
    except KeyboardInterrupt:
        return Result(job.id, "interrupted", "broken off")
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return Result(job.id, "failed", f"{type(error).__name__}: {error}")


def _carry_out(job: Job) -> Result:
    from inlearn.lab import discovery
    from inlearn.lab.request import request
    from inlearn.lab.session import start

    root = open_root(job.root, refresh=False)
    found = discovery.study(job.study)
    now = request(found, job.overrides, root).id
    if now != job.id and url_of(root):  # start=RUN@last means another step since this machine looked
        now = request(found, job.overrides, open_root(job.root)).id
    if now != job.id:
        raise UserError(
            f"run {job.id} of the plan reads as run {now} here: the code, a preset or data changed since it was planned"
        )
    status = start(job.study, job.overrides, root, lambda text: None).folder.status
    return Result(job.id, status.state, status.reason)  # "finished" or "interrupted": others raise
