"""Transformers that together use every option, and a slow second implementation to hold them to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inlearn.core.spaces import Interface, Tokens, Vectors
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.transformer import Transformer
from inlearn.models.transformer_config import TransformerConfig

WIDTH, LENGTH = 8, 12
VECTORS = Interface(Vectors(5), Vectors(5, answers=1), LENGTH)
TOKENS = Interface(Tokens(11), Tokens(11), LENGTH)
CLASSES = Interface(Tokens(11), Tokens(6), LENGTH)


@dataclass(frozen=True)
class Seeds:
    init: int = 0
    dropout: int = 0
    eval: int = 0


def config(**fields: object) -> TransformerConfig:
    return TransformerConfig(**{"width": WIDTH, "layers": 2, "heads": 2, "mlp": 10, "init": "uniform", **fields})


CASES: dict[str, tuple[TransformerConfig, Interface]] = {
    "regression": (config(activation="relu", residual="double"), VECTORS),
    "no_norm": (config(norm="none", output_projection=False, residual="double", embed_bias=True), VECTORS),
    "shortformer": (config(mlp=0, positions="shortformer", attention_bias=True, output_bias=True), TOKENS),
    "llama": (
        config(norm="rmsnorm", activation="swiglu", positions="rotary", heads=4, kv_heads=2, mlp_bias=False,
               head_bias=False, norm_eps=1e-6, init="truncated"),
        TOKENS,
    ),
    "tied": (
        config(tied=True, attention_bias=True, output_bias=True, head_bias=False, init="normal", init_std=0.3), TOKENS,
    ),
    "turns": (config(positions="rotary", rotary_scale=2 * math.pi, rotary_base=100.0, init="xavier"), CLASSES),
    "blind": (config(positions="none", activation="gelu_tanh", final_norm=False, kv_heads=1, init="gpt2"), CLASSES),
}  # fmt: skip


def built(case: str, init: int = 0, dtype: torch.dtype = torch.float64) -> Transformer:
    """The case's model with weights large enough that every part matters: biases and norms are moved off 0 and 1."""
    settings, interface = CASES[case]
    model = settings.build(interface)
    initialise(model, Seeds(init))
    generator = torch.Generator().manual_seed(100 + init)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype)


def some_inputs(case: str, rows: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    space, generator = CASES[case][1].inputs, torch.Generator().manual_seed(seed)
    if isinstance(space, Tokens):
        return torch.randint(space.size, (rows, steps), generator=generator)
    return torch.randn(rows, steps, space.dim, generator=generator, dtype=torch.float64).to(dtype)


def stacked(case: str, count: int, dtype: torch.dtype = torch.float64) -> tuple[Transformer, list[Transformer]]:
    solo = [built(case, init, dtype) for init in range(count)]
    return stack(solo), solo


# ---------------------------------------------------------------- the second implementation


def slow_outputs(model: Transformer, inputs: Tensor) -> Tensor:
    """Row by row, head by head, key by key, from the formulas and the parameters' names alone."""
    return torch.stack([_slow_row(model, row) for row in inputs])


def _slow_row(model: Transformer, row: Tensor) -> Tensor:
    c, w = model.config, dict(model.named_parameters(remove_duplicate=False))
    tokens = not row.is_floating_point()
    x = w["embedding.weight"][row] if tokens else _affine(w, "embedding", row)
    table = w["table.weight"][: len(row)] if "table.weight" in w else torch.zeros_like(x)
    if c.positions == "learned":
        x = x + table
    for layer in range(c.layers):
        here = f"blocks.{layer}"
        h = _normed(c, w, f"{here}.attention_norm", x)
        asking = h + table if c.positions == "shortformer" else h
        q, k = _affine(w, f"{here}.attention.q", asking), _affine(w, f"{here}.attention.k", asking)
        added = _slow_attention(c, q, k, _affine(w, f"{here}.attention.v", h))
        if c.output_projection:
            added = _affine(w, f"{here}.attention.o", added)
        y = x + added
        if c.mlp_width:
            h = _normed(c, w, f"{here}.mlp_norm", y)
            up = _affine(w, f"{here}.mlp.up", h)
            if c.activation == "swiglu":
                gate = _affine(w, f"{here}.mlp.gate", h)
                hidden = gate / (1 + torch.exp(-gate)) * up
            elif c.activation == "relu":
                hidden = up.clamp(min=0)
            elif c.activation == "gelu":
                hidden = up * (1 + torch.erf(up / math.sqrt(2))) / 2
            else:
                hidden = up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))) / 2
            y = y + _affine(w, f"{here}.mlp.down", hidden)
        x = x + y if c.residual == "double" else y
    if c.final_norm:
        x = _normed(c, w, "final_norm", x)
    return _affine(w, "head", x)


def _affine(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    product = x @ w[f"{name}.weight"].T
    return product + w[f"{name}.bias"] if f"{name}.bias" in w else product


def _normed(c: TransformerConfig, w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    if c.norm == "none":
        return x
    if c.norm == "layernorm":
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * w[f"{name}.weight"]
    return x + w[f"{name}.bias"] if c.norm == "layernorm" else x


def _slow_attention(c: TransformerConfig, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    d, out = c.head_width, torch.zeros(len(q), c.width, dtype=q.dtype)
    for head in range(c.heads):
        shared = head * c.key_heads // c.heads
        mine, theirs = slice(head * d, (head + 1) * d), slice(shared * d, (shared + 1) * d)
        for t in range(len(q)):
            scores = []
            for s in range(t + 1):
                a, b = q[t, mine], k[s, theirs]
                if c.positions == "rotary":
                    a, b = _slow_turn(c, a, t), _slow_turn(c, b, s)
                scores.append(a @ b / math.sqrt(d))
            weight = torch.stack(scores).softmax(0)
            out[t, mine] = weight @ v[: t + 1, theirs]
    return out


def _slow_turn(c: TransformerConfig, x: Tensor, t: int) -> Tensor:
    """Component pairs (i, i + d/2) as complex numbers, multiplied by a unit one."""
    half = len(x) // 2
    pairs = torch.complex(x[:half], x[half:])
    angle = torch.tensor([t * c.rotary_scale * c.rotary_base ** (-i / half) for i in range(half)], dtype=torch.float64)
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag))
