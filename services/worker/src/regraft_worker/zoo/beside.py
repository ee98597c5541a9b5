"""What the config that lies beside a checkpoint says otherwise than the params file.

A published params file is often run with weights of another origin: GPT-J-6B's has `nonlinearity: gelu` while the
weights were made with `gelu_new`. No tensor shows that, and training goes on from a worse model. The file wins, as it
does in the Model Zoo; here it is said. A checkpoint that lies alone says nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from regraft.errors import RegraftError
from regraft.families import Architecture, detect
from regraft_worker.conversion.cs_config import hf_config, read_section
from regraft_worker.model.activations import ACTIVATIONS

# Fields that change what the same weights compute, and their keys in a `model` section.
_COMPARED = {
    "activation": "nonlinearity",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "rotary_dim": "rotary_dim",
    "rope_scaling_factor": "pos_scaling_factor",
    "rope_theta": "rope_theta",
    "parallel_residual": "use_parallel_residual",
}


def differences(checkpoint: Path, architecture: Architecture) -> tuple[str, ...]:
    """A sentence for each field in which the config beside the checkpoint differs from `architecture`."""
    config = _config(checkpoint)
    try:
        own = None if config is None else _read(config)
    except (RegraftError, ValueError):  # advice only: what the weights need is checked elsewhere
        return ()
    if own is None or own.family != architecture.family:
        return ()
    pairs = {key: (getattr(own, name), getattr(architecture, name)) for name, key in _COMPARED.items()}
    return tuple(
        f"model.{key} is {asked!r} by the params file, and {made!r} by {config}, which lies beside the weights"
        for key, (made, asked) in pairs.items()
        if ACTIVATIONS.get(str(made), made) != ACTIVATIONS.get(str(asked), asked)  # some have several names
    )


def _config(checkpoint: Path) -> Path | None:
    """`config.json` of a folder, or the YAML that a converter writes with a `.mdl`."""
    if checkpoint.is_dir():
        found = checkpoint / "config.json"
    else:
        found = checkpoint.with_name(f"{checkpoint.stem.replace('pytorch_model', 'config', 1)}.yaml")
    return found if found.is_file() else None


def _read(config: Path) -> Architecture:
    content = json.loads(config.read_text(encoding="utf-8")) if config.suffix == ".json" else None
    found = hf_config(read_section(config)) if content is None else content
    return detect(found).read_config(found)
