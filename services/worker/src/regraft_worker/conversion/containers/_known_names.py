"""The only names a checkpoint's pickle may ask for, and what calling them means.

Arguments are a stranger's too: each is checked for its type and range, so that what comes out describes a part of the
file that is there. A tensor that repeats values (an expanded one) is refused: a few bytes would stand for terabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeGuard

from regraft_worker.conversion.containers._notes import ITEM_BYTES, Name, NumpyType, Storage, Tensor
from regraft_worker.conversion.containers._report import UNREADABLE, UNSAFE, UNSUPPORTED, Refusal, shown

STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
}
_STRUCT = dict(
    zip(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"), "?bhiqBHIQefd", strict=True)
)
"""numpy's names of types to those of `struct`."""
_MAX_DIMS = 64
_MAX_SIZE = 2**62

Arguments = tuple[object, ...]


def known(module: str, name: str) -> Name:
    """The name, if it is one of those a checkpoint needs.

    Raises:
        Refusal: it is not; nothing was imported to find out.
    """
    if module in ("torch", "torch.cuda") and name in STORAGES:
        return Name("torch", name)
    found = Name(module, name)
    if found in _CALLS or (module == "torch" and name in ITEM_BYTES):
        return found
    if module == "torch" and name.endswith("Storage"):
        raise Refusal(UNSUPPORTED, f"it holds values of the type {shown(name)}, which is not read")
    raise Refusal(UNSAFE, f"its pickle asks for {shown(f'{module}.{name}')}, which no checkpoint needs")


def call(function: object, arguments: object) -> object:
    """What a known name called with `arguments` describes."""
    made = _CALLS.get(function) if isinstance(function, Name) else None
    if made is None or not isinstance(arguments, tuple):
        what = str(function) if isinstance(function, Name) else type(function).__name__
        raise Refusal(UNSAFE, f"its pickle calls {what}, which is not to be called")
    return made(arguments)


def storage(saved: object) -> Storage:
    """The storage that a persistent id names: ('storage', type, key, device, number of values[, None])."""
    if isinstance(saved, tuple) and len(saved) == 6 and saved[5] is None:
        saved = saved[:5]
    if not isinstance(saved, tuple) or len(saved) != 5 or saved[0] != "storage":
        raise Refusal(UNSAFE, f"its pickle refers to something outside that is no storage: {shown(saved)}")
    _, kind, key, _, numel = saved
    if not isinstance(kind, Name) or kind.name not in STORAGES or not isinstance(key, str) or not _is_size(numel):
        raise Refusal(UNSAFE, f"its pickle refers to a storage in a way torch does not: {shown(saved)}")
    return Storage(key, STORAGES[kind.name], numel)


def _tensor(arguments: Arguments) -> Tensor:
    # (storage, offset, shape, stride), and from version 2 on whether it needs gradients, and hooks: not looked at
    if len(arguments) < 4:
        raise _wild("torch._utils._rebuild_tensor", arguments)
    owner, offset, shape, stride = arguments[:4]
    if not isinstance(owner, Storage) or not _is_size(offset) or not _sizes(shape) or not _sizes(stride):
        raise _wild("torch._utils._rebuild_tensor", arguments)
    found = Tensor(owner, offset, tuple(shape), tuple(stride))
    _check_inside(found)
    return found


def _check_inside(tensor: Tensor) -> None:
    if len(tensor.shape) != len(tensor.stride):
        raise Refusal(UNREADABLE, f"a tensor has {len(tensor.shape)} sizes and {len(tensor.stride)} strides")
    count, last = 1, tensor.offset
    for size, step in zip(tensor.shape, tensor.stride, strict=True):
        count *= size
        last += (size - 1) * step
    if count and last >= tensor.storage.numel:
        raise Refusal(UNREADABLE, f"a tensor ends at value {last + 1} of the {tensor.storage.numel} in its storage")
    if count > tensor.storage.numel:
        raise Refusal(UNSUPPORTED, f"a tensor of {count} values repeats the {tensor.storage.numel} of its storage")


def _parameter(arguments: Arguments) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise _wild("torch._utils._rebuild_parameter", arguments)
    return arguments[0]


def _ordered(arguments: Arguments) -> dict[object, object]:
    pairs = arguments[0] if arguments else []
    if len(arguments) > 1 or not isinstance(pairs, list):
        raise _wild("collections.OrderedDict", arguments)
    found: dict[object, object] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not is_key(pair[0]):
            raise _wild("collections.OrderedDict", arguments)
        found[pair[0]] = pair[1]
    return found


def _size(arguments: Arguments) -> tuple[int, ...]:
    if len(arguments) != 1 or not _sizes(arguments[0]):
        raise _wild("torch.Size", arguments)
    return tuple(arguments[0])


def _device(arguments: Arguments) -> str:
    if not arguments or not isinstance(arguments[0], str) or not all(isinstance(item, int) for item in arguments[1:]):
        raise _wild("torch.device", arguments)
    return ":".join(map(str, arguments[:2]))


def _encoded(arguments: Arguments) -> bytes:
    # How pickles of protocol 2 and below keep bytes.
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] != "latin1":
        raise _wild("_codecs.encode", arguments)
    return arguments[0].encode("latin1")


def _numpy_type(arguments: Arguments) -> NumpyType:
    code = arguments[0] if arguments else None
    if not isinstance(code, str) or code not in _STRUCT:
        raise Refusal(UNSUPPORTED, f"it holds values of the numpy type {shown(code)}, which is not read")
    return NumpyType(_STRUCT[code])


def _numpy_scalar(arguments: Arguments) -> object:
    if len(arguments) != 2 or not isinstance(arguments[0], NumpyType) or not isinstance(arguments[1], bytes):
        raise _wild("numpy scalar", arguments)
    (value,) = struct.unpack(arguments[0].order + arguments[0].code, arguments[1])
    return value


def is_key(value: object) -> bool:
    """True for what a dictionary of a checkpoint may be keyed with; hashing a nested tuple could take for ever."""
    return value is None or isinstance(value, str | int | float)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MAX_SIZE


def _sizes(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple | list) and len(value) <= _MAX_DIMS and all(map(_is_size, value))


def _wild(what: str, arguments: Arguments) -> Refusal:
    kinds = ", ".join(type(item).__name__ for item in arguments[:8])
    return Refusal(UNSAFE, f"its pickle calls {what} with ({kinds}), not as torch does")


_CALLS: dict[Name, Callable[[Arguments], object]] = {
    Name("collections", "OrderedDict"): _ordered,
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch", "Size"): _size,
    Name("torch", "device"): _device,
    Name("_codecs", "encode"): _encoded,
    Name("numpy", "dtype"): _numpy_type,
    Name("numpy.core.multiarray", "scalar"): _numpy_scalar,
    Name("numpy._core.multiarray", "scalar"): _numpy_scalar,
}
