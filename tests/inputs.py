"""Inputs that tests make for themselves."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from regraft.families import detect, expected_tensors

CONFIG = {
    "model_type": "gptj",
    "architectures": ["GPTJForCausalLM"],
    "vocab_size": 64,
    "n_positions": 128,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "rotary_dim": 4,
}


def write_checkpoint_headers(folder: Path, *, claimed_layers: int = 2) -> Path:
    """A GPT-J folder whose tensors are all zero; with `claimed_layers` its config may claim more than there are."""
    folder.mkdir(exist_ok=True)
    family = detect(CONFIG)
    header: dict[str, object] = {}
    end = 0
    for name, shape in expected_tensors(family, family.read_config(CONFIG)).items():
        begin, size = end, 4
        for dim in shape:
            size *= dim
        end = begin + size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "n_layer": claimed_layers}))
    (folder / "tokenizer.json").write_text("{}")
    return folder
