"""What sizing counts, compared with the decoder and with what autograd really keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regraft.families import Architecture, gpt_neox, gptj
from regraft.sizing import Setup, counts_of
from regraft.sizing.activations import block_bytes
from regraft.sizing.memory import BLOCK_ELEMENTS, CHUNK_ELEMENTS
from regraft_worker.model.decoder import Decoder
from regraft_worker.model.loss import _BLOCK_ELEMENTS, _chunk_rows

GPTJ = {"model_type": "gptj", "vocab_size": 100, "n_positions": 128, "n_embd": 64, "n_head": 4, "rotary_dim": 8}
NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 192,
}
BATCH, LENGTH = 4, 128


def gptj_model(layers: int, **more: Any) -> Architecture:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return gptj.FAMILY.read_config({**GPTJ, **dropout, "n_layer": layers, **more})


def neox_model(layers: int, **more: Any) -> Architecture:
    return gpt_neox.FAMILY.read_config({**NEOX, "num_hidden_layers": layers, **more})


MODELS = {
    "gptj": (gptj_model, {}),
    "neox": (neox_model, {}),
    "neox-sequential": (neox_model, {"use_parallel_residual": False}),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_decoder(name: str, tied: bool) -> None:
    make, options = MODELS[name]
    architecture = make(3, tie_word_embeddings=tied, **options)
    model = Decoder(architecture)
    assert architecture.tied_embeddings is tied
    counts = counts_of(architecture)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    assert counts.block == sum(parameter.numel() for parameter in model.layers[0].parameters())
    assert counts.root == counts.total - sum(parameter.numel() for parameter in model.layers.parameters())
    assert counts.head == model.head_weight.numel()
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embedding" not in name]
    assert counts.multiplied == sum(weight.numel() for weight in matrices) + (counts.head if tied else 0)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_chunk_of_logits_is_that_of_the_loss(precision: str, dtype: torch.dtype) -> None:
    for vocab_size in (1, 61, 50400):
        assert CHUNK_ELEMENTS[precision] // vocab_size == _chunk_rows(vocab_size, None, dtype)
    assert BLOCK_ELEMENTS == _BLOCK_ELEMENTS


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_activations_are_those_that_autograd_keeps(name: str, precision: Any) -> None:
    make, options = MODELS[name]
    one, three = (saved_bytes(make(layers, **options), precision) for layers in (1, 3))
    setup = Setup(batch_size=BATCH, length=LENGTH, precision=precision)
    architecture = make(1, **options)
    counted = block_bytes(architecture, setup, BATCH * LENGTH, on_cpu=True)
    # Not less than what is kept, and not much more: fused projections may keep fewer copies.
    measured = (three - one) / 2
    assert 0.97 * measured < counted < 1.25 * measured
    # A count that forgets one tensor of the filter's size is noticed.
    forgotten = BATCH * LENGTH * architecture.filter_size * (4 if precision == "fp32" else 2)
    assert not 0.97 * measured < counted - forgotten < 1.25 * measured


def saved_bytes(architecture: Architecture, precision: str) -> int:
    """Storage that the backward pass holds on to, but for the weights themselves; casts of weights would count."""
    model = Decoder(architecture).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in weights:
            held[pointer] = tensor
        return tensor

    ids = torch.randint(0, 100, (BATCH, LENGTH), dtype=torch.int32)
    bf16 = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), bf16:
        model(ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())
