"""A Hugging Face directory as a decoder with fp32 weights.

Weights are copied out of the file: tensors that map it would be changed in place by training, or vanish with it.
The decoder is built without storage and given the tensors, so that memory holds the weights once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from regraft.families import Architecture, Family, detect
from regraft_worker.conversion.hf import load_config, read_tensors
from regraft_worker.conversion.tensors import hf_to_own
from regraft_worker.model.decoder import Decoder, activation


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `config.json` says."""

    config: Mapping[str, object]
    family: Family
    architecture: Architecture


def describe(folder: Path) -> Description:
    """Read the config of a model directory; no weights.

    Raises:
        InvalidDataError: it is missing, or names no supported model.
        InvalidInputError: it names an activation the decoder lacks.
    """
    config = load_config(folder)
    family = detect(config)
    architecture = family.read_config(config)
    activation(architecture.activation)
    return Description(config=config, family=family, architecture=architecture)


def load_model(folder: Path, description: Description, *, device: str) -> Decoder:
    """The decoder with the weights of `folder`, in fp32.

    Raises:
        InvalidDataError: the tensors are not those that the config speaks of.
    """
    with torch.device("meta"):
        model = Decoder(description.architecture)
    state = {
        name: part.to(device=device, dtype=torch.float32, copy=True).contiguous()
        for hf_name, tensor in read_tensors(folder)
        for name, part in hf_to_own(description.family, description.architecture, hf_name, tensor)
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model
