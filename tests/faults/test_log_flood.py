"""A stage process that prints a gigabyte a minute, with everything in it that a log should not have: case 47."""

from __future__ import annotations

from urllib.parse import urlsplit

from bounds import WITHIN
from fault_stage import FLOOD_BYTES
from plant import Plant

from regraft.logparts import end_of, older_parts


def test_a_flood_of_output_neither_delays_the_stage_nor_fills_the_disk_nor_tells_a_password(plant: Plant) -> None:
    secret = str(urlsplit(plant.settings.redis_url).password)
    settings = plant.settings.model_copy(update={"log_bytes": 1 << 20})
    plant.start_worker(settings, FAULT_ACT="flood@1", FAULT_SECRET=secret, FAULT_STEP_SECONDS="0.05")
    job = plant.submit()
    plant.await_step(job, 1)
    plant.struck()
    plant.check(job, within=WITHIN[47])
    log = plant.settings.log_folder / job / "train-1.log"
    older = older_parts(log)
    parts = [log, *(path for _, path in older)]
    assert len(parts) == 5
    assert sum(part.stat().st_size for part in parts) < 6 << 20
    assert not any(secret.encode() in part.read_bytes() for part in parts)
    assert end_of(older) + log.stat().st_size > 0.99 * FLOOD_BYTES, "some of it was lost"
