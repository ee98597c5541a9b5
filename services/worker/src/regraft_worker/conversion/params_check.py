"""What of a job's training a Cerebras release cannot be told: refused, or left out and named."""

from __future__ import annotations

from collections.abc import Mapping

from regraft.cerebras_limits import check_training, refused
from regraft.specs import TrainingSpec
from regraft_worker.conversion.cs_config import check_constants, detect_family
from regraft_worker.conversion.formats import Format, Release


def keep_key(release: Release) -> str:
    """Only where the key is documented; an unknown one in `runconfig` is an error there."""
    return "keep_checkpoint_max" if release == (1, 8) else "max_checkpoints" if release >= (2, 0) else ""


def left_out(training: TrainingSpec, release: Release) -> list[str]:
    """What does not change the weights that come out, as sentences."""
    left = []
    if training.checkpoint.keep_best is not None:
        left.append("training.checkpoint.keep_best (Cerebras keeps the newest checkpoints only)")
    if release < (2, 3) and not keep_key(release):
        left.append("training.checkpoint.keep_last (no such key is known of this release)")
    if training.evaluate.sets:
        left.append("training.evaluate.sets (one set is scored while training)")
    return left


def check(training: TrainingSpec, section: Mapping[str, object], *, target: Format, max_sequence_length: int) -> None:
    """Refuse what would change the run and the release cannot be told.

    Raises:
        InvalidInputError: naming the field of the job.
    """
    check_constants(section, detect_family(section))
    positions = section.get("max_position_embeddings")
    if training.max_steps is None:
        raise refused("must be given", "training.max_steps", None, "Say how many steps; one pass cannot be expressed.")
    if isinstance(positions, int) and max_sequence_length > positions:
        raise refused(
            f"the model has only {positions} positions",
            "dataset.max_sequence_length",
            max_sequence_length,
            "Shorten the windows.",
        )
    check_training(training, name=target.name)
