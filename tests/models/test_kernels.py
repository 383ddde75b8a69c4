"""Kernel libraries: when one serves, what is said when none does, and how their tensors lie.

No library of the kind computes on a CPU. Here stand packages of the same names whose functions have the published
signatures and compute by the published recurrences; on a card tests/gpu holds the libraries themselves to our forms.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inlearn.lab.session import resume, start
from inlearn.models import gated_deltanet, kernels, linear_attention
from inlearn.models.gated_deltanet import unit
from inlearn.models.gated_deltanet_config import GatedDeltaNetConfig
from inlearn.models.linear_attention_config import LinearAttentionConfig
from inlearn.models.mamba_config import MambaConfig
from inlearn.models.selective_scan import selective_scan
from inlearn.models.transformer_config import TransformerConfig

CUDA, CPU = torch.device("cuda"), torch.device("cpu")

FLA = """
import torch

def chunk_gated_delta_rule(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, **rest):
    assert not rest and all(x.is_contiguous() for x in (q, k, v, g, beta)) and initial_state.dim() == 4
    S, reads = initial_state, []
    for t in range(q.shape[1]):
        S = S * g[:, t, :, None, None].exp()
        new = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], S))
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, t], new)
        reads.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], S))
    return torch.stack(reads, 1), S if output_final_state else None

def chunk_linear_attn(q, k, v, scale=None, initial_state=None, output_final_state=False, normalize=True):
    assert not normalize and initial_state.dim() == 4
    S = initial_state.unsqueeze(1) + torch.einsum("bthk,bthv->bthkv", k, v).cumsum(1)
    return scale * torch.einsum("bthk,bthkv->bthv", q, S), S[:, -1] if output_final_state else None
"""

MAMBA = """
import torch

