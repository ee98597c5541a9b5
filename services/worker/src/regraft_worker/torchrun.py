"""torchrun that dies with whoever started it: `python -m regraft_worker.torchrun <processes> <folder>`, and where
several machines train together `<nodes> <which one> <name of the first> <its port>`.

torchrun starts the processes, each with its rank in the environment, and ends all when one fails. Nothing is started
again here: that is the control plane's business, which knows about leases and attempts.
"""

from __future__ import annotations

import os
import sys

from regraft.child import SUPERVISOR
from regraft.processes import die_with


def main(processes: str, folder: str, *place: str) -> None:
    """Run `regraft_worker.rank` in so many processes of this machine."""
    die_with(os.environ.get(SUPERVISOR))
    os.environ["PYTHONSAFEPATH"] = "1"  # torchrun starts `python -m` without -P
    # torchrun would give each process one thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(processes))))
    from torch.distributed.run import main as torchrun

    here = [f"--nproc-per-node={processes}", "--max-restarts=0"]
    torchrun([*here, *_meeting(*place), "-m", "regraft_worker.rank", folder])


def _meeting(nodes: str = "1", node: str = "0", host: str = "", port: str = "") -> list[str]:
    """How the processes find each other; those of other machines wait for the first one, also to begin with."""
    if nodes == "1":
        return ["--standalone"]
    return [f"--nnodes={nodes}", f"--node-rank={node}", f"--master-addr={host}", f"--master-port={port}"]


if __name__ == "__main__":
    main(*sys.argv[1:])
