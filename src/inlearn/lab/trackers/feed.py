"""Messages to a process of its own that talks to a tracker's service: nothing it does can stop or slow a run."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import inlearn

WAITING = 50_000
"""Messages that may wait for a process that is slow; more mean that it hangs."""


class Feed:
    """Runs `python -m MODULE` and sends it one JSON object a line; each object it prints goes to `hear`.

    An object `{"error": …}` is the process's last word. `send` never waits. Both `send` and `close` raise
    `RuntimeError` once the process is dead or does not keep up.
    """

    def __init__(self, module: str, log: Path, hear: Callable[[Mapping[str, Any]], None]):
        self.hear, self.log, self.last_word = hear, log, ""
        log.parent.mkdir(parents=True, exist_ok=True)
        package = str(Path(inlearn.__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # Ctrl-C in the terminal is for the run
            )
        self._waiting: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        if self.process.poll() is not None:
            self.close(0.0)
        try:
            self._waiting.put_nowait(json.dumps(message, allow_nan=False).encode() + b"\n")
        except queue.Full:
            self.kill()
            raise RuntimeError(f"{WAITING:,} messages wait unread (see {self.log})") from None

    def close(self, limit: float) -> None:
        """Let the process read all that waits and end by itself, for at most `limit` seconds."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"it did not finish within {limit:g} s (see {self.log})") from None
        except BaseException:
            self.kill()
            raise
        self._end()
        if self.process.returncode:
            why = self.last_word or f"its process ended with status {self.process.returncode} (see {self.log})"
            raise RuntimeError(why)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        for thread in self._threads:
            thread.join()
        self.process.stdout.close()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # the process is gone: `send` will say so
            while (message := self._waiting.get()) is not None:
                self.process.stdin.write(message)
                self.process.stdin.flush()
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            if not line.endswith(b"\n"):
                return  # killed in the middle of a word
            message = json.loads(line)
            if "error" in message:
                self.last_word = message["error"]
            else:
                self.hear(message)
