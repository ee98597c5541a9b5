"""Streaming writers, one file per encoding: tensors go from their source to the target in blocks, hashed on the way.

| writer | file | read by |
|---|---|---|
| `write_safetensors`, `write_sharded` | safetensors, single or sharded with an index | transformers, safetensors |
| `write_torch_zip`, `write_sharded(kind="bin")` | what `torch.save` writes | torch, every Model Zoo release |
| `write_hdf5_05` | HDF5 format 0.5 | Model Zoo 2.6 and later |

There is no writer for HDF5 format 0.4 (releases 2.0 to 2.5): its reader rebuilds the nesting from an attribute that is
a dill pickle of a class of that release's torch, so a file without it is of no use there, and one with it cannot be
proven right here. Those releases read the torch encoding.
"""

from __future__ import annotations

from regraft_worker.conversion.writers.hdf5_05 import write_hdf5_05
from regraft_worker.conversion.writers.nesting import below_first, flat, trained, trained_kind
from regraft_worker.conversion.writers.safetensors import write_safetensors
from regraft_worker.conversion.writers.sharded import write_sharded
from regraft_worker.conversion.writers.torch_zip import write_torch_zip

__all__ = [
    "below_first",
    "flat",
    "trained",
    "trained_kind",
    "write_hdf5_05",
    "write_safetensors",
    "write_sharded",
    "write_torch_zip",
]
