"""What tests of sweeps in processes of their own share."""

from __future__ import annotations

import subprocess
import time


def wait_until(condition, process: subprocess.Popen | None = None, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.02)
