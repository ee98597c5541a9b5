"""A worker on a machine of its own whose cable is pulled, and plugged in again three leases later: case 25."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from bounds import WITHIN
from network import Elsewhere, can_be_made, elsewhere, reached_from_there
from plant import Plant

from helpers import eventually


@pytest.fixture
def machine() -> Iterator[Elsewhere]:
    if not can_be_made():
        pytest.skip("no network namespace can be made here (needs root and `ip`)")
    with elsewhere() as made:
        yield made


def test_a_machine_that_is_cut_off_publishes_nothing_and_works_again_afterwards(
    plant: Plant, machine: Elsewhere
) -> None:
    with reached_from_there(plant.elsewhere()) as there:
        worker = plant.start_worker(there, within=machine.within, FAULT_STEP_SECONDS="0.2")
        plant.await_worker(worker)
        job = plant.submit(steps=25)
        plant.await_step(job, 3)
        child = plant.children()
        machine.pull()
        plant.struck()
        cut = time.monotonic()
        eventually(lambda: not set(child) & set(plant.children()), seconds=10, what="the end of the cut-off child")
        assert time.monotonic() - cut < 2 * there.lease_seconds
        other = plant.start_worker(FAULT_STEP_SECONDS="0.2")  # the cut-off one comes back beside it
        eventually(lambda: len(plant.stage(job).attempts) == 2, what="the second attempt")
        time.sleep(max(0.0, cut + 3 * there.lease_seconds - time.monotonic()))
        machine.plug()
        plant.check(job, steps=25, within=WITHIN[25])
        assert [attempt.status for attempt in plant.stage(job).attempts] == ["failed", "succeeded"]
        other.terminate()
        other.wait(30)
        later = plant.submit(steps=5)  # for which the healed worker is left alone
        plant.check(later, steps=5, within=WITHIN[25])
        assert plant.stage(later).attempts[0].worker.endswith(f"-{worker.pid}")
