from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_run_killed_at_any_instant_is_sound_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_writer.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    # Every save alone is a dozen operations, so fewer kills than this would mean that the hook saw little.
    assert counts["operations"] > 100 and counts["attempts"] > 20
