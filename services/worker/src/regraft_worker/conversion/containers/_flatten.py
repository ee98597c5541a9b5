"""The tree of a pickle as flat names, nested ones joined by dots.

One list may be in a tree many times, and hold itself: what is visited, how deep and how much text comes out is counted,
so that a few bytes cannot stand for a billion leaves.
"""

from __future__ import annotations

from collections.abc import Iterator

from regraft_worker.conversion.containers._notes import Name, Storage, Tensor
from regraft_worker.conversion.containers._report import UNSAFE, UNSUPPORTED, Refusal, shown

_MAX_DEPTH = 64
_MAX_VISITS = 1_000_000
_MAX_TEXT = 64 * 2**20


class Flat:
    """Tensors and values by name, in the order of the tree."""

    def __init__(self, tree: object) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, object] = {}
        self._visits = 0
        self._text = 0
        if not isinstance(tree, dict | list | tuple):
            raise Refusal(UNSUPPORTED, f"it holds one {type(tree).__name__.lower()} and no dictionary of tensors")
        self._walk(tree, "", 0)

    def _walk(self, node: object, name: str, depth: int) -> None:
        self._count(name, node, depth)
        if isinstance(node, dict | list | tuple):
            for key, value in _children(node):
                self._walk(value, f"{name}.{key}" if depth else key, depth + 1)
            return
        if name in self.tensors or name in self.values:
            raise Refusal(UNSUPPORTED, f"two of its entries are called {shown(name)}")
        if isinstance(node, Tensor):
            self.tensors[name] = node
        else:
            self.values[name] = _value(node)

    def _count(self, name: str, node: object, depth: int) -> None:
        self._visits += 1
        self._text += len(name) + (len(node) if isinstance(node, str) else 0)
        if depth > _MAX_DEPTH:
            raise Refusal(UNSAFE, f"it is nested more than {_MAX_DEPTH} deep")
        if self._visits > _MAX_VISITS or self._text > _MAX_TEXT:
            raise Refusal(UNSAFE, f"it has more than {_MAX_VISITS} entries or {_MAX_TEXT} letters")


def _children(node: dict[object, object] | list[object] | tuple[object, ...]) -> Iterator[tuple[str, object]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return ((str(key), value) for key, value in items)


def _value(node: object) -> object:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, Name):
        return str(node)
    if isinstance(node, bytes | bytearray):
        return {"opaque": f"{len(node)} bytes"}
    what = "a bare storage" if isinstance(node, Storage) else type(node).__name__
    return {"opaque": what}
