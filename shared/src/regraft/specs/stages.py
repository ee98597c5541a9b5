"""What a stage is given and what it hands back. Cores take these; workers store them as JSON.

Every `*_uri` that a task writes to is a folder that the stage owns or that is content-addressed; see storage.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from regraft.formats import FormatName, check_headless
from regraft.specs.base import Spec
from regraft.specs.dataset import DatasetSpec
from regraft.specs.monitoring import SetName, SetUri
from regraft.specs.target import AnyTarget
from regraft.specs.training import TrainingSpec

SHARD_BYTES = 5_000_000_000


class AttemptRef(Spec):
    """Which attempt of which stage a task is for, for marks outside of this deployment."""

    job: str
    stage: str
    epoch: int
    """The attempt's number, and its fencing token: it rises with each one."""


class PreflightTask(Spec):
    """Let the target's own tools look at a job before anything is spent on it."""

    checkpoint_uri: str
    """The base checkpoint, as in a job."""
    max_sequence_length: int
    training: TrainingSpec
    target: AnyTarget
    priority: str = "p2"
    """The job's."""
    output_uri: str
    """Folder for what the tools write."""
    attempt: AttemptRef | None = None


class PreflightResult(Spec):
    """It passed."""

    checked: str
    """`validate` or `compile`."""
    release: str


class PrepareTask(Spec):
    """Corpus to train and eval HDF5."""

    dataset: DatasetSpec
    tokenizer_uri: str
    """Tokenizer directory or `tokenizer.json`."""
    vocab_size: int | None = None
    """Rows of the model's embedding; a larger tokenizer is refused. Null: taken from `checkpoint_uri`."""
    checkpoint_uri: str | None = None
    """The model the dataset is for: its vocabulary and positions bound the dataset's. Null: not checked."""
    planned_windows: int | None = None
    """How many windows the job will read, for a word on its epochs. Null: not known, or one pass."""
    output_uri: str
    """Folder of all datasets; the dataset goes to `<output_uri>/<address>`."""


class PrepareResult(Spec):
    """A published dataset: `<uri>/train/*.h5`, `<uri>/eval/*.h5`, `<uri>/manifest.json`."""

    uri: str
    address: str
    cached: bool
    """True when it existed already."""
    documents: int
    train_examples: int
    eval_examples: int
    train_tokens: int
    """Tokens of the train split that are counted in the loss."""
    eval_tokens: int
    max_sequence_length: int
    max_token_id: int
    """Largest id the tokenizer can give."""
    epochs: float | None = None
    """How often the job will read each training window, when it says so."""


class ConvertTask(Spec):
    """Base checkpoint to a verified Hugging Face directory that training starts from."""

    checkpoint_uri: str
    """As in a job: a Hugging Face folder or file, or a Cerebras `.mdl`."""
    output_uri: str
    """Folder of all checkpoints; the result goes to `<output_uri>/<address>`."""


class ConvertResult(Spec):
    """A published checkpoint."""

    uri: str
    address: str
    cached: bool
    family: str
    parameters: int
    tensors: int
    vocab_size: int
    max_position_embeddings: int
    verified: bool
    """Always true of what is published: see `verification.json` in it."""


class TrainTask(Spec):
    """Dataset and checkpoint to trained checkpoints."""

    dataset_uri: str
    """A dataset folder (`train/`, `eval/`), or a flat folder of .h5 files, read as the train split."""
    checkpoint_uri: str
    """A Hugging Face directory."""
    training: TrainingSpec
    target: AnyTarget
    output_uri: str
    """Folder of this run; checkpoints go to `<output_uri>/step-<8 digits>`. A run found there is continued."""
    priority: str = "p2"
    """The job's, for targets with a queue of their own."""
    attempt: AttemptRef | None = None
    """Null: nobody supervises."""


class TrainResult(Spec):
    """The last checkpoint of a run."""

    uri: str
    step: int
    tokens_seen: int
    train_loss: float
    best_uri: str | None = None
    """With `keep_best`: the checkpoint with the best score."""
    stopped_early: str | None = None
    """Why the run ended before its last step; null: it did not."""


class EvaluateTask(Spec):
    """Score checkpoints on the held-out set, and on others."""

    dataset_uri: str
    checkpoints: dict[str, str]
    """Name (`base`, `trained`) to Hugging Face directory."""
    sets: dict[SetName, SetUri] = Field(default_factory=dict)
    """Further sets, such as `general`, by name; as in `EvaluationSpec.sets`."""
    max_windows: int | None = Field(None, ge=1)
    """Score only the first so many windows of each set; null: all."""
    batch_size: int
    precision: str = "fp32"
    target: AnyTarget
    output_uri: str
    """Folder that gets `evaluation.json`."""


class Scores(Spec):
    """Token-weighted scores over the whole held-out set."""

    loss: float
    """Mean cross entropy in nats per counted token."""
    perplexity: float
    """exp(loss)."""
    accuracy: float
    """Share of counted tokens whose most likely prediction is right."""
    tokens: int
    """Counted tokens."""
    bits_per_byte: float | None = None
    """loss * tokens / ln 2 / bytes of text that the counted tokens stand for: comparable between tokenizers. Null when
    the tokenizer's tokens are not known byte by byte."""


class Change(Spec):
    """What training changed on one set: trained against base."""

    loss: float
    """Difference; negative is better."""
    perplexity: float
    """trained / base - 1; negative is better."""
    accuracy: float
    """Difference; positive is better."""
    bits_per_byte: float | None = None
    """Difference; negative is better."""


class EvaluateResult(Spec):
    """The before/after table: what was learned on the job's own set, and what was forgotten on the others."""

    uri: str
    scores: dict[str, Scores]
    """Of each checkpoint on the job's own held-out windows."""
    perplexity_change: float | None = None
    """trained / base - 1, when both are there; negative is better."""
    sets: dict[str, dict[str, Scores]] = Field(default_factory=dict)
    """Of each checkpoint on each further set."""
    changes: dict[str, Change] = Field(default_factory=dict)
    """By set, when `base` and `trained` are there; the job's own is `val`."""


class ExportTask(Spec):
    """Trained checkpoint to the formats asked for."""

    checkpoint_uri: str
    formats: tuple[FormatName, ...]
    max_shard_bytes: int = Field(SHARD_BYTES, ge=1)
    """Largest weight file of the `hf` export."""
    headless: bool = False
    """The `hf` export without the language-model head."""
    output_uri: str
    """Folder that gets one folder per format."""
    provenance: dict[str, object] = Field(default_factory=dict)
    """Recorded in the model card and the manifest."""

    @model_validator(mode="after")
    def _headless_hugging_face(self) -> ExportTask:
        check_headless(self.formats, headless=self.headless)
        return self


class ExportResult(Spec):
    """Exported checkpoints."""

    artifacts: dict[str, str]
    """Format to folder."""
