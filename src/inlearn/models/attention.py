"""Causal attention without parameters: queries meet segments of keys and values in one softmax.

Shapes: B rows (members folded in), T query positions, S keys, H heads in groups of G = H / K over K key heads of
width d. A segment is a pair of keys and values (B', S, K, d) with B' dividing B: row b reads row b // (B / B') of
it. The last segment is the rows' own; those before it are contexts that several rows share, read in full. Shared
keys are never copied out for each row: that is 28 times faster on branches of a long context (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Segment = tuple[Tensor, Tensor]

FEW_KEYS = 48  # on a CPU, up to here plain products beat the fused kernel (heads of 8: to 100, of 16: to 30)
VECTOR = 16  # torch's CPU softmax is twelve times slower on rows shorter than a vector register (0.33 ms, 3.9 ms)


@lru_cache(maxsize=64)
def causal_mask(
    first: int, stop: int, stride: int, keys: int, room: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(T, room): 0 where a query at first, first + stride, ... < stop may read one of the `keys`, else -inf."""
    with torch.inference_mode(False):
        query = torch.arange(first, stop, stride, device=device)[:, None]
        key = torch.arange(room, device=device)
        hidden = (key > query) | (key >= keys)
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


def own_mask(q: Tensor, own: Tensor, columns: slice, steps: int, spare: int = 0) -> Tensor:
    """The mask of queries at `columns` of the last `steps` own keys (B, S, K, d) and `spare` empty ones after them."""
    keys = own.shape[1]
    cached = keys - steps
    first, stop = cached + columns.start, cached + columns.stop
    return causal_mask(first, stop, columns.step or 1, keys, keys + spare, q.dtype, q.device)


def attend(q: Tensor, segments: Sequence[Segment], columns: slice, steps: int) -> Tensor:
    """(B, T, H, d) mixed values for q (B, T, H, d), whose queries stand at `columns` of the newest `steps` keys."""
    if not q.shape[1]:
        return q
    if len(segments) > 1:
        return _attend_shared(q, segments, own_mask(q, segments[-1][0], columns, steps))
    k, v = segments[0]
    if q.device.type == "cpu" and k.shape[1] <= FEW_KEYS:
        spare = max(0, VECTOR - k.shape[1])
        return _attend_few(q, k, v, own_mask(q, k, columns, steps, spare), spare)
    square = q.shape[1] == k.shape[1]
    mask = None if square or steps == 1 else own_mask(q, k, columns, steps)
    grouped = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=square, enable_gqa=grouped).transpose(1, 2)


def _attend_few(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, spare: int) -> Tensor:
    """Three plain steps, which beat the fused kernel on a CPU when keys are few; `spare` empty keys fill a vector."""
    B, T, H, d = q.shape
    S, K = k.shape[1:3]
    G = H // K
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    if spare:
        k, v = F.pad(k, (0, 0, 0, spare)), F.pad(v, (0, 0, 0, spare))
    k, v = k.reshape(B * K, S + spare, d), v.reshape(B * K, S + spare, d)
    q = q.transpose(1, 2).reshape(B * K, G * T, d)
    mask = mask if G == 1 else mask.repeat(G, 1)
    scores = torch.baddbmm(mask, q, k.mT, alpha=d**-0.5)
    return torch.bmm(scores.softmax(-1), v).view(B, H, T, d).transpose(1, 2)


def _attend_shared(q: Tensor, segments: Sequence[Segment], mask: Tensor) -> Tensor:
    """Rows are grouped by the context they share, so that each segment is one batched product with all its rows."""
    B, T, H, d = q.shape
    R, K = segments[0][0].shape[0], segments[0][0].shape[2]
    Q, G = B // R, H // K
    q = q.mul(d**-0.5).view(R, Q, T, K, G, d).permute(0, 3, 1, 4, 2, 5).contiguous()  # (R, K, Q, G, T, d)

    def grouped(x: Tensor) -> Tensor:  # (R * m, S, K, d) to (R, K, m, S, d)
        return x.unflatten(0, (R, -1)).permute(0, 3, 1, 2, 4)

    scores = []
    for k, _ in segments:
        m = k.shape[0] // R
        scores.append((q.view(R, K, m, -1, d) @ grouped(k).mT).view(R, K, Q, G, T, -1))
    scores[-1] = scores[-1] + mask
    pattern = torch.cat(scores, -1).softmax(-1)
    mixed = torch.zeros((), dtype=q.dtype, device=q.device)
    for part, (_, v) in zip(pattern.split([s.shape[-1] for s in scores], -1), segments, strict=True):
        m = v.shape[0] // R
        mixed = mixed + (part.reshape(R, K, m, -1, v.shape[1]) @ grouped(v)).view(R, K, Q, G, T, d)
    return mixed.permute(0, 2, 4, 1, 3, 5).reshape(B, T, H, d)


def expand(segments: Sequence[Segment], rows: int, heads: int) -> Segment:
    """The literal form: keys and values (rows, S, heads, d) of every row and head, copied out."""

    def whole(parts: Sequence[Tensor]) -> Tensor:
        own = torch.cat([part.repeat_interleave(rows // part.shape[0], 0) for part in parts], 1)
        return own.repeat_interleave(heads // own.shape[2], 2)

    keys, values = zip(*segments, strict=True)
    return whole(keys), whole(values)


def append(segments: Sequence[Segment], k: Tensor, v: Tensor) -> list[Segment]:
    """The segments that rows (B, S, K, d) see after adding their own: one more if they fork, else the last longer."""
    if not segments:
        return [(k, v)]
    rows, before = k.shape[0], segments[-1][0].shape[0]
    if rows % before:
        raise ValueError(f"{rows} rows cannot continue the {before} rows of a state evenly")
    if rows > before:
        return [*segments, (k, v)]
    last_k, last_v = segments[-1]
    return [*segments[:-1], (torch.cat((last_k, k), 1), torch.cat((last_v, v), 1))]


@lru_cache(maxsize=64)
def rotation(base: float, scale: float, width: int, length: int, dtype: torch.dtype, device: torch.device) -> Segment:
    """cos and sin (length, 1, width / 2) of position * scale * base^(-2i / width) (Su et al. 2021), made in float64."""
    with torch.inference_mode(False):
        frequency = scale * base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = (torch.arange(length, dtype=torch.float64)[:, None] * frequency)[:, None]
        return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (..., T, H, d), component i turned with component i + d / 2.

    The layout that pairs neighbours instead is this one with the rows of the query and key weights reordered.
    """
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
