"""What a model family is: switches of one decoder, and a table of tensor names.

A family is data. The decoder reads the switches, the converters and the loader read the table, the API reads the
shapes; nothing else in the code asks for a family by name.

Names in a table are templates: `{n}` stands for the layer number. A tensor has three names: `own` (this project's
decoder), `hf` (Hugging Face) and `cs` (Cerebras Model Zoo; a tensor may be stored there under two names).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Config = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One concrete model: sizes from its config, switches from its family."""

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    filter_size: int
    max_position_embeddings: int
    rotary_dim: int
    """Leading dimensions of each head that are rotated; even, at most `head_dim`."""
    activation: str
    """Hugging Face's name, such as `gelu` or `gelu_new`."""
    layer_norm_epsilon: float
    initializer_range: float
    rope_theta: float = 10000.0
    rope_scaling_factor: float = 1.0
    """Positions are divided by it before they turn anything (linear scaling); 1 for none."""
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    tied_embeddings: bool = False
    rotary_interleaved: bool
    """True: pairs (2i, 2i+1), GPT-J. False: pairs (i, i + rotary_dim / 2), GPT-NeoX."""
    separate_ffn_norm: bool
    """False: attention and feed-forward share one norm (GPT-J)."""
    parallel_residual: bool = True
    attention_bias: bool
    """Bias on q, k, v and on the attention output."""
    lm_head_bias: bool

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


Dim = Literal["V", "H", "F", "3H"]  # vocab_size, hidden_size, filter_size, 3 * hidden_size


@dataclass(frozen=True)
class Tensor:
    """One row of a family's table."""

    own: tuple[str, ...]
    """Names in this project's decoder; three (q, k, v) when Hugging Face fuses them."""
    hf: str
    cs: tuple[str, ...]
    """Names in a Cerebras checkpoint: one per `own`, or several for one tensor that is stored twice."""
    shape: tuple[Dim, ...]
    """Shape of the Hugging Face tensor."""
    transform: Literal["same", "fused_qkv"] = "same"
    """`fused_qkv`: rows are (head, q/k/v, head_dim); see `regraft.keymap`."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of the registry: everything the project knows about one kind of model."""

    name: str
    """`--model` on the command line: `gptj`, `gpt-neox`, and each with `-headless`."""
    model_type: str
    """`model_type` in a Hugging Face config."""
    architectures: tuple[str, ...]
    """Class names in a Hugging Face config."""
    read_config: Callable[[Config], Architecture]
    """Hugging Face config to architecture; raises InvalidInputError or InvalidDataError naming the key."""
    tensors: tuple[Tensor, ...]
    ignored_hf: tuple[str, ...]
    """Buffers in old files that carry no weights; regular expressions."""
    config_to_cs: Mapping[str, str]
    """Hugging Face config key to Cerebras `model` key, copied verbatim."""
    cs_constants: Mapping[str, object]
    """Cerebras `model` keys that the family fixes; asserted on the way back."""
    hf_constants: Mapping[str, object]
    """Hugging Face keys that Cerebras' converter writes besides those of `config_to_cs`."""
    scales_rope: bool = False
    """True when `rope_scaling` of a Hugging Face config and `pos_scaling_factor` of a Cerebras one mean each other."""
    headless_of: str = ""
    """Name of the family that this is without its language-model head."""

    @property
    def cs_name(self) -> str:
        """`name` in a Cerebras config, which knows no headless models."""
        return self.headless_of or self.name


def tensor_shape(tensor: Tensor, architecture: Architecture) -> tuple[int, ...]:
    """The Hugging Face shape of a table row, in numbers."""
    sizes: dict[str, int] = {
        "V": architecture.vocab_size,
        "H": architecture.hidden_size,
        "F": architecture.filter_size,
        "3H": 3 * architecture.hidden_size,
    }
    return tuple(sizes[dim] for dim in tensor.shape)


def has_tensor(tensor: Tensor, architecture: Architecture) -> bool:
    """False for the biases of attention in a model that has none; a tied head counts as there."""
    layer_part, _, kind = tensor.own[0].removeprefix("layers.{n}.").rpartition(".")
    return architecture.attention_bias or kind != "bias" or layer_part not in ("q", "out")


def expected_tensors(family: Family, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor a Hugging Face checkpoint of this architecture has, tied heads left out."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in family.tensors:
        if architecture.tied_embeddings and tensor.hf in ("lm_head.weight", "embed_out.weight"):
            continue
        if not has_tensor(tensor, architecture):
            continue
        layers = range(architecture.num_layers) if "{n}" in tensor.hf else range(1)
        for layer in layers:
            shapes[tensor.hf.replace("{n}", str(layer))] = tensor_shape(tensor, architecture)
    return shapes


def parameter_count(family: Family, architecture: Architecture) -> int:
    """Number of weights."""
    total = 0
    for shape in expected_tensors(family, architecture).values():
        size = 1
        for dim in shape:
            size *= dim
        total += size
    return total
