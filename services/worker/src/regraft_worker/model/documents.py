"""Attention within documents: several of them in one window, none seeing another.

The data says for each token how many later tokens may attend to it (`attention_span`) and where in its document it
stands (`position_ids`). Token i attends to j when j <= i <= j + span(j), and rotary positions start at 0 in each
document: a window computes what each of its documents would alone. Padding has a span of 0 and sees only itself.

The mask is (B, 1, S, S) booleans, made once for all layers, and costs attention over the whole window whatever the
documents' lengths are. Not for windows of very many tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def document_mask(attention_span: Tensor) -> Tensor:
    """True where the token of a row attends to that of a column: (B, S) to (B, 1, S, S)."""
    S = attention_span.shape[1]
    at = torch.arange(S, device=attention_span.device)
    last = at + attention_span.clamp(min=0)  # (B, S): the last token that sees each; itself at least
    row, column = at[:, None], at[None, :]
    return ((column <= row) & (row <= last[:, None, :]))[:, None]
