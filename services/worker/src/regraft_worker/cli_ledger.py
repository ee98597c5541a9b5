"""`regraft ledger`: which samples a run has read, and whether two runs have read the same ones.

`verify` and `compare` end with status 1 when something is not as it should be, so that scripts can ask.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.errors import InvalidInputError

if TYPE_CHECKING:
    from regraft_worker.trainer.ledger import Ledger
    from regraft_worker.trainer.state import TrainingState

_Run = Annotated[Path, typer.Argument(help="Output folder of a training run, or one of its step-... folders.")]


def show(
    run: _Run,
    step: Annotated[int | None, typer.Option(min=1, help="List the samples of this step.")] = None,
    documents: Annotated[bool, typer.Option(help="With --step: also the documents that are in them.")] = False,
) -> None:
    """What a run reads: its datasets, stretches of steps with their fingerprints, or the samples of one step."""
    from regraft_worker.trainer.ledger_check import find_state

    state = find_state(run)
    assert state.ledger is not None, "find_state looks for one"
    if step is not None:
        _show_step(state.ledger, step, documents=documents)
        return
    if documents:
        raise InvalidInputError("needs --step", field="documents", value=True, remedy="Name one step.")
    _show_run(state, state.ledger)


def verify(run: _Run) -> None:
    """Whether a run has read each sample of its order once: none twice, none left out."""
    from regraft_worker.trainer.ledger_check import faults, find_state

    ledger = find_state(run).ledger
    assert ledger is not None, "find_state looks for one"
    found = faults(ledger)
    for fault in found:
        typer.echo(fault)
    if found:
        raise typer.Exit(1)
    typer.echo(f"steps 1 to {ledger.last}: every sample of the order was read once, {ledger.last * ledger.batch_size}")


def compare(run: _Run, other: Annotated[Path, typer.Argument(help="Another one.")]) -> None:
    """Whether two runs have read the same samples in the same order, as far as both have come."""
    from regraft_worker.trainer.ledger_check import difference, find_state

    one, two = find_state(run).ledger, find_state(other).ledger
    assert one is not None, "find_state looks for one"
    assert two is not None, "find_state looks for one"
    found = difference(one, two)
    typer.echo(found or f"the same samples in the same order, steps 1 to {min(one.last, two.last)}")
    if found:
        raise typer.Exit(1)


def _show_run(state: TrainingState, ledger: Ledger) -> None:
    typer.echo(
        f"identity {ledger.identity}  seed {ledger.seed}  batch size {ledger.batch_size}  shuffle {ledger.shuffle}"
    )
    for number, part in enumerate(ledger.parts):
        name = part.address or part.files
        subset = f"  subset {part.data_subset}" if part.data_subset else ""
        typer.echo(f"dataset {number}: {name}  {part.windows} windows  weight {part.weight:g}{subset}  {part.uri}")
    for segment in ledger.segments:
        typer.echo(f"steps {segment.first} to {segment.last}  {segment.fingerprint}")
    for first, last in state.without_effect:
        typer.echo(f"steps {first} to {last} were read and had no effect on the weights")


def _show_step(ledger: Ledger, step: int, *, documents: bool) -> None:
    from regraft_worker.trainer.ledger_check import samples_at
    from regraft_worker.trainer.sample_places import Places

    if step > ledger.last:
        raise InvalidInputError(
            "the run has not come that far", field="step", value=step, remedy=f"Up to {ledger.last}."
        )
    places = [Places(part) for part in ledger.parts]
    samples = samples_at(ledger, step)
    for number, part, row in zip(samples.numbers, samples.parts, samples.rows, strict=True):
        place = places[part]
        typer.echo(f"sample {number}  dataset {part}  window {row}  {place.file_and_row(int(row))}")
        if documents:
            for document in place.documents(int(row)):
                typer.echo(f"    {document}")
