"""What the making of a dataset is given, once it has been checked."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.ports import Progress
from regraft.specs.stages import PrepareTask
from regraft_dataprep.corpus import CorpusFiles
from regraft_dataprep.hands import Hands
from regraft_dataprep.resources import Resources
from regraft_dataprep.sources.base import Inventory
from regraft_dataprep.tokenize import TextEncoder


@dataclass(frozen=True, slots=True)
class Given:
    """For `pipeline` and `adopt`."""

    task: PrepareTask
    corpus: CorpusFiles
    inventory: Inventory
    encoder: TextEncoder
    progress: Progress
    resources: Resources
    hands: Hands
