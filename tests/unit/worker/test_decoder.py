"""The decoder's own names and refusals; its arithmetic is in `tests/parity`."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import GPTJ, NEOX

from regraft.errors import InvalidInputError
from regraft.families import FAMILIES, Family
from regraft.keymap import rows
from regraft_worker.model import Decoder
from regraft_worker.model.activations import activation

CONFIGS = {"gptj": GPTJ, "gpt_neox": NEOX}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_state_has_the_names_and_shapes_of_the_family_table(family: Family, tied: bool) -> None:
    architecture = family.read_config({**CONFIGS[family.model_type], "tie_word_embeddings": tied})

    found = set(Decoder(architecture).state_dict())

    expected = {own for row in rows(family, architecture) for own in row.own if not (tied and row.is_head)}
    assert found == expected


def test_more_tokens_than_positions_are_refused() -> None:
    model = Decoder(FAMILIES[0].read_config(GPTJ))

    assert model(torch.zeros(1, 32, dtype=torch.int32)).shape == (1, 32, 32)
    with pytest.raises(InvalidInputError, match="only 32 positions"):
        model(torch.zeros(1, 33, dtype=torch.int32))


def test_an_unknown_activation_is_refused_with_the_list() -> None:
    with pytest.raises(InvalidInputError, match=r"prelu.*gelu, gelu_python, gelu_new"):
        activation("prelu")


@pytest.mark.parametrize("where", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_dropout_is_active_in_training_only(where: str) -> None:
    model = Decoder(FAMILIES[0].read_config({**GPTJ, where: 0.5}))
    ids = torch.zeros(1, 8, dtype=torch.int32)

    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))
