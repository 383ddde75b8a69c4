"""The ideal learners of RegBench, as log-probabilities (n, 20) at the scored positions, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inlearn.core.batch import Batch
from inlearn.core.contract import Mechanism
from inlearn.studies.automata.regbench_config import LETTERS, SEPARATOR, SYMBOLS

FLOOR = 1e-7  # the published evaluation's: what no n-gram has shown is not impossible


def legal_letters(legal: Tensor) -> Tensor:
    """(..., 18) bool from sums of powers of two (...)."""
    return (legal[..., None] >> torch.arange(LETTERS, device=legal.device)) & 1 > 0


def next_letter(legal: Tensor) -> Tensor:
    """(..., 18) float64: the true distribution of the next letter, each that may follow as likely as the others."""
    allowed = legal_letters(legal).double()
    return allowed / allowed.sum(-1, keepdim=True)


def _answers(probabilities: Tensor) -> Tensor:
    """(n, 20) logarithms of (n, 18): no learner answers with a separator or padding."""
    return F.pad(probabilities.log(), (0, SYMBOLS - LETTERS), value=-torch.inf)


@dataclass(frozen=True)
class Oracle:
    """Knows the machine, hence the node: uniform over the letters that may follow. Its loss is the words' entropy."""

    name: str = "oracle"
    mechanism: Mechanism = "none"

    def predict(self, batch: Batch) -> Tensor:
        return _answers(next_letter(batch.at_scored(batch.marks["legal"])))


@dataclass(frozen=True)
class Uniform:
    """Knows nothing: each of the 18 letters alike."""

    name: str = "uniform"
    mechanism: Mechanism = "none"

    def predict(self, batch: Batch) -> Tensor:
        shape = len(batch.scored), LETTERS
        return _answers(torch.full(shape, 1 / LETTERS, dtype=torch.float64, device=batch.weights.device))


@dataclass(frozen=True)
class BackOff:
    """Katz's back-off over the row's own n-grams of up to `order` letters, as the benchmark's authors compute it.

    Words begin with order - 1 blanks. A letter that was seen after these order - 1 has the share of this context's
    occurrences that it followed. An occurrence at the end of a word, or the present one, was followed by nothing; the
    share of those is spread over the other letters seen in the row, in proportion to the next lower order. Of letters
    that the row has not shown, and of what is left where every letter was seen after the context, the authors say
    nothing: FLOOR is added to each probability, as in their loss, and the sum made 1.
    """

    order: int
    mechanism: Mechanism = "context"

    @property
    def name(self) -> str:
        return {1: "unigram", 2: "bigram", 3: "trigram"}.get(self.order, f"{self.order}-gram")

    def predict(self, batch: Batch) -> Tensor:
        shares = self.shares(batch.inputs).flatten(0, 1)[batch.scored] + FLOOR
        return _answers(shares / shares.sum(-1, keepdim=True))

    def shares(self, inputs: Tensor) -> Tensor:
        """(N, T, 18) the published probabilities after each of the inputs (N, T), by those up to it alone."""
        shown = F.one_hot(inputs.clamp(max=LETTERS), LETTERS + 1)[..., :LETTERS].double()
        counts = shown.cumsum(1)  # of the first t + 1 symbols
        found = counts / counts.sum(-1, keepdim=True)
        for order in range(2, self.order + 1):
            counts, visits = _counts(_contexts(inputs, order - 1), shown)
            seen = counts / visits[..., None]
            rest = found.masked_fill(counts > 0, 0.0)
            spread = (1.0 - seen.sum(-1, keepdim=True)) / rest.sum(-1, keepdim=True).clamp(min=torch.finfo().tiny)
            found = seen + spread * rest
        return found


def _contexts(inputs: Tensor, length: int) -> Tensor:
    """(N, T + 1) one number for the `length` letters before each place of a row and after its last; blanks before a
    word's first letter count as letters."""
    codes = torch.zeros(len(inputs), inputs.shape[1] + 1, dtype=torch.int64, device=inputs.device)
    blank = torch.zeros_like(codes, dtype=torch.bool)
    for back in range(1, length + 1):
        symbol = F.pad(inputs, (back, 0), value=SEPARATOR)[:, : codes.shape[1]]
        blank |= symbol == SEPARATOR
        codes = codes * (SYMBOLS + 1) + torch.where(blank, SEPARATOR, symbol)
    return codes


def _counts(contexts: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """(N, T, 18) how often each letter followed the present context before, and (N, T) how often this stood there, now
    included: at the places after each of T inputs. Equal contexts are brought together, where counting is a sum."""
    contexts, order = contexts.sort(dim=-1, stable=True)
    place = torch.arange(contexts.shape[1], device=contexts.device)
    changes = F.pad(contexts[:, 1:] != contexts[:, :-1], (1, 0))
    begin = (place * changes).cummax(-1).values  # where the present context's places start
    follows = F.pad(shown, (0, 0, 0, 1)).gather(1, order[..., None].expand(-1, -1, LETTERS))
    before = follows.cumsum(1) - follows
    counts = before - before.gather(1, begin[..., None].expand_as(before))
    back = order.argsort(-1)[:, 1:]
    return counts.gather(1, back[..., None].expand(-1, -1, LETTERS)), (place - begin + 1).gather(1, back)
