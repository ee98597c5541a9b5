"""The ledger: evidence of what a run has read, in words where it is not what it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import NEOX, Recorder, task, windows, write_dataset, write_model, write_split
from typer.testing import CliRunner

from regraft.cli import make_app
from regraft.errors import InterruptedStageError
from regraft.hdf5 import Dataset
from regraft_worker.trainer import loop
from regraft_worker.trainer.ledger import MAX_SEGMENTS, Ledger, LedgerPart, fingerprints, total
from regraft_worker.trainer.ledger_check import difference, faults, find_state, order_of, samples_at
from regraft_worker.trainer.mixture import Mixture, Part, RowRanges


def _ledger(*, seed: int = 1, windows: int = 21, batch_size: int = 4) -> Ledger:
    part = LedgerPart(uri="file:///d", address="d", files=None, windows=windows, data_subset=None, weight=1.0)
    return Ledger(seed=seed, shuffle=True, batch_size=batch_size, parts=(part,))


def _read(ledger: Ledger, *, steps: int, batches: dict[int, list[int]] | None = None) -> Ledger:
    """The ledger of a run that reads each step's samples; `batches` says which instead, by step."""
    order = order_of(ledger)
    for step in range(1, steps + 1):
        usual = list(range((step - 1) * ledger.batch_size, step * ledger.batch_size))
        numbers = np.array((batches or {}).get(step, usual))
        ledger = ledger.extended(to=step, fingerprint=total(fingerprints(numbers, *order.locate(numbers))))
    return ledger


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: `whole`, `parted` (stopped twice), `seed` (another one), all of the same dataset and one mixed in."""
    folder = tmp_path_factory.mktemp("runs")
    write_model(folder / "base", NEOX)
    write_dataset(folder / "dataset")
    write_split(folder / "more", windows(5, seed=9))
    mixture = [{"uri": str(folder / "more"), "weight": 0.5}]
    options = {"mixture": mixture, "evaluate": {}, "tensorboard": True}
    loop.train(task(folder, folder / "whole", **options))
    loop.train(task(folder, folder / "seed", **{**options, "seed": 3}))
    for after in (4, 7):
        with pytest.raises(InterruptedStageError):
            loop.train(task(folder, folder / "parted", **options), Recorder(stop_after=after))
    loop.train(task(folder, folder / "parted", **options))
    return folder


def _ran(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(make_app(), ["ledger", *map(str, words)])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.stdout


def test_a_run_has_read_each_sample_of_its_order_once(runs: Path) -> None:
    for name in ("whole", "parted"):
        ledger = find_state(runs / name).ledger
        assert ledger is not None
        assert ledger.last == 12
        assert faults(ledger) == []
    assert _ran("verify", runs / "parted") == (0, "steps 1 to 12: every sample of the order was read once, 48\n")


def test_a_run_in_parts_has_read_what_an_undisturbed_one_has(runs: Path) -> None:
    code, said = _ran("compare", runs / "whole", runs / "parted")

    assert (code, said) == (0, "the same samples in the same order, steps 1 to 12\n")


def test_another_seed_is_another_order_from_its_first_step_on(runs: Path) -> None:
    code, said = _ran("compare", runs / "whole", runs / "seed")

    assert (code, said) == (1, "the samples differ from step 1 on\n")


def test_a_step_is_shown_by_file_and_row_as_it_was_read(runs: Path) -> None:
    state = find_state(runs / "whole")
    assert state.ledger is not None
    samples = samples_at(state.ledger, 5)
    _, said = _ran("show", runs / "whole", "--step", 5)

    lines = said.splitlines()
    assert [line.split()[1] for line in lines] == ["16", "17", "18", "19"]
    rows = [f"examples_0_0.h5:{row}" for row in samples.rows]
    assert [line.split()[-1] for line in lines] == rows
    assert set(samples.parts) == {0, 1}
    with Dataset(runs / "dataset" / "train") as own, Dataset(runs / "more") as more:
        parts = [
            Part(field="a", dataset=own, ranges=RowRanges(21), weight=1.0),
            Part(field="b", dataset=more, ranges=RowRanges(5), weight=0.5),
        ]
        read = Mixture(parts, seed=1, shuffle=True).read(samples.numbers, vocab_size=61)
        expected = [(own, more)[part][int(row)] for part, row in zip(samples.parts, samples.rows, strict=True)]
    assert np.array_equal(read, np.stack(expected))


def test_a_run_is_shown_with_its_datasets_and_stretches(runs: Path) -> None:
    code, said = _ran("show", runs / "parted" / "step-00000009")

    assert code == 0
    assert "dataset 1:" in said
    assert [line.split()[1:4:2] for line in said.splitlines() if line.startswith("steps")] == [
        *(["1", "3"], ["4", "4"], ["5", "6"], ["7", "7"], ["8", "9"])
    ]


@pytest.mark.parametrize(
    ("batches", "fault"),
    [
        ({3: [8, 9, 9, 10, 11]}, "steps 3 to 3: sample 9 was read twice"),
        ({3: [8, 9, 11]}, "steps 3 to 3: sample 10 was not read"),
        ({3: [8, 9, 10, 10]}, "steps 3 to 3: other samples were read than the order says"),
        ({3: [4, 5, 6, 7]}, "steps 3 to 3: other samples were read than the order says"),
    ],
    ids=["twice", "skipped", "both", "a batch again"],
)
def test_a_double_and_a_skip_are_found_and_named(batches: dict[int, list[int]], fault: str) -> None:
    good, bad = _read(_ledger(), steps=6), _read(_ledger(), steps=6, batches=batches)

    assert faults(good) == []
    assert faults(bad) == [fault]
    assert difference(good, good) is None
    assert difference(good, bad) == "what was read differs within steps 3 to 3"


def test_a_window_read_in_the_place_of_another_is_found() -> None:
    numbers = np.arange(8)
    owners, rows = order_of(_ledger()).locate(numbers)
    swapped = rows.copy()
    swapped[[2, 5]] = rows[[5, 2]]

    assert total(fingerprints(numbers, owners, rows)) != total(fingerprints(numbers, owners, swapped))


def test_reads_are_told_apart_by_sample_and_taken_once() -> None:
    ledger = _ledger()
    order = order_of(ledger)
    from regraft_worker.trainer.mixture import Reads

    reads = Reads()
    for numbers in (np.array([0, 1]), np.array([2, 3, 4, 5])):  # micro-batches, and one read ahead
        reads.note(numbers, *order.locate(numbers), seconds=0.5)
    four = np.arange(4)

    assert reads.take(0, 4) == total(fingerprints(four, *order.locate(four)))
    assert reads.take(0, 4) == 0
    assert reads.take(4, 6) != 0
    assert (reads.take_seconds(), reads.take_seconds()) == (1.0, 0.0)


def test_a_long_ledger_stays_small_and_still_proves_the_same() -> None:
    steps = 3 * MAX_SEGMENTS
    long = _read(_ledger(), steps=steps)

    assert len(long.segments) <= MAX_SEGMENTS
    assert long.last == steps
    assert faults(long) == []
    assert difference(long, _read(_ledger(), steps=steps, batches={700: [1, 2, 3, 4]})) is not None


def test_the_identity_says_nothing_of_where_datasets_lie() -> None:
    ledger = _ledger()
    moved = ledger.model_copy(update={"parts": (ledger.parts[0].model_copy(update={"uri": "file:///e"}),)})

    assert moved.identity == ledger.identity
    assert _ledger(batch_size=2).identity != ledger.identity
