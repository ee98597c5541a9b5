"""One contestant of `train.py`: the same weights, batches and optimiser, and its own model and loss. Says JSON.

    python train_contestants.py SETTINGS.json

Where a framework has a choice, the faster one is taken: scaled-dot-product attention, torch's fused AdamW.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Loss = Callable[[Tensor, Tensor], Tensor]
Clock = Callable[[], float]


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(settings["threads"])
    make = {"regraft": _regraft, "transformers": _transformers, "litgpt": _litgpt}[settings["contestant"]]
    model, loss = make(settings)
    print(json.dumps(_train(model.train(), loss, settings)))


def _train(model: nn.Module, loss: Loss, settings: dict[str, Any]) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-8, fused=True)
    losses, seconds = [], []
    clock = _clock(settings)
    for ids, labels in _batches(settings):
        began = clock()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings["precision"] == "bf16"):
            value = loss(ids, labels)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
        seconds.append(clock() - began)
    return {
        "losses": losses,
        "seconds": seconds[1:],  # the first one also warms up
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rate": _matmul_rate(settings["precision"], clock),
    }


def _clock(settings: dict[str, Any]) -> Clock:
    return time.process_time if settings["busy"] else time.perf_counter


def _batches(settings: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shape = (settings["steps"] + 1, settings["batch"], settings["length"] + 1)
    tokens = torch.randint(0, settings["vocab_size"], shape, generator=generator)
    return [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in tokens]


def _matmul_rate(precision: str, clock: Clock) -> float:
    """FLOP/s of a product of two 2,048 x 2,048 matrices: the median of several."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    out, rates = torch.empty_like(a), []
    for _ in range(9):
        began = clock()
        torch.mm(a, a, out=out)
        rates.append(2 * 2048**3 / (clock() - began))
    return sorted(rates)[len(rates) // 2]


def _regraft(settings: dict[str, Any]) -> tuple[nn.Module, Loss]:
    from regraft.specs import TargetSpec
    from regraft_worker.model import mean_loss
    from regraft_worker.trainer.targets import target_for
    from regraft_worker.trainer.weights import describe, load_model

    target_for(TargetSpec(kind="cpu")).prepare()
    folder = Path(settings["checkpoint"])
    model = load_model(folder, describe(folder), device="cpu")
    everything = torch.ones(settings["batch"], settings["length"], dtype=torch.int32)

    def loss(ids: Tensor, labels: Tensor) -> Tensor:
        return mean_loss(model, {"input_ids": ids.int(), "attention_mask": everything, "labels": labels.int()})

    return model, loss


def _transformers(settings: dict[str, Any]) -> tuple[nn.Module, Loss]:
    from transformers import AutoModelForCausalLM

    # GPT-J has no scaled-dot-product attention there, so it computes as it always does.
    model = AutoModelForCausalLM.from_pretrained(settings["checkpoint"], dtype=torch.float32)

    def loss(ids: Tensor, labels: Tensor) -> Tensor:
        logits = model(ids, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

    return model, loss


def _litgpt(settings: dict[str, Any]) -> tuple[nn.Module, Loss]:
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy
    from safetensors.torch import load_file

    shape = settings["shape"]
    gptj = settings["family"] == "gptj"
    model = GPT(
        Config(
            block_size=settings["length"],
            vocab_size=settings["vocab_size"],
            padded_vocab_size=settings["vocab_size"],
            n_layer=shape["num_layers"],
            n_embd=shape["hidden_size"],
            n_head=shape["num_heads"],
            rotary_percentage=settings["rotary_share"],
            rope_interleave=gptj,
            shared_attention_norm=gptj,
            lm_head_bias=gptj,
            gelu_approximate="tanh" if gptj else "none",
        )
    )
    weights = load_file(Path(settings["checkpoint"]) / "model.safetensors")
    names = _GPTJ if gptj else _NEOX
    state = {target: weights[name] for name, target in _per_layer(names, shape["num_layers"]).items()}
    for n in range(shape["num_layers"]):
        state |= _qkv(weights, n, shape["num_heads"], gptj=gptj)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    for name in missing:  # biases that GPT-J does not have
        model.get_parameter(name).data.zero_()
    # litgpt's own training calls it with its default chunks.
    return model, lambda ids, labels: chunked_cross_entropy(model(ids), labels)


_GPTJ = {
    "transformer.wte": "transformer.wte",
    "transformer.h.{n}.ln_1": "transformer.h.{n}.norm_1",
    "transformer.h.{n}.attn.out_proj": "transformer.h.{n}.attn.proj",
    "transformer.h.{n}.mlp.fc_in": "transformer.h.{n}.mlp.fc",
    "transformer.h.{n}.mlp.fc_out": "transformer.h.{n}.mlp.proj",
    "transformer.ln_f": "transformer.ln_f",
    "lm_head": "lm_head",
}
_NEOX = {
    "gpt_neox.embed_in": "transformer.wte",
    "gpt_neox.layers.{n}.input_layernorm": "transformer.h.{n}.norm_1",
    "gpt_neox.layers.{n}.post_attention_layernorm": "transformer.h.{n}.norm_2",
    "gpt_neox.layers.{n}.attention.dense": "transformer.h.{n}.attn.proj",
    "gpt_neox.layers.{n}.mlp.dense_h_to_4h": "transformer.h.{n}.mlp.fc",
    "gpt_neox.layers.{n}.mlp.dense_4h_to_h": "transformer.h.{n}.mlp.proj",
    "gpt_neox.final_layer_norm": "transformer.ln_f",
    "embed_out": "lm_head",
}
_WITHOUT_BIAS = {"transformer.wte", "gpt_neox.embed_in", "embed_out", "transformer.h.{n}.attn.out_proj"}


def _per_layer(names: dict[str, str], layers: int) -> dict[str, str]:
    """Every tensor of a model, by its name there and in litgpt."""
    found = {}
    for here, there in names.items():
        for part in ("weight",) if here in _WITHOUT_BIAS else ("weight", "bias"):
            for n in range(layers if "{n}" in here else 1):
                found[f"{here}.{part}".replace("{n}", str(n))] = f"{there}.{part}".replace("{n}", str(n))
    return found


def _qkv(weights: dict[str, Tensor], n: int, heads: int, *, gptj: bool) -> dict[str, Tensor]:
    """One matrix, queries of all heads first."""
    name = f"transformer.h.{n}.attn.qkv"
    if gptj:
        return {f"{name}.weight": torch.cat([weights[f"transformer.h.{n}.attn.{x}_proj.weight"] for x in "qkv"])}
    fused = f"gpt_neox.layers.{n}.attention.query_key_value"
    return {
        f"{name}.{part}": tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        for part, tensor in (("weight", weights[f"{fused}.weight"]), ("bias", weights[f"{fused}.bias"]))
    }


if __name__ == "__main__":
    main()
