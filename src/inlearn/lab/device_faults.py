"""What is said of a run whose device fails under it, and how it stands then."""

from __future__ import annotations

from inlearn.core import device as devices
from inlearn.core.errors import EnvironmentFault
from inlearn.lab.build import Built
from inlearn.lab.execution import resume_command
from inlearn.runs.checkpoints import CheckpointStore
from inlearn.runs.folder import RunFolder


class DeviceFault(EnvironmentFault):
    """`state` is how it leaves the run: "interrupted" by a device that is lost, "failed" where its memory is full."""

    def __init__(self, message: str, state: str):
        super().__init__(message)
        self.state = state


def device_fault(error: BaseException, folder: RunFolder, built: Built) -> DeviceFault | None:
    """`error` in words, with the last checkpoint and how to go on from it; None where the device is not to blame."""
    kind = devices.fault_of(error)
    if kind is None:
        return None
    why = str(error).strip().partition("\n")[0]
    steps = CheckpointStore(folder.path).steps()
    kept = f"run {folder.id} is saved at step {steps[-1]:,}" if steps else f"run {folder.id} has no checkpoint yet"
    command = resume_command(folder, built.ranks)
    if kind == "lost":
        return DeviceFault(f"{built.device} was lost ({why}); {kept}; go on with: {command}", "interrupted")
    room = "fewer runs at once on this device, or a smaller training.batch, leave more room"
    return DeviceFault(f"the memory of {built.device} is full ({why}); {room}; {kept}; go on with: {command}", "failed")
