"""The child of `in_transformers`: a folder with the question, which gets the answer, and the parent's id.

Code of the checkpoint is never run, pickles are opened by this project's readers only, nothing is fetched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regraft.processes import die_with
from regraft_worker.conversion.opened import open_checkpoint

QUESTION, ANSWER = "question.json", "logits.npz"
STARTED = "started"
"""Is there once nothing but the model is left to fail with."""
_REPORTED = {"output_loading_info": True, "ignore_mismatched_sizes": True}


def main() -> None:
    """Write logits (B, S, V) in fp32, or what `transformers` has against the tensors, and then no logits."""
    place, parent = sys.argv[1:]
    die_with(parent)
    question = json.loads((Path(place) / QUESTION).read_bytes())
    import transformers  # noqa: F401

    (Path(place) / STARTED).touch()
    model, info = _of_folder(question["folder"]) if "folder" in question else _of_files(**question["files"])
    problems = sorted(f"{kind.replace('_', ' ')}: {_shown(one)}" for kind, found in info.items() for one in found or ())
    logits = np.empty(0, dtype=np.float32) if problems else _logits(model, question["batch"])
    np.savez(Path(place) / ANSWER, logits=logits, problems=np.array(problems, dtype=str))


def _logits(model: Any, numbers: dict[str, list[list[int]]]) -> npt.NDArray[np.float32]:
    batch = {name: torch.tensor(rows) for name, rows in numbers.items()}
    # With a mask, because positions that skip some would else be taken for the starts of further sequences.
    mask = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = model.float().eval()(**batch, attention_mask=mask).logits.numpy()
    return logits


def _shown(problem: object) -> str:
    """A name, or of a tensor of another size its name, its shape in the file and that of the model."""
    return ", ".join(map(str, problem)) if isinstance(problem, tuple | list) else str(problem)


def _of_folder(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, **_REPORTED
    )


def _of_files(weights: str, config: str, model_class: str, left_out: list[str]) -> Any:
    import transformers

    found = getattr(transformers, model_class)
    content = json.loads(Path(config).read_bytes())
    with open_checkpoint(Path(weights)) as opened:
        state = {name: lazy.whole() for name, lazy in opened.model.items() if name not in left_out}
        return found.from_pretrained(None, config=found.config_class.from_dict(content), state_dict=state, **_REPORTED)


if __name__ == "__main__":
    main()
