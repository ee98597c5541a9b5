"""The commands of this service, for the entry points."""

from regraft_worker.cli_convert import convert, export, sample_checkpoint
from regraft_worker.cli_train import evaluate, train

__all__ = ["convert", "evaluate", "export", "sample_checkpoint", "train"]
