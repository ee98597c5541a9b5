"""What the clock and the machine say about a run: these numbers differ from one run to the next, all others do not."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from regraft.families import Architecture
from regraft_worker.trainer.flops import flops_per_token, peak_flops
from regraft_worker.trainer.mixture import Reads

_NEWEST = 0.3  # weight of the newest interval in the smoothed seconds per step


class Meter:
    """Gathers between two reports."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        length: int,
        device: str,
        devices: int,
        precision: str,
        reads: Reads,
        memory: Callable[[], dict[str, float]],
    ) -> None:
        self._flops = flops_per_token(architecture, length)
        self._memory = memory
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
        peak = peak_flops(name, precision)
        self._peak = None if peak is None else peak * devices
        self._reads = reads
        self._tokens, self._positions, self._seconds, self._steps = 0, 0, 0.0, 0
        self._per_step: float | None = None
        self._since = time.monotonic()

    def add(self, *, tokens: int, positions: int, seconds: float) -> None:
        """One step: tokens counted in the loss, all positions computed, and how long it took."""
        self._tokens += tokens
        self._positions += positions
        self._seconds += seconds
        self._steps += 1

    def take(self, *, steps_left: int) -> dict[str, float]:
        """Metrics since the last call. Tokens per second leave out scoring and saving; seconds left do not."""
        now = time.monotonic()
        per_step = (now - self._since) / self._steps
        old = self._per_step
        self._per_step = per_step if old is None else _NEWEST * per_step + (1 - _NEWEST) * old
        found = {
            "tokens_per_second": self._tokens / self._seconds,
            "data_wait_share": min(1.0, self._reads.take_seconds() / self._seconds),
            "seconds_left": self._per_step * steps_left,
            **self._memory(),
        }
        if self._peak is not None:
            found["mfu"] = self._flops * self._positions / self._seconds / self._peak
        self._tokens, self._positions, self._seconds, self._steps, self._since = 0, 0, 0.0, 0, now
        return found


class Rates:
    """Samples per second as the Model Zoo counts them: smoothed since the last question, and over the whole run.

    Of the clock on the wall: what shall not count has to be left out.
    """

    def __init__(self) -> None:
        self._began = self._asked = time.monotonic()
        self._last = 0
        self._smoothed = 0.0
        self._rests_since: float | None = None

    def rest(self) -> None:
        """From now on something else is done."""
        self._rests_since = time.monotonic()

    def go_on(self) -> None:
        """Until now it was, if it was."""
        if self._rests_since is not None:
            self.leave_out(time.monotonic() - self._rests_since)
            self._rests_since = None

    def leave_out(self, seconds: float) -> None:
        """Since the last question, so long something else was done."""
        self._began += seconds
        self._asked += seconds

    def at(self, samples: int) -> tuple[float, float]:
        """Both rates after so many samples."""
        now = time.monotonic()
        rate = (samples - self._last) / max(now - self._asked, 1e-9)
        self._smoothed = 0.6 * rate + 0.4 * self._smoothed if self._last else rate
        self._asked, self._last = now, samples
        return self._smoothed, samples / max(now - self._began, 1e-9)


def throughput(rates: tuple[float, float], *, batch_size: int) -> dict[str, float]:
    """Rates under the names that the Model Zoo's event files have."""
    smoothed, overall = rates
    found = {"local_samples_per_sec": smoothed, "avg_samples_per_sec": overall}
    return found | {"avg_steps_per_sec": overall / batch_size}
