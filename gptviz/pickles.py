"""A check of a PyTorch checkpoint's pickle by its opcodes alone: nothing in it is called or built.

`torch.load(weights_only=True)` runs no code from the file, but it calls `bytearray(n)` for any n, and reads as many
values as there are. This module follows the opcodes that torch accepts on a stack of placeholders, and refuses
everything that a state dict does not need.
"""

import pickletools
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import torch

MOST_BYTES = 10_000_000  # of pickles; the tensors' values are stored outside them
MOST_OPCODES = 1_000_000  # a GPT-2 XL with its optimizer has a tenth of this
_INT32 = 2**31

# Storage class -> bytes per value.
_STORAGES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
    "torch.storage.UntypedStorage": 1,
}
_CALLED = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.device",
}
_VALUES = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
}
_COLLECTING = {
    *("MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
}


class NotPlainError(ValueError):
    """A pickle that asks for more than a state dict needs; the message says what that is."""


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    key: str
    n_bytes: int
    item_bytes: int


_ORDERED_DICT, _TENSOR, _OTHER = object(), object(), object()  # placeholders for built values, by kind


def storage_bytes(pickles: bytes, n_pickles: int) -> dict[str, int]:
    """Return the storages that a sequence of `n_pickles` pickles asks for: key -> bytes.

    Raises `NotPlainError`, and `ValueError`, `LookupError` or `TypeError` if the pickles are damaged.
    """
    reader = _Reader()
    stream = BytesIO(pickles)
    for _ in range(n_pickles):
        reader.follow(stream)
    return {storage.key: storage.n_bytes for storage in reader.storages.values()}


class _Reader:
    """A stack machine for the opcodes that torch's own reader accepts."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self._n_opcodes = 0

    def follow(self, stream: BytesIO) -> None:
        """Follow the opcodes of one pickle."""
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            self._n_opcodes += 1
            if self._n_opcodes > MOST_OPCODES:
                raise NotPlainError(f"more than {MOST_OPCODES:,} values")
            self._step(opcode.name, argument)

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in _VALUES:
            self._stack.append(argument)
        elif opcode in _COLLECTING:
            self._collect(opcode)
        elif opcode not in ("PROTO", "STOP"):
            self._make(opcode, argument)

    def _collect(self, opcode: str) -> None:
        """Handle opcodes that build collections: tuples keep their items, lists and dicts do not."""
        stack = self._stack
        match opcode:
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n_parts = int(opcode[-1])
                stack[-n_parts:] = [tuple(stack[-n_parts:])]
            case "TUPLE":
                parts = tuple(self._above_mark())
                self._stack.append(parts)
            case "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(_OTHER)
            case "APPEND":
                stack.pop()
            case "APPENDS":
                self._above_mark()
            case "SETITEM":
                _check_keys([stack[-2]])
                del stack[-2:]
            case "SETITEMS":
                _check_keys(self._above_mark()[::2])

    def _make(self, opcode: str, argument: Any) -> None:
        """Handle opcodes that name, call or look up an object."""
        stack = self._stack
        match opcode:
            case "GLOBAL":
                stack.append(_Global(_allowed(argument.replace(" ", ".", 1))))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_made(function, arguments))
            case "BUILD":  # attributes of a built object: a state dict has its modules' versions
                stack.pop()
                if stack[-1] is not _ORDERED_DICT:
                    raise NotPlainError("attributes of an object")
            case _:
                raise NotPlainError(f"the opcode {opcode}")

    def _above_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _storage(self, id: Any) -> _Storage:
        match id:
            case ("storage", _Global(kind), str(key), str(), int(n_values)) if kind in _STORAGES and n_values >= 0:
                pass
            case ("storage", _Global(kind), str(key), str(), int(n_values), None) if (
                kind in _STORAGES and n_values >= 0
            ):
                pass
            case _:
                raise NotPlainError("a storage of another kind")
        storage = _Storage(key, n_values * _STORAGES[kind], _STORAGES[kind])
        if self.storages.setdefault(key, storage) != storage:
            raise NotPlainError("one storage in two sizes")
        return storage


def _allowed(name: str) -> str:
    if name in _STORAGES or name in _CALLED or _dtype(name) is not None:
        return name
    raise NotPlainError(name)


def _dtype(name: str) -> torch.dtype | None:
    module, _, word = name.rpartition(".")
    kind = getattr(torch, word, None) if module == "torch" else None
    return kind if isinstance(kind, torch.dtype) else None


def _check_keys(keys: Sequence[Any]) -> None:
    """Allow only keys that hash quickly and cannot be made to collide."""
    if not all(isinstance(key, str | bytes) or (isinstance(key, int) and abs(key) < _INT32) for key in keys):
        raise NotPlainError("a dictionary with keys other than words and numbers")


def _made(function: Any, arguments: Any) -> object:
    """Return the placeholder for a call's result. Raises `NotPlainError` for a call that is not allowed."""
    name = function.name if isinstance(function, _Global) else None
    match name, arguments:
        case "collections.OrderedDict", ():
            return _ORDERED_DICT
        case "torch._utils._rebuild_parameter", (made, *_) if made is _TENSOR:
            return _TENSOR
        case "torch.device" | "torch.Size", tuple():
            return _OTHER
        case "torch._utils._rebuild_tensor_v3", (_Storage() as storage, offset, size, stride, _, _, _Global(kind), *_):
            item = _dtype(kind)
            _check_extent(storage, item.itemsize if item else 0, offset, size, stride)
            return _TENSOR
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", (_Storage() as storage, *rest):
            offset, size, stride, *_ = rest
            _check_extent(storage, storage.item_bytes, offset, size, stride)
            return _TENSOR
    raise NotPlainError("a call")


def _check_extent(storage: _Storage, item_bytes: int, offset: int, size: Sequence[int], stride: Sequence[int]) -> None:
    """Refuse a tensor that extends beyond its storage, because torch would enlarge the storage."""
    if len(size) != len(stride) or min((offset, *size, *stride)) < 0 or item_bytes == 0:
        raise NotPlainError("a tensor of no shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and (last + 1) * item_bytes > storage.n_bytes:
        raise NotPlainError("a tensor larger than its storage")
