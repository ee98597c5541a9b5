"""The child of `in_transformers`: a checkpoint folder, an answer file, the parent's id and the token ids.

Code of the checkpoint is never run, pickles are never opened, nothing is fetched.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from regraft.processes import die_with


def main() -> None:
    """Write logits (B, S, V) in fp32, and the names of tensors that `transformers` has no use or no value for."""
    folder, answer, parent, ids = sys.argv[1:]
    die_with(parent)
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True
    )
    with torch.no_grad():
        logits = model.float().eval()(torch.tensor(json.loads(ids))).logits
    problems = sorted({str(name) for found in info.values() for name in found or ()})
    np.savez(answer, logits=logits.numpy(), problems=np.array(problems, dtype=str))


if __name__ == "__main__":
    main()
