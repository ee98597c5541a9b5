"""The units of work of a preparation, and doing any one of them in any process that sees the work folder.

`setup` says what is prepared. `<encoder>-<number>` is a part of the corpus, cleaned and tokenised. `plan` says what
becomes of every document. `train-<number>` and `eval-<number>` are HDF5 files. Parts come first, files after the plan;
within each kind the order is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from regraft.specs.cleaning import NearDuplicatesStep
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft_dataprep.cleaning import Cleaner
from regraft_dataprep.corpus import CorpusFiles
from regraft_dataprep.decide import EVAL, TRAIN, Sides
from regraft_dataprep.encoders import Loaded, PartEncoders, load_both
from regraft_dataprep.piece_writer import PieceOptions, PieceWriter
from regraft_dataprep.pieces import Piece, open_piece
from regraft_dataprep.shards import ShardOptions, write_shard
from regraft_dataprep.sources.base import BadRecord, too_many
from regraft_dataprep.stream import SplitStream
from regraft_dataprep.tokenize import TextEncoder, load_tokenizer
from regraft_dataprep.windows import Evenly, Listed, Windows
from regraft_dataprep.work import WorkFolder

SPLITS = {"train": TRAIN, "eval": EVAL}
SETUP, PLAN, FALLBACK = "setup", "plan", "fallback"
LEAD = "lead"
"""Claimed by whoever prepares the dataset, as long as it does."""

_BYTES_PER_ENCODER = 128 * 2**20

Tick = Callable[[int, int], None]
"""Told how far a unit is: documents and tokens of a part, or windows of a file and 0."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """What a split consists of."""

    documents: int
    tokens: int
    windows: int
    piece_tokens: list[int]
    """Tokens that each piece gives to it."""


class Units:
    """A preparation as one process sees it; what several units need is loaded once."""

    def __init__(self, work: WorkFolder, *, loaded: Loaded | None = None) -> None:
        """`loaded`: the tokenizer of the task, where the caller has it."""
        self.work = work
        self._loaded = loaded
        setup = _setup(work)
        self.task = PrepareTask.model_validate(setup["task"])
        self.spec: DatasetSpec = self.task.dataset
        self.fast_encoder: str = setup["encoder"]
        self._part_bytes: int = setup["part_bytes"]
        self.corpus = CorpusFiles(self.spec, part_bytes=self._part_bytes)
        self._encoders: PartEncoders | None = None
        self._encoded = 0

    @cached_property
    def tokenizer(self) -> TextEncoder:
        """The tokenizer of the task."""
        if self._loaded is not None:
            return self._loaded.tokenizer
        return load_tokenizer(self.task.tokenizer_uri, special_tokens=self.spec.special_tokens)

    @property
    def encoder(self) -> str:
        """The encoder in use: the fast one until it was wrong once."""
        return "tokenizers" if self.work.is_done(FALLBACK) else self.fast_encoder

    def parts(self) -> list[str]:
        """The units of the first half, in the order of the corpus."""
        return [f"{self.encoder}-{number:06d}" for number in range(len(self.corpus.stretches))]

    def files(self) -> list[str]:
        """The units of the second half, once there is a plan."""
        per_file = self.spec.examples_per_file
        return [f"{name}-{number:06d}" for name in SPLITS for number in range(-(-self.plan[name].windows // per_file))]

    def run(self, unit: str, tick: Tick, *, threads: int | None = 1) -> None:
        """Do a unit, unless it is done. A file is compressed by `threads` (None: one a core).

        Raises:
            InvalidDataError: the part or the file is not what it should be.
            DifferentIdsError: the fast encoder is wrong about this corpus.
            OSError: no space is left, or a file cannot be read.
        """
        if self.work.is_done(unit):
            return
        kind, _, number = unit.rpartition("-")
        with self.work.make(unit) as folder:
            if kind in SPLITS:
                self._make_file(folder, kind, int(number), tick, threads=threads)
            else:
                self._make_piece(folder, kind, int(number), tick)

    def piece(self, number: int) -> Piece:
        """A piece that is done."""
        return open_piece(self.piece_folder(number), vocab_size=self.tokenizer.vocab_size)

    def piece_folder(self, number: int) -> Path:
        """Where a piece lies."""
        return self.work.folder(f"{self.encoder}-{number:06d}")

    @cached_property
    def plan(self) -> dict[str, SplitPlan]:
        """What was decided."""
        content = orjson.loads((self.work.folder(PLAN) / "plan.json").read_bytes())
        return {name: SplitPlan(**content[name]) for name in SPLITS}

    def windows(self, split: str) -> Evenly | Listed:
        """The windows of a split."""
        path = self.work.folder(PLAN) / f"{split}.npz"
        if path.is_file():
            with np.load(path) as arrays:
                return Listed(Windows(arrays["starts"], arrays["lengths"]))
        drop = self.spec.packing.remainder == "drop"
        return Evenly(self.plan[split].tokens, max_sequence_length=self.spec.max_sequence_length, drop=drop)

    def stream(self, split: str) -> SplitStream:
        """The tokens of a split."""
        return SplitStream(self._with_sides, side=SPLITS[split], tokens=self.plan[split].piece_tokens)

    @cached_property
    def _side_starts(self) -> list[int]:
        starts: list[int] = orjson.loads((self.work.folder(PLAN) / "plan.json").read_bytes())["rows"]
        return [0, *np.cumsum(starts).tolist()]

    def _with_sides(self, number: int) -> tuple[Piece, Sides]:
        piece, start = self.piece(number), self._side_starts[number]
        sides = np.fromfile(self.work.folder(PLAN) / "sides.bin", np.uint8, count=len(piece.documents), offset=start)
        return piece, sides

    def _make_piece(self, folder: Path, encoder: str, number: int, tick: Tick) -> None:
        options = PieceOptions(
            eos_id=self.tokenizer.eos_id,
            vocab_size=self.tokenizer.vocab_size,
            with_signatures=needs_signatures(self.spec),
        )
        checked = self._part_encoders(encoder).of(self.corpus.name(number))
        with PieceWriter(folder, cleaner=Cleaner(self.spec.cleaning), encoder=checked, options=options) as writer:
            stray = self.corpus.stray_lines
            writer.write(self.corpus.read(number), tick=tick, bad=self._bad)
            writer.facts.stray_lines = self.corpus.stray_lines - stray
            writer.finish()

    def _part_encoders(self, name: str) -> PartEncoders:
        if self._encoders is None or self._encoders.name != name:
            self._loaded = self._loaded or load_both(self.tokenizer)
            self._encoders, self._encoded = PartEncoders(name, self._loaded), 0
        elif self._encoded >= _BYTES_PER_ENCODER:
            self._encoders.forget()
            self._encoded = 0
        self._encoded += self._part_bytes
        return self._encoders

    def _bad(self, record: BadRecord, count: int) -> None:
        limit = self.spec.reading.max_bad_records
        if count > limit:
            raise too_many(count, limit, record)

    def _make_file(self, folder: Path, split: str, number: int, tick: Tick, *, threads: int | None) -> None:
        first = number * self.spec.examples_per_file
        options = ShardOptions(
            max_sequence_length=self.spec.max_sequence_length,
            eos_id=self.tokenizer.eos_id,
            vocab_size=self.tokenizer.vocab_size,
            boundaries=self.spec.packing.document_boundaries,
        )
        labels = write_shard(
            folder / f"examples_{number}_0.h5",
            stream=self.stream(split),
            plan=self.windows(split),
            part=(first, min(first + self.spec.examples_per_file, self.plan[split].windows)),
            options=options,
            threads=threads,
            tick=lambda windows: tick(windows, 0),
        )
        (folder / "facts.json").write_bytes(orjson.dumps({"labels": labels}))


def needs_signatures(spec: DatasetSpec) -> bool:
    """True when near duplicates matter: to cleaning, or to the split."""
    dropped = any(isinstance(step, NearDuplicatesStep) for step in spec.cleaning)
    return dropped or spec.validation.near_duplicates is not None


def write_setup(work: WorkFolder, task: PrepareTask, *, encoder: str, part_bytes: int) -> None:
    """Say what is prepared. How an earlier run has cut and encoded the corpus stays; where it lies may have changed."""
    content = {"encoder": encoder, "part_bytes": part_bytes, "task": task.model_dump(mode="json")}
    if work.is_done(SETUP):
        work.put(f"{SETUP}/setup.json", orjson.dumps({**content, **_setup(work), "task": content["task"]}))
    else:
        with work.make(SETUP) as folder:
            (folder / "setup.json").write_bytes(orjson.dumps(content))


def write_plan(
    work: WorkFolder,
    *,
    sides: Sides,
    rows: list[int],
    splits: dict[str, SplitPlan],
    windows: dict[str, Evenly | Listed],
) -> None:
    """Lay down what was decided; `rows` are the documents of each piece."""
    with work.make(PLAN) as folder:
        (folder / "sides.bin").write_bytes(sides.data)  # `tofile` says nothing of a full disk
        content: dict[str, Any] = {"rows": rows, **{name: asdict(split) for name, split in splits.items()}}
        (folder / "plan.json").write_bytes(orjson.dumps(content))
        for name, plan in windows.items():
            if isinstance(plan, Listed):
                np.savez(folder / f"{name}.npz", starts=plan.windows.starts, lengths=plan.windows.lengths)


def _setup(work: WorkFolder) -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads((work.folder(SETUP) / "setup.json").read_bytes())
    return content
