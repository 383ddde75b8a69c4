"""Started by torchrun: carries out many runs in one set of processes, since importing torch takes seconds.

    torchrun ... ranked_driver.py JOBS.json

JOBS.json lists {"study", "root", "overrides"}; each is what `inlearn run` does once its processes are connected.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from inlearn.lab import discovery, session
from inlearn.training.ranks import joined

with joined() as ranks:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        found = discovery.study(job["study"])
        session._start(found, job["overrides"], Path(job["root"]), lambda text: None, ranks)
