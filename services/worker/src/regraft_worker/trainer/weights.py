"""A Hugging Face directory as a decoder with fp32 weights.

Weights are copied out of the file: tensors that map it would be changed in place by training, or vanish with it.
The decoder is built without storage and given the tensors, so that memory holds the weights once.

A base checkpoint whose manifest denies that it was verified is refused; one that has no manifest is the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family, detect
from regraft.specs import DropoutSpec
from regraft.storage import read_manifest
from regraft_worker.conversion.hf import load_config, open_folder
from regraft_worker.model.activations import activation
from regraft_worker.model.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `config.json` says."""

    config: Mapping[str, object]
    family: Family
    architecture: Architecture


def describe(folder: Path) -> Description:
    """Read the config of a model directory; no weights.

    Raises:
        InvalidDataError: it is missing, names no supported model, or was published without being verified.
        InvalidInputError: it names an activation the decoder lacks.
    """
    _check_verified(folder)
    config = load_config(folder)
    family = detect(config)
    architecture = family.read_config(config)
    activation(architecture.activation)
    return Description(config=config, family=family, architecture=architecture)


def with_dropout(description: Description, spec: DropoutSpec) -> Description:
    """The same model with the rates that `spec` names in place of the checkpoint's."""
    rates = {f"{where}_dropout": rate for where, rate in spec.model_dump().items() if rate is not None}
    return replace(description, architecture=replace(description.architecture, **rates))


def load_model(folder: Path, description: Description, *, device: str) -> Decoder:
    """The decoder with the weights of `folder`, in fp32.

    Raises:
        InvalidDataError: the tensors are not those that the config speaks of.
    """
    with torch.device("meta"):
        model = Decoder(description.architecture)
    with open_folder(folder) as side:
        _, own = side.own()
        state = {
            name: lazy.whole().to(device=device, dtype=torch.float32, copy=True).contiguous()
            for name, lazy in own.items()
        }
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _check_verified(folder: Path) -> None:
    manifest = read_manifest(folder)
    # Checkpoints of training runs say nothing of it: what they hold was never converted.
    if manifest is not None and manifest.summary.get("verified", True) is not True:
        raise InvalidDataError(
            "this checkpoint was published without being verified",
            field="checkpoint_uri",
            value=str(folder),
            remedy="Delete its folder and convert the base checkpoint again.",
            reason="checkpoint_not_verified",
        )
