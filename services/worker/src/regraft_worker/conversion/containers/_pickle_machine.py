"""A machine for the instructions of a pickle that can make plain containers and descriptions, and nothing else.

Python's own unpickler, however restricted, sets attributes and calls methods of what it makes. This one knows no
object to set an attribute of: names are looked up in a fixed table (`_known_names`), calls make descriptions, and every
instruction that is not needed for a checkpoint is refused. Nothing of what the pickle names is ever imported.

The trade-off: about a million instructions a second, where Python's has twenty; a checkpoint has some ten thousand.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

from regraft_worker.conversion.containers._known_names import call, is_key, known, storage
from regraft_worker.conversion.containers._notes import Name, NumpyType, Storage
from regraft_worker.conversion.containers._report import UNREADABLE, UNSAFE, UNSUPPORTED, Refusal, shown

_MAX_BITS = 1024  # of a whole number: a seed may have some hundred
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_DATA = frozenset(_NUMBERS + _TEXTS + _BYTES)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = frozenset({"PROTO", "FRAME"})


def unpickle(file: BytesIO, storages: dict[str, Storage]) -> object:
    """The next pickle of `file`, which is left behind its end; the storages it refers to go into `storages`.

    Raises:
        Refusal: it asks for more than plain containers and tensors, or is damaged.
    """
    machine = _Machine(storages)
    try:
        for instruction, argument, _ in pickletools.genops(file):
            machine.do(instruction.name, argument)
        return machine.result()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        # KeyError: a memo that was never made; TypeError: a value of a kind that the instruction cannot take.
        cause = f"its pickle is damaged ({type(error).__name__}: {str(error)[:100]})"
        raise Refusal(UNREADABLE, cause) from error


class _Machine:
    def __init__(self, storages: dict[str, Storage]) -> None:
        self._storages = storages
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> object:
        if self._marks or len(self._stack) != 1:
            raise Refusal(UNREADABLE, "its pickle is damaged (it does not end in one object)")
        return self._stack[0]

    def do(self, name: str, argument: Any) -> None:
        if name in _DATA:
            self._stack.append(_small(argument))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name == "STOP":
            self._stack.append(self._stack.pop())  # an empty stack is an error
        elif name not in _IGNORED:
            raise Refusal(UNSAFE, f"its pickle has the instruction {name}, which no checkpoint needs")

    def mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        found = self._stack
        self._stack = self._marks.pop()
        return found

    def pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.since_mark()

    def pop_mark(self, _: Any) -> None:
        self.since_mark()

    def duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def put(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def take(self, count: int) -> None:
        """Make a tuple of the newest `count` values."""
        if len(self._stack) < count:
            raise IndexError("pop from an empty stack")
        values = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self._stack.append(values)

    def gather(self, made: Callable[[list[Any]], Any]) -> None:
        """Make one value of all since the mark."""
        values = self.since_mark()
        self._stack.append(made(values))

    def extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise TypeError("it appends to what is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise TypeError("it sets an item of what is no dictionary")
        target.update(_pairs(values))

    def global_(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(known(module, name))

    def stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name is no text")
        self._stack.append(known(module, name))

    def reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(call(function, arguments))

    def new_object(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if function != Name("collections", "OrderedDict"):
            raise Refusal(UNSAFE, f"its pickle makes an object of {shown(function)}, which no checkpoint needs")
        self._stack.append(call(function, arguments))

    def build(self, _: Any) -> None:
        """Only two things have a state: a dictionary of weights (versions of modules, not needed), a numpy type."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, NumpyType) and isinstance(state, tuple) and len(state) > 1 and state[1] in tuple("<>=|"):
            target.order = ">" if state[1] == ">" else "<"
        elif type(target) is not dict or not isinstance(state, dict | None):
            what = type(target).__name__.lower()
            raise Refusal(UNSAFE, f"its pickle sets the state of a {what}, which no checkpoint needs")

    def persistent(self, _: Any) -> None:
        found = storage(self._stack.pop())
        if self._storages.setdefault(found.key, found) != found:
            raise Refusal(UNREADABLE, f"its storage {found.key[:50]!r} has two types or sizes")
        self._stack.append(found)


def _small(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise Refusal(UNSAFE, f"its pickle holds a number of {value.bit_length()} bits")
    return value


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    keys = values[::2]
    for key in keys:
        if not is_key(key):
            raise Refusal(UNSUPPORTED, f"it has a dictionary with a {type(key).__name__} as a key")
    return dict(zip(keys, values[1::2], strict=True))


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "EMPTY_TUPLE": lambda machine, _: machine.take(0),
    "TUPLE1": lambda machine, _: machine.take(1),
    "TUPLE2": lambda machine, _: machine.take(2),
    "TUPLE3": lambda machine, _: machine.take(3),
    "TUPLE": lambda machine, _: machine.gather(tuple),
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "LIST": lambda machine, _: machine.gather(list),
    "APPEND": lambda machine, _: machine.extend([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "DICT": lambda machine, _: machine.gather(_pairs),
    "SETITEM": lambda machine, _: machine.set_items([machine._stack.pop(-2), machine._stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    # A set keeps no order and has no name for its items: it is taken for a list.
    "EMPTY_SET": lambda machine, _: machine._stack.append([]),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.gather(list),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
