"""Scores of a model over a set of windows: loss, perplexity, accuracy, bits per byte.

Every counted token weighs the same, whatever batch it is in: sums over the set are divided once, at the end, in
float64. Perplexity is exp(sum of losses / number of tokens), not a mean of batches' perplexities. Bits per byte is the
sum of losses in bits over the bytes of text that the counted labels stand for. Results depend on the batch size and the
number of processes in the last bits only. Not for tasks with prompts and answers: there is no generation here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.errors import InvalidDataError
from regraft.hdf5 import LABELS, MASK, Windows
from regraft.specs import Scores
from regraft_worker.model.decoder import Decoder
from regraft_worker.model.loss import count_tokens
from regraft_worker.trainer.data import as_features, check_ids
from regraft_worker.trainer.sets import ScoredSet
from regraft_worker.trainer.targets import Target
from regraft_worker.trainer.world import Alone, World

Tick = Callable[[int], object]
"""Told how many batches of a set are done; raises to stop."""


def batches_of(scored: ScoredSet, batch_size: int) -> int:
    """How many batches a set is."""
    return math.ceil(scored.windows / batch_size)


def score(
    model: Decoder,
    scored: ScoredSet,
    *,
    batch_size: int,
    target: Target,
    precision: str,
    world: World | None = None,
    tick: Tick = lambda done: None,
) -> Scores:
    """Scores of one model on one set, without dropout; the same in every process, which share the batches.

    Raises:
        InvalidDataError: no token is counted, or the loss is not finite.
    """
    world = world or Alone()
    batches = batches_of(scored, batch_size)
    sums = torch.zeros(4, dtype=torch.float64)  # loss, tokens, right ones, bytes
    was_training = model.training
    model.eval()
    try:
        for start in range(0, batches, world.size):
            # All processes take part in every round, as sharded weights demand; what is too much is not counted.
            number = start + world.rank
            found = _batch(model, scored, min(number, batches - 1), batch_size, target=target, precision=precision)
            if number < batches:
                sums += found
            tick(min(start + world.size, batches))
    finally:
        model.train(was_training)
    loss_sum, tokens, correct, text_bytes = world.total(sums).tolist()
    return _scores(loss_sum, int(tokens), int(correct), int(text_bytes) if scored.token_bytes is not None else None)


def _batch(
    model: Decoder, scored: ScoredSet, number: int, batch_size: int, *, target: Target, precision: str
) -> torch.Tensor:
    """What one batch adds to the sums."""
    vocab_size = model.architecture.vocab_size
    windows = scored.dataset.rows(np.arange(number * batch_size, min((number + 1) * batch_size, scored.windows)))
    check_ids(windows, vocab_size=vocab_size)
    features = as_features(windows, device=target.device)
    with torch.no_grad(), target.autocast(precision):
        counts = count_tokens(model, features)
    text_bytes = 0 if scored.token_bytes is None else _text_bytes(windows, scored.token_bytes)
    numbers = [counts.loss_sum.item(), float(counts.tokens), float(counts.correct), float(text_bytes)]
    return torch.tensor(numbers, dtype=torch.float64)


def _text_bytes(windows: Windows, token_bytes: NDArray[np.int64]) -> int:
    return int(token_bytes[windows[:, LABELS][windows[:, MASK] != 0]].sum())


def _scores(loss_sum: float, tokens: int, correct: int, text_bytes: int | None) -> Scores:
    if tokens == 0:
        raise InvalidDataError(
            "no token of the held-out windows is counted in the loss", field="dataset", reason="empty_split"
        )
    loss = loss_sum / tokens
    if not loss < math.log(np.finfo(np.float64).max):  # also catches nan
        raise InvalidDataError(
            "the held-out loss is not a usable number",
            value=repr(loss),
            remedy="The checkpoint is broken, or training diverged: lower the learning rate.",
            reason="loss_not_finite",
        )
    return Scores(
        loss=loss,
        perplexity=math.exp(loss),
        accuracy=correct / tokens,
        tokens=tokens,
        bits_per_byte=loss_sum / math.log(2) / text_bytes if text_bytes else None,
    )
