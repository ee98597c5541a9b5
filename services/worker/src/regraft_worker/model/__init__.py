"""The decoder: one module for every model family, driven by the switches of `regraft.families.Architecture`."""

from regraft_worker.model.decoder import Decoder
from regraft_worker.model.loss import TokenCounts, count_tokens, divisor_of, mean_loss, training_loss

__all__ = ["Decoder", "TokenCounts", "count_tokens", "divisor_of", "mean_loss", "training_loss"]
