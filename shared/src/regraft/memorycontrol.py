"""The memory controller's word: how many processes the kernel has killed for want of memory, in a process's cgroup.

A process that is killed so leaves nothing but signal 9, like one that somebody has killed. The counter tells them
apart; it belongs to the whole cgroup, so a container (one worker) is told exactly and a shared machine roughly.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def oom_kills(pid: int, *, root: Path = ROOT) -> int | None:
    """The counter for the cgroup of `pid`; None where there is no memory controller to ask."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):  # version 1
            found = _counter(root / "memory", path, "memory.oom_control")
        elif not controllers:  # version 2
            found = _counter(root, path, "memory.events")
        else:
            continue
        if found is not None:
            return found
    return None


def _counter(mount: Path, path: str, name: str) -> int | None:
    # Inside a container the path may be the host's while the mount begins at the container's own group.
    for folder in (mount / path.lstrip("/"), mount):
        try:
            text = (folder / name).read_text()
        except OSError:
            continue
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return None
