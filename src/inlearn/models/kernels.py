"""Recurrences by the kernels of other libraries, where they are installed and the device is a CUDA card.

Optional: each stands in for a torch form of ours that computes the same up to rounding (tests/gpu/test_kernels_on_a_gpu
holds them to it), and a process uses none until `use` says so. Nothing is imported before that.

The library's products of float32 follow `execution.matmul`, as torch's do; its state and decays are float32 always.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inlearn.models.options import ModelConfig


@dataclass(frozen=True)
class Library:
    """`function` of `module`, which the distribution `package` has from version `oldest` on; `pip` installs it."""

    pip: str
    package: str
    oldest: tuple[int, int]
    module: str
    function: str


# By the kind of the model. The oldest are those whose signatures were read.
LIBRARIES = {
    "linear_attention": Library(
        "flash-linear-attention", "fla-core", (0, 4), "fla.ops.linear_attn", "chunk_linear_attn"
    ),
    "gated_deltanet": Library(
        "flash-linear-attention", "fla-core", (0, 4), "fla.ops.gated_delta_rule", "chunk_gated_delta_rule"
    ),
    "mamba": Library("mamba-ssm", "mamba-ssm", (2, 2), "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"),
}
WIDEST = 256  # keys of a head that the gated delta rule's kernel takes
TORCH = "torch"

_in_use: dict[str, Callable] = {}


def use(asked: str, model: ModelConfig, device: torch.device, precision: str) -> tuple[str, str | None]:
    """Compute models in this process by a library's kernels, or not: execution.kernels = `asked`.

    Returns what serves, "torch" or a package and its version, and the sentence that says why it is not what was asked
    for, if it is not.
    """
    _in_use.clear()
    if asked == TORCH:
        return TORCH, None
    library = LIBRARIES.get(model.kind)
    why, expected = _why_not(library, model, device, precision)
    if library is not None and why is None:
        try:
            load(library, model, device)
            return f"{library.package} {importlib.metadata.version(library.package)}", None
        except Exception as error:  # a library made for another torch, compiler or card fails in ways of its own
            _in_use.clear()
            reason = str(error).strip().partition("\n")[0]
            why, expected = f"{library.pip} fails here: {type(error).__name__}: {reason}"[:300], False
    if asked == "auto" and expected:
        return TORCH, None
    return TORCH, f"kernels: torch, though execution.kernels = {asked}: {why}"


def load(library: Library, model: ModelConfig, device: torch.device) -> None:
    """Import a library's function and try it once, forward and backward, at the model's sizes."""
    os.environ["TRITON_F32_DEFAULT"] = "tf32" if torch.get_float32_matmul_precision() == "high" else "ieee"
    _in_use[model.kind] = getattr(importlib.import_module(library.module), library.function)
    steps = 70

    def some(*shape: int) -> Tensor:
        return torch.full(shape, 0.1, device=device, requires_grad=True)

    if model.kind == "mamba":
        inner, size = (1, steps, model.inner), (1, steps, model.state)
        y, last = selective_scan(some(*inner), some(*inner), -some(model.inner, model.state), some(*size), some(*size))
    else:
        gated = model.kind == "gated_deltanet"
        d, e = (model.key_head, model.value_head) if gated else (model.head_width,) * 2
        q, k, v = (some(1, steps, model.heads, width) for width in (d, d, e))
        S = some(1, model.heads, d, e)
        if gated:
            y, last = gated_delta_rule(q, k, v, -some(*q.shape[:-1]), some(*q.shape[:-1]), S)
        else:
            y, last = linear_attention(q, k, v, S)
    (y.sum() + last.sum()).backward()


def _why_not(
    library: Library | None, model: ModelConfig, device: torch.device, precision: str
) -> tuple[str | None, bool]:
    """What keeps a library from being imported, and whether nobody needs to hear of it who did not ask for one."""
    if library is None:
        return f"model = {model.kind} is in no kernel library that is known ({', '.join(LIBRARIES)} are)", True
    if device.type != "cuda":
        return f"{library.pip} computes on CUDA devices, and this is {device}", True
    try:
        version = importlib.metadata.version(library.package)
    except importlib.metadata.PackageNotFoundError:
        return f"{library.pip} is not installed (pip install {library.pip})", True
    if _numbers(version) < library.oldest:
        oldest = ".".join(map(str, library.oldest))
        return f"{library.package} is {version}, older than {oldest} (pip install -U {library.pip})", False
    if precision == "float64":
        return f"{library.pip} has no float64", True
    if model.kind == "gated_deltanet" and model.key_head > WIDEST:
        return f"keys of {model.key_head} are wider than {library.pip} takes ({WIDEST})", True
    return None, False


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def serving(kind: str, x: Tensor) -> bool:
    """Whether a library's kernel computes this kind of model for tensors like x."""
    return kind in _in_use and x.is_cuda


# Shapes: E members, N rows, T positions, H heads with keys of d and values of e, I channels of S states.


def linear_attention(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """As models.linear_attention.chunked."""
    first = state.flatten(0, -4)
    mixed, last = _in_use["linear_attention"](
        *(_rows(x) for x in (q, k, v)), scale=1.0, initial_state=first, output_final_state=True, normalize=False
    )
    return mixed.view(v.shape), last.view(state.shape)


def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """As models.gated_deltanet.chunked."""
    rows = (x.flatten(0, -3).contiguous() for x in (decay, beta))
    mixed, last = _in_use["gated_deltanet"](
        *(_rows(x) for x in (q, k, v)), *rows, scale=1.0, initial_state=state.flatten(0, -4), output_final_state=True
    )
    return mixed.view(v.shape), last.view(state.shape)


def _rows(x: Tensor) -> Tensor:
    """(..., N, T, H, d) with the members folded into the rows."""
    return x.flatten(0, -4).contiguous()


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """As models.selective_scan.selective_scan, from a state of zeros.

    The kernel knows no first state, and gives the last one no gradient. So S positions follow that neither decay nor
    add anything (delta = 0), and read one state each: what they read is the last state.
    """
    steps, size = u.shape[-2], B.shape[-1]
    lead = u.shape[:-3]
    one = torch.eye(size, dtype=C.dtype, device=C.device).expand(*C.shape[:-2], size, size)
    u, delta, B = (F.pad(x, (0, 0, 0, size)) for x in (u, delta, B))
    u, delta = (_channels(x) for x in (u, delta))
    B, C = (_groups(x) for x in (B, torch.cat((C, one), -2)))
    y = _in_use["mamba"](u, delta, A.flatten(0, -2), B, C)  # (N, E I, T + S)
    y = y.unflatten(1, (*lead, -1))
    y = y.movedim(1, 0) if lead else y
    return y[..., :steps].mT, y[..., steps:]


def _channels(x: Tensor) -> Tensor:
    """(N, T, I) or (E, N, T, I) to (N, E I, T), members side by side."""
    x = x.mT
    return (x if x.dim() == 3 else x.movedim(0, 1).flatten(1, 2)).contiguous()


def _groups(x: Tensor) -> Tensor:
    """(N, T, S) or (E, N, T, S) to (N, E, S, T): the channels of a member share them."""
    x = x.mT
    return (x.unsqueeze(1) if x.dim() == 3 else x.movedim(0, 1)).contiguous()
