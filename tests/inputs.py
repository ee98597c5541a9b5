"""Inputs that tests make for themselves."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
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

NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "rotary_pct": 0.5,
}


def write_checkpoint_headers(
    folder: Path, *, claimed_layers: int | None = None, config: Mapping[str, object] = CONFIG
) -> Path:
    """A folder whose tensors are all zero; with `claimed_layers` a GPT-J's config may claim more than there are."""
    folder.mkdir(exist_ok=True)
    family = detect(config)
    header: dict[str, object] = {}
    end = 0
    for name, shape in expected_tensors(family, family.read_config(config)).items():
        begin, size = end, 4
        for dim in shape:
            size *= dim
        end = begin + size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    claimed = {} if claimed_layers is None else {"n_layer": claimed_layers}
    (folder / "config.json").write_text(json.dumps({**config, **claimed}))
    (folder / "tokenizer.json").write_text("{}")
    return folder
