"""Everything that depends on the kind of device, in one place.

cpu and cuda are tested; mps and xla are offered as torch offers them and are unproven here. mps has no float64, so
reference learners compute on the CPU whatever the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys

import torch

from inlearn.core.errors import UserError

NAMES = ("auto", "cpu", "cuda", "mps", "xla")
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


def _xla_installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch_xla") is not None


def available(name: str) -> bool:
    kind = name.partition(":")[0]
    checks = {
        "cpu": lambda: True,
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "xla": _xla_installed,
    }
    return kind in checks and checks[kind]()


def choose(asked: str) -> torch.device:
    """The device for `asked`; "auto" obeys DEVICE, then takes the first there is of cuda, xla, mps, cpu."""
    if asked == "auto":
        asked = os.environ.get("DEVICE") or next(n for n in ("cuda", "xla", "mps", "cpu") if available(n))
    if asked.partition(":")[0] not in NAMES[1:]:
        raise UserError(f"device = {asked}: expected one of {', '.join(NAMES)} (a number may follow: cuda:1)")
    if not available(asked):
        there = ", ".join(n for n in NAMES[1:] if available(n))
        raise UserError(f"device = {asked}: no such device here; there is: {there}")
    index = asked.partition(":")[2]
    if index and (not index.isdigit() or (asked.startswith("cuda") and int(index) >= torch.cuda.device_count())):
        raise UserError(f"device = {asked}: there are {torch.cuda.device_count()} such devices, numbered from 0")
    if asked.startswith("xla"):
        import torch_xla.core.xla_model as xla_model

        return xla_model.xla_device()
    return torch.device(asked)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bfloat16 matrix products with float32 weights, where asked for; nothing otherwise."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def set_matmul(asked: str, device: torch.device) -> None:
    """How float32 products are computed in this process: "float32", or on CUDA "tf32", with 10 bits of mantissa.

    TF32 keeps float32's range and adds up in float32; torch's own default lets cuDNN's recurrent layers use it, ours
    does not. Raises `UserError` where the device has none.
    """
    tf32 = asked == "tf32"
    if tf32 and device.type != "cuda":
        raise UserError(f"execution.matmul = tf32 on {device}: expected float32 (TF32 is a mode of CUDA devices)")
    if tf32 and torch.cuda.get_device_capability(device) < (8, 0):
        raise UserError(f"execution.matmul = tf32: {describe(device)} has no TF32 (Ampere and later do)")
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def fault_of(error: BaseException) -> str | None:
    """ "lost" where an error means that the device can compute no more for this process, "memory" where it is full;
    None where the device is not to blame."""
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    accelerator = getattr(torch, "AcceleratorError", ())  # since torch 2.8
    if isinstance(error, accelerator) or (isinstance(error, RuntimeError) and "CUDA error" in str(error)):
        return "memory" if "out of memory" in str(error) else "lost"
    return None


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks instead of giving them back to the kernel after every step.

    A step frees and takes the same few megabytes again; the page faults cost 8 % of a 20 ms step (22.4 ms against
    20.65 at batch 256, 92 against 85 at 1,024). Process-wide, so only a process that trains calls it.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):  # mallopt's parameters are glibc's own
        library.mallopt(-3, 1 << 29)  # M_MMAP_THRESHOLD
        library.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as info:
        model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()
