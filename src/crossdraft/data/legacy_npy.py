"""Legacy event clips: a 0-d object array in a ``.npy``, holding a pickled dict of arrays, read without unpickling.

EventGPT's published data are such files. A pickle is a program and unpickling runs it, so we do not: a small stack
machine walks the opcodes and knows plain values, dicts, lists, tuples and four of numpy's names. Every other name
is refused by its name. Nothing is allocated from a declared size; arrays are views of bytes that are in the file.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from crossdraft.core.errors import DataError

# a clip of 20 s of the largest set is below this; a pickle cannot be read in slices
LARGEST_PICKLE_BYTES = 2 << 30
# the published clips have about 80; a list of image indices adds a few per image
MOST_OPCODES = 100_000
HEADER_BYTES = 10_000

# numpy 1 and numpy 2 name the same things differently
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): "_reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "_reconstruct",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
}

_NUMBER_TYPES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}


def read_legacy_npy(path: Path) -> dict[str, Any]:
    """The dict in a legacy clip: columns as numpy arrays, the other entries as plain values.

    Raises:
        DataError: not such a file, truncated, or holding anything but numbers, strings and number arrays.
    """
    if path.stat().st_size > LARGEST_PICKLE_BYTES:
        raise DataError(f"{path}: larger than {LARGEST_PICKLE_BYTES >> 30} GiB; convert it to .npz or HDF5 first")
    with path.open("rb") as file:
        _read_object_header(file, path)
        payload = file.read()
    try:
        value = _Machine(str(path)).run(payload)
    except DataError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        # ValueError and UnicodeDecodeError come from genops on cut or garbled input, the others from an opcode that
        # finds the wrong thing on the stack; for the user all of them are one: the file is not whole
        raise DataError(
            f"{path}: the file is truncated or damaged ({error}); copy it again or convert it to .npz"
        ) from None
    if isinstance(value, _Array):
        value = value.content
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, must hold a dict with x, y, t, p")
    return {key: entry.to_numpy(str(path)) if isinstance(entry, _Array) else entry for key, entry in value.items()}


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that a .npy file declares. ValueError, with one short line, for anything that is no header."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = readers[version](file, max_header_size=HEADER_BYTES)
    except Exception as error:
        # numpy reads the header as Python text; damaged text raises from tokenizer, parser, ast and dtype alike
        raise ValueError(f"bad header: {' '.join(str(error).split())[:80] or type(error).__name__}") from None
    if any(side < 0 for side in shape):
        raise ValueError(f"bad header: shape {shape}")
    return shape, dtype


def _read_object_header(file: IO[bytes], path: Path) -> None:
    try:
        shape, dtype = read_npy_header(file)
    except ValueError as error:
        raise DataError(f"{path}: not a .npy file, or a truncated one ({error}); copy it again") from None
    if dtype != np.dtype(object) or shape != ():
        raise DataError(
            f"{path}: holds an array {dtype}{list(shape)}, not a clip (a dict with x, y, t, p); save the four "
            "columns with np.savez instead"
        )


class _Mark:
    """Where a run of stacked values begins."""


@dataclass(frozen=True)
class _Name:
    """One of the allowed names; never the real thing, so that nothing can be called."""

    name: str


@dataclass
class _DType:
    code: str
    order: Literal["<", ">", "|", "="] = "<"

    def to_numpy(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder("=" if self.order == "|" else self.order)


@dataclass
class _Array:
    shape: tuple[int, ...] = ()
    dtype: _DType | None = None
    fortran: bool = False
    content: Any = None  # bytes of numbers; for an object array its list

    def to_numpy(self, name: str) -> np.ndarray:
        if self.dtype is None or not isinstance(self.content, bytes):
            raise DataError(f"{name}: an array in it holds Python objects; only number arrays are read")
        dtype = self.dtype.to_numpy()
        declared = math.prod(self.shape) * dtype.itemsize
        if declared != len(self.content):
            raise DataError(
                f"{name}: an array declares {declared} bytes and holds {len(self.content)}; the file is damaged"
            )
        flat = np.frombuffer(self.content, dtype).astype(dtype.newbyteorder("="), copy=False)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


class _Machine:
    """Walks the opcodes of one pickle."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, payload: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(BytesIO(payload))):
            if count > MOST_OPCODES:
                raise DataError(f"{self.name}: the pickle has more than {MOST_OPCODES} steps; convert it to .npz")
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("no end mark")

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in _IGNORED:
            return
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode in _TUPLES:
            size = _TUPLES[opcode]
            self.stack[-size:] = [tuple(self.stack[-size:])]
        elif opcode == "TUPLE":
            self.stack.append(tuple(self._since_mark()))
        elif opcode == "APPEND":
            item = self.stack.pop()
            self._top(list).append(item)
        elif opcode == "APPENDS":
            items = self._since_mark()
            self._top(list).extend(items)
        elif opcode == "SETITEM":
            value, key = self.stack.pop(), self.stack.pop()
            self._set(key, value)
        elif opcode == "SETITEMS":
            items = self._since_mark()
            for key, value in zip(items[::2], items[1::2], strict=True):
                self._set(key, value)
        elif opcode == "GLOBAL":
            self._global(*argument.split(" ", 1))
        elif opcode == "STACK_GLOBAL":
            attribute, module = self.stack.pop(), self.stack.pop()
            self._global(module, attribute)
        elif opcode == "REDUCE":
            arguments, function = self.stack.pop(), self.stack.pop()
            self.stack.append(self._call(function, arguments))
        elif opcode == "BUILD":
            state = self.stack.pop()
            self._build(self.stack[-1], state)
        else:
            raise DataError(
                f"{self.name}: the pickle uses {opcode}, which a clip has no need of; refused, use .npz"
            )

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while not isinstance(self.stack[at], _Mark):
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"a {kind.__name__} was expected")
        return self.stack[-1]

    def _set(self, key: Any, value: Any) -> None:
        # hashing a nested tuple can take for ever, a string cannot
        if not isinstance(key, str):
            raise ValueError("a key is not a string")
        self._top(dict)[key] = value

    def _global(self, module: Any, attribute: Any) -> None:
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise ValueError("a name is not a string")
        known = ALLOWED.get((module, attribute))
        if known is None:
            raise DataError(
                f"{self.name}: the pickle asks for {module}.{attribute}; refused, because a clip needs only numpy "
                "arrays. Do not trust this file; get a .npz"
            )
        self.stack.append(_Name(known))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not (isinstance(function, _Name) and isinstance(arguments, tuple)):
            raise ValueError("a call of something that is not a name")
        if function.name == "_reconstruct":
            return _Array()
        if function.name == "dtype":
            code = arguments[0]
            if code == "O8":
                return _DType("O")
            if code not in _NUMBER_TYPES:
                raise DataError(
                    f"{self.name}: an array of type {code!r:.40}; only integers, floats and bool are read"
                )
            return _DType(code)
        if function.name == "scalar":
            dtype, content = arguments
            if not isinstance(dtype, _DType) or dtype.code == "O":
                raise ValueError("a scalar without a number type")
            return np.frombuffer(_as_bytes(content), dtype.to_numpy(), count=1)[0].item()
        raise ValueError(f"a call of {function.name}")

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, _DType):
            if state[1] not in ("<", ">", "|", "="):
                raise ValueError(f"byte order {state[1]!r:.20}")
            target.order = state[1]
        elif isinstance(target, _Array):
            _, shape, dtype, fortran, content = state
            if not (
                isinstance(shape, tuple)
                and all(type(side) is int and side >= 0 for side in shape)
                and isinstance(dtype, _DType)
            ):
                raise ValueError("an array without shape or type")
            target.shape, target.fortran = shape, bool(fortran)
            if dtype.code == "O":
                target.content = content
            else:
                target.dtype, target.content = dtype, _as_bytes(content)
        else:
            raise ValueError("a state for something that has none")


def _as_bytes(content: Any) -> bytes:
    if isinstance(content, str):  # Python 2 wrote array bytes as a string; genops hands them over as latin-1
        return content.encode("latin-1")
    if not isinstance(content, bytes):
        raise ValueError("array content that is not bytes")
    return content


_IGNORED = {"PROTO", "FRAME"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": _Mark,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
