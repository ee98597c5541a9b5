"""The child of `in_transformers`: a folder with the question, which gets the answer, and the parent's id.

Code of the checkpoint is never run, pickles are opened by this project's readers only, nothing is fetched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.processes import die_with
from regraft_worker.conversion.opened import open_checkpoint

QUESTION, ANSWER = "question.json", "logits.npz"


def main() -> None:
    """Write logits (B, S, V) in fp32, and the names of tensors that `transformers` has no use or no value for."""
    place, parent = sys.argv[1:]
    die_with(parent)
    question = json.loads((Path(place) / QUESTION).read_bytes())
    model, info = _of_folder(question["folder"]) if "folder" in question else _of_files(**question["files"])
    batch = {name: torch.tensor(numbers) for name, numbers in question["batch"].items()}
    # With a mask, because positions that skip some would else be taken for the starts of further sequences.
    mask = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        logits = model.float().eval()(**batch, attention_mask=mask).logits
    problems = sorted({str(name) for found in info.values() for name in found or ()})
    np.savez(Path(place) / ANSWER, logits=logits.numpy(), problems=np.array(problems, dtype=str))


def _of_folder(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True
    )


def _of_files(weights: str, config: str, model_class: str, left_out: list[str]) -> Any:
    import transformers

    found = getattr(transformers, model_class)
    content = json.loads(Path(config).read_bytes())
    with open_checkpoint(Path(weights)) as opened:
        state = {name: lazy.whole() for name, lazy in opened.model.items() if name not in left_out}
        return found.from_pretrained(
            None, config=found.config_class.from_dict(content), state_dict=state, output_loading_info=True
        )


if __name__ == "__main__":
    main()
