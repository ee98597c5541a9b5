"""From dotted names to nested dicts and lists: how a checkpoint that is a tree keeps leaves that we keep in a row.

A name alone does not say where it nests, because parameter names have dots of their own; so each writer takes a rule
`Nest`, from a name to its place in the tree, and a rule `Kind` for the containers that their keys do not tell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

Place = tuple[str | int, ...]
Nest = Callable[[str], Place]
Kind = Callable[[Place], type | None]
"""The type of the container at a place; None: by its keys."""


def below_first(name: str) -> Place:
    """`model.lm_head.weight` is `lm_head.weight` in `model`: a converted checkpoint."""
    first, dot, rest = name.partition(".")
    return (first, rest) if dot else (first,)


def flat(name: str) -> Place:
    """No nesting: a Hugging Face state dict."""
    return (name,)


def trained(name: str) -> Place:
    """A checkpoint of a training run: parameter names in `model` stay whole, everything else nests at every dot."""
    if name.startswith("model."):
        return below_first(name)
    return tuple(int(part) if part.isdecimal() else part for part in name.split("."))


def by_keys(place: Place) -> type | None:
    """Lists where the keys are 0, 1, 2, ...; dicts elsewhere."""
    return None


def trained_kind(place: Place) -> type | None:
    """What a training run saves: an ordered dict of parameters, optimizer state by number, pairs of betas."""
    if place == ("model",):
        return OrderedDict
    if place == ("optimizer", "state"):
        return dict
    if place[:2] == ("optimizer", "param_groups") and place[-1] == "betas":
        return tuple
    return None


def build(leaves: Mapping[str, object], nest: Nest = below_first, kind: Kind = by_keys) -> dict[str | int, object]:
    """The tree of these leaves, in their order."""
    tree: dict[str | int, object] = {}
    for name, leaf in leaves.items():
        *above, last = nest(name)
        node = tree
        for key in above:
            below = node.setdefault(key, _Node())
            assert isinstance(below, _Node), f"'{name}' lies below another leaf"
            node = below
        assert last not in node, f"two leaves at the place of '{name}'"
        node[last] = leaf
    return {key: _finished(value, (key,), kind) for key, value in tree.items()}


def in_order(leaves: Mapping[str, object], order: Iterable[str]) -> dict[str, object]:
    """The leaves that `order` names first and in its order, then the others in theirs."""
    first: Sequence[str] = [name for name in order if name in leaves]
    return {name: leaves[name] for name in first} | dict(leaves)


class _Node(dict[str | int, object]):
    """A container that is still growing; a leaf may be a dict itself."""


def _finished(value: object, place: Place, kind: Kind) -> object:
    if not isinstance(value, _Node):
        return value
    below = {key: _finished(item, (*place, key), kind) for key, item in value.items()}
    made = kind(place) or (list if below.keys() == set(range(len(below))) else dict)
    if made in (list, tuple):
        return made(below[number] for number in range(len(below)))
    return made(below)