def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    B, C = (x.repeat_interleave(u.shape[1] // x.shape[1], 1) for x in (B, C))  # of the groups, to channels
    h, reads = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        h = (delta[:, :, t, None] * A).exp() * h + (delta * u)[:, :, t, None] * B[..., t]
        reads.append((h * C[..., t]).sum(-1))
    return torch.stack(reads, 2)
"""

FAILS = "raise RuntimeError('no kernel image is available\\nfor this card')"


def package(folder: Path, name: str, version: str, modules: dict[str, str]) -> None:
    """A package as pip would install it, on the path."""
    for module, source in modules.items():
        path = folder / Path(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for packages, at the front of the path; forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("TRITON_F32_DEFAULT", "")
    yield folder
    kernels.use("torch", TransformerConfig(), CPU, "float32")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("fla", "mamba_ssm")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def install(site: Path, version: str = "0.6.0", fla: str = FLA, mamba: str = MAMBA) -> None:
    package(site, "fla-core", version, {"fla.ops.gated_delta_rule": fla, "fla.ops.linear_attn": fla})
    package(site, "mamba-ssm", "2.3.2", {"mamba_ssm.ops.selective_scan_interface": mamba})


# ---------------------------------------------------------------- when a library serves, and what is said


@pytest.mark.parametrize("asked", ["auto", "torch"])
def test_nothing_is_said_of_what_was_not_asked_for(asked: str, site: Path) -> None:
    for config in (TransformerConfig(), GatedDeltaNetConfig(), LinearAttentionConfig(), MambaConfig()):
        assert kernels.use(asked, config, CPU, "float32") == ("torch", None)
        assert kernels.use(asked, config, CUDA, "float32") == ("torch", None)  # nothing is installed


def test_why_a_library_does_not_serve(site: Path) -> None:
    def line(config, device: torch.device, precision: str = "float32") -> str:
        used, why = kernels.use("library", config, device, precision)
        assert used == "torch" and "\n" not in why
        assert why.startswith("kernels: torch, though execution.kernels = library: ")
        return why.rpartition("library: ")[2]

    assert line(TransformerConfig(), CUDA).startswith("model = transformer is in no kernel library that is known")
    assert line(GatedDeltaNetConfig(), CPU) == "flash-linear-attention computes on CUDA devices, and this is cpu"
    missing = "flash-linear-attention is not installed (pip install flash-linear-attention)"
    assert line(GatedDeltaNetConfig(), CUDA) == line(LinearAttentionConfig(), CUDA) == missing
    assert line(MambaConfig(), CUDA) == "mamba-ssm is not installed (pip install mamba-ssm)"
    install(site)
    assert line(GatedDeltaNetConfig(), CUDA, "float64") == "flash-linear-attention has no float64"
    wide = GatedDeltaNetConfig(key_width=257)
    assert line(wide, CUDA) == "keys of 257 are wider than flash-linear-attention takes (256)"


def test_a_library_that_is_old_or_fails_is_told_of_unasked(site: Path) -> None:
    install(site, "0.3.9", mamba=FAILS)
    used, why = kernels.use("auto", LinearAttentionConfig(), CUDA, "float32")
    assert used == "torch" and "fla-core is 0.3.9, older than 0.4 (pip install -U flash-linear-attention)" in why
    used, why = kernels.use("auto", MambaConfig(), CUDA, "float32")
    assert used == "torch" and why.endswith("mamba-ssm fails here: RuntimeError: no kernel image is available")
    assert not kernels._in_use


@pytest.mark.parametrize("config", [LinearAttentionConfig(), GatedDeltaNetConfig(value_width=5), MambaConfig()])
def test_a_library_is_tried_once_at_the_model_s_sizes(config, site: Path) -> None:
    install(site)
    torch.set_float32_matmul_precision("highest")
    kernels.load(kernels.LIBRARIES[config.kind], config, CPU)
    assert os.environ["TRITON_F32_DEFAULT"] == "ieee"  # execution.matmul = float32
    assert list(kernels._in_use) == [config.kind]
    assert not kernels.serving(config.kind, torch.zeros(1))  # a CPU's tensors are ours


def test_a_kernel_that_fails_in_backward_is_found_out(site: Path) -> None:
    broken = FLA.replace("S, reads = initial_state, []", "S, reads = initial_state.detach(), []; v = v.detach()")
    broken = broken.replace("    for t in", "    q, k, g, beta = (x.detach() for x in (q, k, g, beta))\n    for t in")
    install(site, fla=broken)
    config = GatedDeltaNetConfig()
    with pytest.raises(RuntimeError, match="does not require grad"):
        kernels.load(kernels.LIBRARIES[config.kind], config, CPU)


# ---------------------------------------------------------------- how their tensors lie


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def outcomes(function, tensors: list[Tensor]) -> list[Tensor]:
    tensors = [x.detach().requires_grad_() for x in tensors]
    found = function(*tensors)
    loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in found)
    return [*found, *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("lead", [(), (3,)], ids=["solo", "stack"])
@pytest.mark.parametrize("kind", ["linear_attention", "gated_deltanet", "mamba"])
def test_members_rows_and_heads_meet_their_own(kind: str, lead: tuple[int, ...], site: Path) -> None:
    """Rows 2, positions 35, heads 4, keys 5, values 6; channels 8 of 7 states. Outputs, last state, gradients."""
    install(site)
    library = kernels.LIBRARIES[kind]
    kernels._in_use[kind] = getattr(importlib.import_module(library.module), library.function)
    q, k, v = some(*lead, 2, 35, 4, 5), unit(some(*lead, 2, 35, 4, 5) + 1), some(*lead, 2, 35, 4, 6)
    S, decay, beta = some(*lead, 2, 4, 5, 6), -some(*lead, 2, 35, 4).abs(), some(*lead, 2, 35, 4).sigmoid()
    if kind == "mamba":
        theirs = kernels.selective_scan
        u, delta = some(*lead, 2, 35, 8), some(*lead, 2, 35, 8).exp()
        given = [u, delta, -some(*lead, 8, 7).exp(), some(*lead, 2, 35, 7), some(*lead, 2, 35, 7) + 1]

        def ours(*x: Tensor) -> tuple[Tensor, Tensor]:
            return selective_scan(*x, torch.zeros(*lead, 2, 8, 7, dtype=torch.float64))
    elif kind == "linear_attention":
        theirs, ours, given = kernels.linear_attention, linear_attention.chunked, [q, k, v, S]
    else:
        theirs, ours, given = kernels.gated_delta_rule, gated_deltanet.chunked, [q, k, v, decay, beta, S]
    for one, other in zip(outcomes(theirs, given), outcomes(ours, given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- in a run


def quiet(text: str) -> None:
    pass


@pytest.mark.parametrize("form", ["solo", "stacked"])
def test_a_run_says_once_what_it_does_instead_and_records_it(form: str, tiny: tuple[str, ...], tmp_path: Path) -> None:
    small = ("model=gated_deltanet", "model.width=8", "model.heads=2", "model.layers=1", "training.until=1")
    asked = [*(word for word in tiny if not word.startswith("model.")), *small, f"engine={form}", "device=cpu"]
    run = start("regression", [*asked, "execution.kernels=library"], tmp_path, quiet)
    line = "kernels: torch, though execution.kernels = library: flash-linear-attention computes on CUDA devices"
    assert (run.path / "run.log").read_text().count(line) == 1
    assert [segment["kernels"] for segment in run.folder.segments] == ["torch"]
    resume(run.folder.id, ["execution.kernels=auto", "training.until=2"], tmp_path, quiet)
    log = (run.path / "run.log").read_text()
    assert log.count("kernels:") == 1 and "resumed elsewhere" not in log


def test_a_resume_by_other_kernels_says_so(tiny: tuple[str, ...], tmp_path: Path) -> None:
    run = start("regression", [*tiny, "training.until=15"], tmp_path, quiet)
    path = run.path / "environment.json"
    document = json.loads(path.read_text())
    document[-1]["kernels"] = "fla-core 0.6.0"
    path.write_text(json.dumps(document))
    resume(run.folder.id, ["training.until=20"], tmp_path, quiet)
    assert "kernels: fla-core 0.6.0 before, torch now" in (run.path / "run.log").read_text()
