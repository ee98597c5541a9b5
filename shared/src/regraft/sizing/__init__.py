"""What a training run takes: parameters, memory by part, time, disk; and what would make it fit.

Pure arithmetic over an `Architecture` and a `Setup`, so the API answers with it before anything is computed, and a
trainer can choose its micro-batch by it. Estimates: how they compare with measured runs is in docs/plan.md.
"""

from regraft.sizing.counts import Counts, counts_of, flops_per_token
from regraft.sizing.devices import CPU_CORE, DEVICES, Device, device_named
from regraft.sizing.disk import Disk, disk_of
from regraft.sizing.fit import Fit, Remedy, fit_of, remedies
from regraft.sizing.memory import Memory, bytes_per_parameter, host_snapshot_bytes, memory_of
from regraft.sizing.setup import Setup, setup_of, setup_of_job
from regraft.sizing.time import Finished, Pace, calibrated_pace, measured_pace, pace_of

__all__ = [
    "CPU_CORE",
    "DEVICES",
    "Counts",
    "Device",
    "Disk",
    "Finished",
    "Fit",
    "Memory",
    "Pace",
    "Remedy",
    "Setup",
    "bytes_per_parameter",
    "calibrated_pace",
    "counts_of",
    "device_named",
    "disk_of",
    "fit_of",
    "flops_per_token",
    "host_snapshot_bytes",
    "measured_pace",
    "memory_of",
    "pace_of",
    "remedies",
    "setup_of",
    "setup_of_job",
]
