"""Reading a Hugging Face config key by key, with an error that names the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.errors import InvalidDataError

if TYPE_CHECKING:
    from regraft.families.base import Config

_REMEDY = "Mend the checkpoint's config.json."


def integer(config: Config, key: str, default: int | None = None, *, minimum: int = 1) -> int:
    """A whole number of at least `minimum`."""
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise InvalidDataError(
            f"must be a whole number of at least {minimum}", field=f"config.json: {key}", value=value, remedy=_REMEDY
        )
    return value


def number(config: Config, key: str, default: float) -> float:
    """A finite number that is not negative."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise InvalidDataError(
            "must be a number that is not negative", field=f"config.json: {key}", value=value, remedy=_REMEDY
        )
    return float(value)


def flag(config: Config, key: str, default: bool) -> bool:
    """True or false."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise InvalidDataError("must be true or false", field=f"config.json: {key}", value=value, remedy=_REMEDY)
    return value


def text(config: Config, key: str, default: str) -> str:
    """A string."""
    value = config.get(key, default)
    if not isinstance(value, str):
        raise InvalidDataError("must be a string", field=f"config.json: {key}", value=value, remedy=_REMEDY)
    return value


def check_heads(hidden_size: int, num_heads: int, rotary_dim: int) -> None:
    """Heads divide the hidden size; the rotated part is even and within a head."""
    if hidden_size % num_heads:
        raise InvalidDataError(
            f"the number of heads must divide the hidden size {hidden_size}",
            field="config.json: number of heads",
            value=num_heads,
            remedy=_REMEDY,
        )
    if rotary_dim % 2 or not 0 < rotary_dim <= hidden_size // num_heads:
        raise InvalidDataError(
            f"the rotary dimension must be even and at most the head size {hidden_size // num_heads}",
            field="config.json: rotary dimension",
            value=rotary_dim,
            remedy=_REMEDY,
        )
