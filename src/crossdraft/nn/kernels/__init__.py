"""Our own kernels, compiled once for this machine.

``rows.c``: the product of few bfloat16 rows with a large matrix. ``attend.c``: the attention of few rows, each along
a path of its own. They are for CPUs with AVX512_BF16 and without AMX, where the libraries' products first wait for
the weights and then multiply, and where trees had to be masked, strewn and padded. They need a C compiler at the
first use; where they cannot be had, ``status`` says why and the library's products are used. CROSSDRAFT_KERNELS=0
leaves them out.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float, Int
from torch import Tensor

from crossdraft.core.places import cache_dir
from crossdraft.core.provenance import bf16_unit

SOURCES = tuple(Path(__file__).with_name(name) for name in ("rows.c", "attend.c"))
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC")
_BLOCK = 32
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Status:
    """library: the compiled kernels; None: there are none, and ``why`` says so in a few words."""

    library: ctypes.CDLL | None
    why: str = ""


@lru_cache(maxsize=1)
def status() -> Status:
    """Compiled, loaded and tried, once for each process."""
    if os.environ.get("CROSSDRAFT_KERNELS") == "0":
        return Status(None, "left out by CROSSDRAFT_KERNELS")
    if (unit := bf16_unit()) != "avx512_bf16":
        return Status(None, "with AMX the library's products are quicker" if unit else "no AVX512_BF16")
    try:
        library = load(compiled(cache_dir() / "kernels"))
    except (OSError, subprocess.SubprocessError) as error:
        return Status(None, f"cannot be compiled: {str(error).partition(os.linesep)[0]:.120}")
    return Status(library) if _is_right(library) else Status(None, "wrong on a small example")


def fits(weight: Tensor) -> bool:
    """Whether a weight (out, in) can be packed."""
    outputs, inputs = weight.shape
    return weight.dtype == torch.bfloat16 and outputs % _BLOCK == 0 and inputs % 2 == 0


def pack(library: ctypes.CDLL, weight: BFloat16[Tensor, "out in"]) -> BFloat16[Tensor, "out in"]:
    """The weight as ``product`` reads it."""
    weight = weight.contiguous()
    out = torch.empty_like(weight)
    library.crossdraft_pack(weight.data_ptr(), out.data_ptr(), *weight.shape)
    return out


def product(
    library: ctypes.CDLL,
    rows: BFloat16[Tensor, "S in"],
    packed: BFloat16[Tensor, "out in"],
    bias: Float[Tensor, "out"] | None,
) -> BFloat16[Tensor, "S out"]:
    """``rows W' + bias``; bias is float32."""
    rows = rows.contiguous()
    out = rows.new_empty(rows.shape[0], packed.shape[0])
    library.crossdraft_rows(
        packed.data_ptr(), rows.data_ptr(), 0 if bias is None else bias.data_ptr(), out.data_ptr(), rows.shape[0],
        *packed.shape, torch.get_num_threads(),
    )  # fmt: skip
    return out


WIDEST = 128
"""Rows of a pass that attend through our own kernel, at most."""


def attends(q: Tensor, keys: Tensor) -> bool:
    """Whether ``attend`` can be used for these rows and this cache."""
    rows, _, groups, dim = q.shape
    return (
        rows <= WIDEST and q.dtype == torch.float32 and q.device.type == "cpu" and dim in (32, 64, 128)
        and groups <= 24 and keys.stride()[1:] == (dim, 1) and status().library is not None
    )  # fmt: skip


def attend(
    q: Float[Tensor, "S H G d"],
    keys: Float[Tensor, "H slots d"],
    values: Float[Tensor, "H slots d"],
    start: int,
    paths: Int[Tensor, "S W"] | None = None,
    lengths: Int[Tensor, "S"] | None = None,
) -> Float[Tensor, "S HGd"]:
    """Each row over slots 0 .. start - 1 and then along its path: slots start + paths[s, :lengths[s]], int32.

    None: a chain's rows, each after the one before. A row's bits depend on its own path alone, not on where its
    keys lie, nor on the other rows. q carries the scale. Raises MemoryError.
    """
    rows, heads, groups, dim = q.shape
    q, out = q.contiguous(), q.new_empty(rows, heads * groups * dim)
    library = status().library
    assert library is not None, "ask attends() first"
    done = library.crossdraft_attend(
        q.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(),
        None if paths is None else paths.data_ptr(), None if lengths is None else lengths.data_ptr(),
        rows, heads, groups, dim, keys.stride(0), start, rows if paths is None else paths.shape[1],
        torch.get_num_threads(),
    )  # fmt: skip
    if not done:
        raise MemoryError("no memory for the scores of a pass")
    return out


def load(path: Path) -> ctypes.CDLL:
    """A compiled library, with the types of its functions. Raises OSError."""
    library = ctypes.CDLL(str(path))
    pointer, long = ctypes.c_void_p, ctypes.c_long
    library.crossdraft_pack.argtypes = [pointer, pointer, long, long]
    library.crossdraft_rows.argtypes = [pointer] * 4 + [long] * 3 + [ctypes.c_int]
    library.crossdraft_pack.restype = library.crossdraft_rows.restype = None
    library.crossdraft_attend.argtypes = [pointer] * 6 + [long] * 7 + [ctypes.c_int]
    return library


def compiled(folder: Path, flags: tuple[str, ...] = FLAGS) -> Path:
    """The library in ``folder``, compiled for this very machine if it is not there.

    Raises OSError without a compiler or a place to write, SubprocessError when compiling fails.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "cc", "clang")), None)
    if compiler is None:
        raise OSError("no C compiler (gcc, cc or clang)")
    openmp = _openmp()
    sign = "\n".join((*(source.read_text() for source in SOURCES), compiler, " ".join(flags), openmp, _machine()))
    target = folder / f"kernels-{hashlib.sha256(sign.encode()).hexdigest()[:20]}.so"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made, objects = Path(scratch) / "kernels.so", [Path(scratch) / f"{source.stem}.o" for source in SOURCES]
        commands = [
            [*flags, "-c", str(source), "-o", str(into)] for source, into in zip(SOURCES, objects, strict=True)
        ]
        for command in (*commands, ["-shared", *map(str, objects), openmp, "-o", str(made)]):
            subprocess.run([compiler, *command], check=True, capture_output=True, timeout=_TIMEOUT_S)
        made.replace(target)
    return target


def _openmp() -> str:
    """torch's own OpenMP library: with a second one there would be twice the threads."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return str(found[0]) if found else "-lgomp"


def _machine() -> str:
    """The processor, by its name and all that it can."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in told.splitlines() if line.startswith(("model name", "flags"))}))


def _is_right(library: ctypes.CDLL) -> bool:
    """Small whole numbers: every sum is exact, so the results must agree to the bit."""
    weight = (torch.arange(64 * 34, dtype=torch.float32).view(64, 34) % 5 - 2).bfloat16()
    bias = torch.arange(64, dtype=torch.float32) % 7
    packed = pack(library, weight)
    for count in (1, 3, 14, 15, 40):
        rows = (torch.arange(count * 34, dtype=torch.float32).view(count, 34) % 3 - 1).bfloat16()
        if not torch.equal(
            product(library, rows, packed, bias).float(), F.linear(rows.float(), weight.float(), bias)
        ):
            return False
    return True
