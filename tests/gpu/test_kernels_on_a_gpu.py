"""The kernels of other libraries against our torch forms, on a card that has them."""

from __future__ import annotations

import pytest
import torch
from transformer_cases import Seeds

from inlearn.core import device as devices
from inlearn.core.spaces import Interface, Tokens
from inlearn.models import kernels
from inlearn.models.gated_deltanet_config import GatedDeltaNetConfig
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.linear_attention_config import LinearAttentionConfig
from inlearn.models.mamba_config import MambaConfig

pytestmark = pytest.mark.gpu

CONFIGS = {
    "linear_attention": LinearAttentionConfig(width=32, heads=2),
    "linear_attention-identity": LinearAttentionConfig(width=32, heads=2, feature_map="identity"),
    "gated_deltanet": GatedDeltaNetConfig(width=32, heads=2, value_width=32),
    "deltanet": GatedDeltaNetConfig(width=32, heads=2, gate=False),
    "mamba": MambaConfig(width=32),
}


@pytest.mark.parametrize(("matmul", "tolerance"), [("float32", 1e-4), ("tf32", 2e-2)])
@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("case", CONFIGS)
def test_a_library_computes_what_torch_does(case: str, members: int | None, matmul: str, tolerance: float) -> None:
    """Outputs and gradients of two parts of a sequence, the second after the first's state, against float64."""
    config, cuda = CONFIGS[case], torch.device("cuda")
    solo = [config.build(Interface(Tokens(11), Tokens(6), 200)) for _ in range(members or 1)]
    for seed, model in enumerate(solo):
        initialise(model, Seeds(seed))
    model = (solo[0] if members is None else stack(solo)).to(cuda)
    lead = () if members is None else (members,)
    inputs = torch.randint(11, (*lead, 4, 170), generator=torch.Generator().manual_seed(0)).to(cuda)

    def outcome() -> list[torch.Tensor]:
        first, state = model(inputs[..., :130])
        outputs = torch.cat((first, model(inputs[..., 130:], state)[0]), -2)
        loss = outputs.square().mean()
        return [outputs, *torch.autograd.grad(loss, list(model.parameters()))]

    try:
        devices.set_matmul(matmul, cuda)
        used, why = kernels.use("library", config, cuda, "float32")
        if used == kernels.TORCH:
            print(why)
            pytest.skip(why)
        found = outcome()
        kernels.use("torch", config, cuda, "float32")
        model = model.double()
        for one, exact in zip(found, outcome(), strict=True):
            off = float((one.double() - exact).norm() / exact.norm())
            assert off < tolerance, (tuple(exact.shape), off)
    finally:
        kernels.use("torch", config, cuda, "float32")
        devices.set_matmul("float32", cuda)
