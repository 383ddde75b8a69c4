"""Parameter counts of the published automata models (their table: specs of the upstream code, executed)."""

from __future__ import annotations

import pytest

from inlearn.core.spaces import Interface, Tokens
from inlearn.lab import discovery

HEADS = {"V=21, S=5": (21, 5), "V=21, S=8": (21, 8), "V=13, S=5": (13, 5)}
PUBLISHED = {
    ("lstm", 256, 2): (1_059_328, 1_060_096, 1_057_280),
    ("lstm", 256, 1): (532_992, 533_760, 530_944),
    ("lstm", 128, 2): (267_520, 267_904, 266_496),
    ("lstm", 128, 1): (135_424, 135_808, 134_400),
    ("lstm", 64, 2): (68_224, 68_416, 67_712),
    ("lstm", 64, 1): (34_944, 35_136, 34_432),
    ("lstm", 32, 2): (17_728, 17_824, 17_472),
    ("lstm", 32, 1): (9_280, 9_376, 9_024),
    ("gru", 256, 2): (796_160, 796_928, 794_112),
    ("gru", 64, 2): (51_584, 51_776, 51_072),
    ("rnn", 256, 2): (269_312, 270_080, 267_264),
    ("rnn", 64, 2): (18_176, 18_368, 17_664),
    ("rnn", 128, 2): (69_120, 69_504, 68_096),
    ("rnn", 256, 8): (1_057_280, 1_058_048, 1_055_232),
    ("rnn", 256, 5): (663_296,),
    ("rnn", 256, 16): (2_107_904,),
    ("rnn", 512, 2): (1_062_912,),
    ("rnn", 1024, 2): (4_222_976,),
    ("rnn", 64, 4): (34_688,),
    ("rnn", 64, 8): (67_712,),
}
TRANSFORMERS = {
    (64, 4, 64): (52_229, 52_424, 51_717),
    (64, 4, 128): (68_741, 68_936, 68_229),
    (32, 4, 64): (17_989, 18_088, 17_733),
    (128, 8, 256): (268_549, 268_936, 267_525),
    (256, 8, 512): (1_061_381, 1_062_152, 1_059_333),
}


def count(kind: str, problem: tuple[int, int], **settings: object) -> int:
    interface = Interface(Tokens(problem[0]), Tokens(problem[1]), 800)
    return sum(p.numel() for p in discovery.models()[kind](**settings).build(interface).parameters())


@pytest.mark.parametrize(("kind", "width", "layers"), PUBLISHED)
def test_recurrent_models(kind: str, width: int, layers: int) -> None:
    published = PUBLISHED[kind, width, layers]
    counted = tuple(count(kind, problem, width=width, layers=layers) for problem in HEADS.values())
    assert counted[: len(published)] == published


@pytest.mark.parametrize(("width", "heads", "mlp"), TRANSFORMERS)
def test_transformers(width: int, heads: int, mlp: int) -> None:
    asked = {"width": width, "heads": heads, "mlp": mlp, "positions": "rotary", "attention_bias": True}
    counted = tuple(count("transformer", problem, output_bias=True, **asked) for problem in HEADS.values())
    assert counted == TRANSFORMERS[width, heads, mlp]
