"""The commands of this service, for the entry points."""

from regraft_worker.cli_convert import convert, export, sample_checkpoint
from regraft_worker.cli_train import evaluate, train

__all__ = ["convert", "evaluate", "export", "sample_checkpoint", "serve", "train"]


def serve() -> None:
    """Run a compute worker: takes `convert`, `train`, `evaluate` and `export` stages until stopped."""
    from regraft_worker.tasks import serve as run_worker

    run_worker()
