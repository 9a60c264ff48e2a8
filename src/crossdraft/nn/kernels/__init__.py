"""Our own kernels, compiled once for this machine.

``rows.c``: the product of few bfloat16 rows with a large matrix. ``attend.c``: the attention of few rows, each
along a path of its own. ``layer.c``: what stands between the two, all layers of a pass, and a drafting head.
``best.c``: the best of a vocabulary, and trees of them. ``bytes.c``: the products of drafting heads.

They are for CPUs with AVX512_BF16, also with AMX, where the libraries' products first wait for the weights and then
multiply, and where trees had to be masked, strewn and padded; and for those with AVX2 alone, where the libraries
only emulate bfloat16, or whose bfloat16 is slower than their float32: there the products are computed in float32,
from weights that come from memory in half as many bytes. They need gcc at the first use (torch's OpenMP is gcc's);
where they cannot be had, ``status`` says why and the library's products are used. CROSSDRAFT_KERNELS=0 leaves them
out.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Complex, Float, Int
from torch import Tensor

from crossdraft.core.places import cache_dir
from crossdraft.core.provenance import bf16_unit, has_fma, slow_bf16

HEADER, *SOURCES = (
    Path(__file__).with_name(name) for name in ("lanes.h", "rows.c", "bytes.c", "attend.c", "layer.c", "best.c")
)
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC")
BLOCK = 32
"""Outputs are padded to a multiple of it."""
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Status:
    """library: the compiled kernels; None: there are none, and ``why`` says so in a few words."""

    library: ctypes.CDLL | None
    why: str = ""

    @property
    def name(self) -> str:
        """Which kernels they are: another name, other costs."""
        return self.why if self.library is None else Path(str(self.library._name)).stem


@lru_cache(maxsize=1)
def status() -> Status:
    """Compiled, loaded and tried, once for each process."""
    if os.environ.get("CROSSDRAFT_KERNELS") == "0":
        return Status(None, "left out by CROSSDRAFT_KERNELS")
    if not bf16_unit() and not has_fma():
        return Status(None, "no AVX2")
    try:
        library = load(compiled(cache_dir() / "kernels"))
    except (OSError, subprocess.SubprocessError) as error:
        return Status(None, f"cannot be compiled: {str(error).partition(os.linesep)[0]:.120}")
    if not library.crossdraft_begin():
        return Status(None, "the system does not let this process use AMX")
    if _is_right(library) and _bytes_right(library) and _attends_right(library) and _layers_right(library):
        return Status(library)
    return Status(None, "wrong on a small example")


def fits(library: ctypes.CDLL, weight: Tensor) -> bool:
    """Whether a weight (out, in) can be packed."""
    return bool(weight.dtype == torch.bfloat16 and weight.shape[1] % library.crossdraft_step() == 0)


@dataclass(frozen=True)
class Packed:
    """A linear layer's weights as the kernels read them.

    weight: (padded out, in), bfloat16, or uint8 with ``scales`` (padded out,) float32; bias: (padded out,) float32.
    """

    weight: Tensor
    bias: Float[Tensor, "out"] | None = None
    scales: Float[Tensor, "out"] | None = None


def has_bytes(library: ctypes.CDLL, weight: Tensor) -> bool:
    """Whether a weight (out, in) can be packed as bytes, and is then faster."""
    fits = weight.dtype == torch.bfloat16 and weight.shape[1] % 16 == 0 and weight.shape[1] <= 2**16
    return bool(fits and library.crossdraft_has_bytes())


def pack_bytes(
    library: ctypes.CDLL, weight: BFloat16[Tensor, "out in"], bias: Float[Tensor, "padded"] | None = None
) -> Packed:
    """The weight rounded to bytes, with what a one is worth in each output. Raises MemoryError."""
    weight = F.pad(weight, (0, 0, 0, -weight.shape[0] % BLOCK)).contiguous()
    out, scales = torch.empty_like(weight, dtype=torch.uint8), torch.empty(weight.shape[0], dtype=torch.float32)
    _check(library.crossdraft_pack_bytes(weight.data_ptr(), out.data_ptr(), scales.data_ptr(), *weight.shape))
    return Packed(out, bias, scales)


def pack(
    library: ctypes.CDLL, weight: BFloat16[Tensor, "out in"], bias: Float[Tensor, "padded"] | None = None
) -> Packed:
    """The weight as ``product`` reads it, with outputs of zeros up to a whole block."""
    weight = F.pad(weight, (0, 0, 0, -weight.shape[0] % BLOCK)).contiguous()
    out = torch.empty_like(weight)
    library.crossdraft_pack(weight.data_ptr(), out.data_ptr(), *weight.shape)
    return Packed(out, bias)


def product(library: ctypes.CDLL, rows: BFloat16[Tensor, "S in"], packed: Packed) -> BFloat16[Tensor, "S padded"]:
    """``rows W' + bias``; of a weight that is rounded to bytes, the rows are rounded too. Raises MemoryError."""
    rows = rows.contiguous()
    out = rows.new_empty(rows.shape[0], packed.weight.shape[0])
    before = packed.weight.data_ptr(), _place(packed.scales), rows.data_ptr(), _place(packed.bias), out.data_ptr()
    sizes = rows.shape[0], *packed.weight.shape, torch.get_num_threads()
    if packed.scales is None:
        done = library.crossdraft_rows(before[0], *before[2:], *sizes)
    else:
        done = library.crossdraft_rows_of_bytes(*before, *sizes)
    _check(done)
    return out


def norm(
    library: ctypes.CDLL, rows: BFloat16[Tensor, "S D"], weight: Float[Tensor, "D"], floor: float
) -> BFloat16[Tensor, "S D"]:
    """``rows * weight / sqrt(|row|^2 + floor^2)``; D a multiple of 16, weight float32."""
    rows = rows.contiguous()
    out = torch.empty_like(rows)
    library.crossdraft_norm(rows.data_ptr(), weight.data_ptr(), out.data_ptr(), *rows.shape, floor)
    return out


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("w", "bias", "scales")),
        *((name, ctypes.c_long) for name in ("n", "k")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Linear) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("norm_in", "norm_mid")),
        *((name, ctypes.c_long) for name in ("heads", "kv_heads", "dim")),
        *((name, ctypes.c_float) for name in ("floor", "scale")),
    ]


class _Head(ctypes.Structure):
    _fields_ = [
        ("within", _Layer),
        *((name, _Linear) for name in ("fuse", "words")),
        *((name, ctypes.c_void_p) for name in ("norm_embed", "norm_feat", "norm_out")),
        ("is_normed", ctypes.c_long),
    ]


class Layer:
    """A decoder layer but for its attention. Of rows [q | k | v], the channels that turn together lie side by side.

    linears: qkv, out, gate_up, down, outputs without padding. norms: of
    the input (None: rows come as attention reads them) and in the middle, as ``norm`` takes them. scale: multiplies
    q. A head's channels, and the feed-forward's, are multiples of 16. All methods raise MemoryError.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        linears: dict[str, Packed],
        norms: tuple[Tensor | None, Tensor],
        *,
        heads: int,
        kv_heads: int,
        dim: int,
        floor: float,
        scale: float,
    ) -> None:
        self._library, self._shape = library, (kv_heads, heads // kv_heads, dim)
        self._kept = linears, norms  # what lies at the addresses below
        before, middle = norms
        products = {name: _linear(of) for name, of in linears.items()}
        self._of = _Layer(
            norm_in=_place(before), norm_mid=_place(middle), heads=heads, kv_heads=kv_heads, dim=dim, floor=floor,
            scale=scale, **products,
        )  # fmt: skip
        self._at = ctypes.byref(self._of)

    @property
    def shape(self) -> tuple[int, ...]:
        """Width of the residual rows, key/value heads, query heads of each, channels of a head."""
        return self._of.out.n, *self._shape

    @property
    def has_norm(self) -> bool:
        """Whether there is a norm between the residual rows and what attention reads."""
        return self._of.norm_in is not None

    def project(
        self, rows: BFloat16[Tensor, "S W"], turns: Complex[Tensor, "S 1 half"], normed: bool
    ) -> tuple[Float[Tensor, "S H G d"], Float[Tensor, "S H d"], Float[Tensor, "S H d"]]:
        """Rotated and scaled q, rotated k and plain v, float32. turns: complex64, of each row or of all.

        normed: the rows go through the input norm first.
        """
        rows, turns, count = rows.contiguous(), turns.contiguous(), rows.shape[0]
        heads, groups, dim = self._shape
        q = torch.empty(count, heads, groups, dim, dtype=torch.float32)
        k = torch.empty(count, heads, dim, dtype=torch.float32)
        v = torch.empty_like(k)
        done = self._library.crossdraft_project(
            self._at, rows.data_ptr(), normed, turns.data_ptr(), _turn_step(turns, count), q.data_ptr(),
            k.data_ptr(), v.data_ptr(), count, torch.get_num_threads(),
        )  # fmt: skip
        _check(done)
        return q, k, v

    def join(self, mixed: Float[Tensor, "S HGd"], rows: BFloat16[Tensor, "S D"]) -> BFloat16[Tensor, "S D"]:
        """The rows plus attention's output, of the values that it mixed; in a new tensor."""
        mixed, rows = mixed.contiguous(), rows.contiguous()
        out = torch.empty_like(rows)
        done = self._library.crossdraft_join(
            self._at, mixed.data_ptr(), rows.data_ptr(), out.data_ptr(), rows.shape[0], torch.get_num_threads()
        )
        _check(done)
        return out

    def feed(self, rows: BFloat16[Tensor, "S D"]) -> None:
        """The feed-forward's output is added to ``rows``, which are contiguous."""
        _check(self._library.crossdraft_feed(self._at, rows.data_ptr(), rows.shape[0], torch.get_num_threads()))


class Stack:
    """Layers of one shape, which follow one another, and the attention between their halves: a pass in one call.

    Each row's bits are those of the layers called one by one. ValueError for layers that do not fit together.
    """

    def __init__(self, library: ctypes.CDLL, layers: Sequence[Layer]) -> None:
        if len({layer.shape for layer in layers}) != 1 or not all(layer.has_norm for layer in layers):
            raise ValueError("layers of one shape are needed, each behind a norm of its own")
        self._library, self._kept = library, tuple(layers)
        self._of = (ctypes.POINTER(_Layer) * len(layers))(*(ctypes.pointer(layer._of) for layer in layers))

    def takes(self, rows: int, keys: Tensor) -> bool:
        """Whether a pass of so many rows over this cache can be had."""
        return attends(rows, self._kept[0].shape[2], keys)

    def __call__(
        self,
        rows: BFloat16[Tensor, "S D"],
        turns: Complex[Tensor, "S 1 half"],
        keys: Float[Tensor, "L H slots d"],
        values: Float[Tensor, "L H slots d"],
        walk: "Walk",
        taps: dict[int, Tensor],
        capture: Collection[int] = (),
        count: int | None = None,
    ) -> BFloat16[Tensor, "S D"]:
        """The rows behind the last layer, in a new tensor; behind the layers of ``capture`` they go to ``taps``.

        turns: complex64, of each row or of all. keys, values: of all layers, float32. count: the first so many
        layers alone. Raises MemoryError.
        """
        count = len(self._kept) if count is None else min(count, len(self._kept))
        rows, turns = rows.contiguous(), turns.contiguous()
        if count == 0:
            return rows.clone()
        out = torch.empty_like(rows)
        places = (ctypes.c_void_p * count)()
        for layer in capture:
            if 0 <= layer < count:
                taps[layer] = torch.empty_like(rows)
                places[layer] = taps[layer].data_ptr()
        done = self._library.crossdraft_stack(
            self._of, count, rows.data_ptr(), None, turns.data_ptr(), _turn_step(turns, len(rows)),
            keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1), *walk.places(len(rows)), places,
            out.data_ptr(), len(rows), torch.get_num_threads(),
        )  # fmt: skip
        _check(done)
        return out


class Head:
    """A drafting head around one layer: what comes before it in one call with it, and what comes behind in another.

    Before it the rows' embeddings and features, side by side, go through ``fuse``, or, where that is None, each
    through its own of the norms (embedding's, feature's); is_normed: the feature behind its norm is the residual
    row.
    Behind it a row goes through the third norm, if there is one, and ``words``, which may have padded outputs.
    The bits are those of the parts called one by one. Both methods raise MemoryError.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        layer: Layer,
        fuse: Packed | None,
        norms: tuple[Tensor | None, Tensor | None, Tensor | None],
        words: Packed,
        *,
        is_normed: bool = False,
    ) -> None:
        self._library, self._kept = library, (layer, fuse, norms, words)  # what lies at the addresses below
        self._groups, self._num_words = layer.shape[2], words.weight.shape[0]
        self._of = _Head(
            layer._of, _Linear() if fuse is None else _linear(fuse), _linear(words), *map(_place, norms), is_normed
        )
        self._at = ctypes.byref(self._of)

    def takes(self, rows: int, keys: Tensor) -> bool:
        """Whether so many rows over this cache can be had."""
        return attends(rows, self._groups, keys)

    def __call__(
        self,
        feats: BFloat16[Tensor, "R D"],
        above: Int[Tensor, "S"] | None,
        embeds: BFloat16[Tensor, "S D"],
        turns: Complex[Tensor, "S 1 half"],
        keys: Float[Tensor, "1 H slots d"],
        values: Float[Tensor, "1 H slots d"],
        walk: "Walk",
    ) -> BFloat16[Tensor, "S D"]:
        """The rows behind the layer. above: which of the features is each row's, int64; None: row by row. turns:
        complex64, of each row or of all."""
        feats, embeds, turns = feats.contiguous(), embeds.contiguous(), turns.contiguous()
        above = above if above is None else above.contiguous()
        out, count = torch.empty_like(embeds), embeds.shape[0]
        assert (feats if above is None else above).shape[0] == count, "a feature for each embedding is needed"
        done = self._library.crossdraft_level(
            self._at, feats.data_ptr(), _place(above), embeds.data_ptr(), turns.data_ptr(),
            _turn_step(turns, count), keys.data_ptr(), values.data_ptr(), keys.stride(1), *walk.places(count),
            out.data_ptr(), count, torch.get_num_threads(),
        )  # fmt: skip
        _check(done)
        return out

    def words(self, rows: BFloat16[Tensor, "S D"]) -> BFloat16[Tensor, "S padded"]:
        """What rows behind the layer say."""
        rows, count = rows.contiguous(), rows.shape[0]
        scores = torch.empty(count, self._num_words, dtype=torch.bfloat16)
        done = self._library.crossdraft_words(
            self._at, rows.data_ptr(), scores.data_ptr(), count, torch.get_num_threads()
        )
        _check(done)
        return scores


def _linear(of: Packed) -> _Linear:
    return _Linear(_place(of.weight), _place(of.bias), _place(of.scales), *of.weight.shape)


def _turn_step(turns: Tensor, count: int) -> int:
    """How many floats lie between the turns of two rows; 0: all turn alike."""
    return 2 * turns.shape[-1] if turns.shape[0] > 1 or count == 1 else 0


def _check(done: int) -> None:
    if not done:
        raise MemoryError("no memory for the rows of a pass")


def _place(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class Tree(ctypes.Structure):
    """Where the arrays of a tree that grows lie (``heads.growth``); n words, of which a row's children are k."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in (
            "ids", "words", "expanded", "order", "above", "word", "values", "worth", "paths", "spare",
        )),
        *((name, ctypes.c_long) for name in ("n", "k")),
    ]  # fmt: skip


def grow(
    library: ctypes.CDLL, tree: Tree, logits: BFloat16[Tensor, "R V"], made: int, used: int, depth: int
) -> None:
    """The level below rows with these logits: the root, at depth 0, or so many of the last level's best.

    R is at most the tree's k, and that ``MOST``. made: nodes so far; used: those of them that became rows, these
    included.
    """
    rows, width = logits.shape
    assert width == tree.n, "logits of other words than the tree's"
    step, beside = logits.stride()
    if beside != 1:
        logits, step = logits.contiguous(), width
    at, threads = logits.data_ptr(), torch.get_num_threads()
    library.crossdraft_grow(ctypes.byref(tree), at, rows, step, made, used, depth, threads)


MOST = 64
"""Children of a row, and rows of a level, that ``grow`` can be asked for."""

WIDEST = 128
"""Rows of a pass that attend through our own kernel, at most."""


class Walk(NamedTuple):
    """Where the rows of a pass look: at slots 0 .. start - 1, and along their paths.

    Keys and values of the rows go into slots start + first .. ; row s looks at slots start + paths[s, :lengths[s]],
    int32 (lengths None: all of them), below first + rows. paths None: a chain's rows, each after the one before
    (first is 0).
    """

    start: int
    first: int = 0
    paths: Int[Tensor, "S W"] | None = None
    lengths: Int[Tensor, "S"] | None = None

    def places(self, rows: int) -> tuple[int | None, int | None, int, int, int]:
        """As the kernels take them: paths, lengths, start, first, width of the paths."""
        width = rows if self.paths is None else self.paths.shape[1]
        return _place(self.paths), _place(self.lengths), self.start, self.first, width


def attends(rows: int, groups: int, keys: Tensor) -> bool:
    """Whether ``attend`` can be used for so many rows, query heads of a key/value head, and a cache (..., d)."""
    dim = keys.shape[-1]
    return (
        rows <= WIDEST and keys.dtype == torch.float32 and keys.device.type == "cpu" and dim in (32, 64, 128)
        and groups <= 24 and keys.stride()[-2:] == (dim, 1) and status().library is not None
    )  # fmt: skip


def attend(
    q: Float[Tensor, "S H G d"],
    k: Float[Tensor, "S H d"],
    v: Float[Tensor, "S H d"],
    keys: Float[Tensor, "H slots d"],
    values: Float[Tensor, "H slots d"],
    walk: Walk,
    library: ctypes.CDLL | None = None,
) -> Float[Tensor, "S HGd"]:
    """The rows' keys and values go into the cache, and each row looks where ``walk`` says.

    A row's bits depend on its own path alone, not on where its keys lie, nor on the other rows. q carries the
    scale. library: None: this machine's.
    Raises MemoryError.
    """
    rows, heads, groups, dim = q.shape
    q, k, v, out = q.contiguous(), k.contiguous(), v.contiguous(), q.new_empty(rows, heads * groups * dim)
    library = library or status().library
    assert library is not None, "ask attends() first"
    paths, lengths, *slots = walk.places(rows)
    done = library.crossdraft_attend(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(), paths,
        lengths, rows, heads, groups, dim, keys.stride(0), *slots, torch.get_num_threads(),
    )  # fmt: skip
    _check(done)
    return out


def load(path: Path) -> ctypes.CDLL:
    """A compiled library, with the types of its functions. Raises OSError."""
    library = ctypes.CDLL(str(path))
    pointer, long = ctypes.c_void_p, ctypes.c_long
    library.crossdraft_pack.argtypes = [pointer, pointer, long, long]
    library.crossdraft_rows.argtypes = [pointer] * 4 + [long] * 3 + [ctypes.c_int]
    library.crossdraft_pack.restype = None
    library.crossdraft_step.restype = long
    library.crossdraft_pack_bytes.argtypes = [pointer] * 3 + [long, long]
    library.crossdraft_rows_of_bytes.argtypes = [pointer] * 5 + [long] * 3 + [ctypes.c_int]
    library.crossdraft_attend.argtypes = [pointer] * 8 + [long] * 8 + [ctypes.c_int]
    library.crossdraft_norm.argtypes = [pointer] * 3 + [long, long, ctypes.c_float]
    library.crossdraft_norm.restype = None
    library.crossdraft_project.argtypes = [
        pointer,
        pointer,
        ctypes.c_int,
        pointer,
        long,
        *[pointer] * 3,
        long,
        ctypes.c_int,
    ]
    library.crossdraft_grow.argtypes = [pointer, pointer, *[long] * 5, ctypes.c_int]
    library.crossdraft_grow.restype = None
    library.crossdraft_join.argtypes = [pointer] * 4 + [long, ctypes.c_int]
    library.crossdraft_feed.argtypes = [pointer] * 2 + [long, ctypes.c_int]
    library.crossdraft_stack.argtypes = [
        pointer, long, *[pointer] * 3, long, pointer, pointer, long, long, pointer, pointer, *[long] * 3, pointer,
        pointer, long, ctypes.c_int,
    ]  # fmt: skip
    library.crossdraft_level.argtypes = [
        *[pointer] * 5, long, pointer, pointer, long, pointer, pointer, *[long] * 3, pointer, long, ctypes.c_int,
    ]  # fmt: skip
    library.crossdraft_words.argtypes = [pointer] * 3 + [long, ctypes.c_int]
    return library


def flags_here() -> tuple[str, ...]:
    """For the compiler: what this machine does fastest."""
    return (*FLAGS, "-DFLOATS_ARE_FASTER") if slow_bf16() else FLAGS


def compiled(folder: Path, flags: tuple[str, ...] | None = None) -> Path:
    """The library in ``folder``, compiled for this very machine if it is not there. flags: None for ``flags_here``.

    Raises OSError without a compiler or a place to write, SubprocessError when compiling fails.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "cc")), None)
    if compiler is None:
        raise OSError("no C compiler (gcc)")
    flags, openmp = flags_here() if flags is None else flags, _openmp()
    sign = "\n".join(
        (*(source.read_text() for source in (HEADER, *SOURCES)), compiler, " ".join(flags), openmp, _machine())
    )
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
    weight = (torch.arange(64 * 96, dtype=torch.float32).view(64, 96) % 5 - 2).bfloat16()
    bias = torch.arange(64, dtype=torch.float32) % 7
    packed = pack(library, weight, bias)
    for count in (1, 3, 14, 15, 17, 29, 40, 120):
        rows = (torch.arange(count * 96, dtype=torch.float32).view(count, 96) % 3 - 1).bfloat16()
        if not torch.equal(product(library, rows, packed).float(), F.linear(rows.float(), weight.float(), bias)):
            return False
    return True


def _bytes_right(library: ctypes.CDLL) -> bool:
    """Whole numbers up to 127, which are bytes as they are: every sum is exact."""
    weight = (torch.arange(64 * 48, dtype=torch.float32).view(64, 48) * 5 % 255 - 127).bfloat16()
    weight[:, -1] = 127
    packed = pack_bytes(library, weight)
    for count in (1, 3, 12, 13, 97):
        rows = (torch.arange(count * 48, dtype=torch.float32).view(count, 48) * 7 % 255 - 127).bfloat16()
        rows[:, 0] = -127
        if not torch.equal(product(library, rows, packed), (rows.float() @ weight.float().T).bfloat16()):
            return False
    return True


def _attends_right(library: ctypes.CDLL) -> bool:
    """A small chain within rounding of the library's attention, and its last row alone with the same bits."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    heads, groups, dim, start, rows = 2, 3, 32, 21, 5
    keys, values = (draw(heads, start + rows, dim) for _ in range(2))
    k, v = (draw(rows, heads, dim) for _ in range(2))
    q = draw(rows, heads, groups, dim) * dim**-0.5
    got = attend(q, k, v, keys, values, Walk(start), library)
    last = slice(rows - 1, rows)
    alone = attend(q[last], k[last], v[last], keys, values, Walk(start + rows - 1), library)
    shown = torch.ones(rows, start + rows, dtype=torch.bool).tril(start)
    scores = torch.einsum("shgd,hnd->hgsn", q, keys).masked_fill(~shown, float("-inf"))
    wanted = torch.einsum("hgsn,hnd->shgd", scores.softmax(-1), values).flatten(1)
    return bool((got - wanted).abs().max() < 1e-4) and torch.equal(alone[0], got[-1])


def _layers_right(library: ctypes.CDLL, seed: int = 0) -> bool:
    """A small layer within bfloat16's rounding of float32, and its last row alone with the same bits.

    A layer that writes nothing shows what lay in its memory before: of another seed, where it was tried before.
    """
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    size, dim, floor, rows = 64, 32, 0.01, 3
    shapes = {"qkv": (4 * dim, size), "out": (size, 2 * dim), "gate_up": (2 * size, size), "down": (size, size)}
    weights = {name: (draw(shape) / 8).bfloat16() for name, shape in shapes.items()}
    norm = (1.0 + 0.1 * draw(size)) * size**0.5
    packed = {name: pack(library, w) for name, w in weights.items()}
    layer = Layer(library, packed, (norm, norm), heads=2, kv_heads=1, dim=dim, floor=floor, scale=1.0)
    x, mixed = draw(rows, size).bfloat16(), draw(rows, 2 * dim)
    angles = draw(rows, 1, dim // 2)
    turns = torch.polar(torch.ones_like(angles), angles)

    def through(some: slice) -> Tensor:
        projected = layer.project(x[some], turns[some], normed=True)
        joined = layer.join(mixed[some], x[some])
        fed = joined.clone()
        layer.feed(fed)
        return torch.cat([part.flatten(1) for part in (*projected, joined.float(), fed.float())], 1)

    def linear(name: str, of: Tensor) -> Tensor:
        return F.linear(of, weights[name].float())

    def normed(of: Tensor) -> Tensor:
        return of * norm / (of.square().sum(1, keepdim=True) + floor**2).sqrt()

    turned, plain = linear("qkv", normed(x.float())).split([3 * dim, dim], 1)
    pairs = torch.view_as_complex(turned.reshape(rows, 3, dim // 2, 2)) * turns
    joined = x.float() + linear("out", mixed)
    gate, up = linear("gate_up", normed(joined)).chunk(2, 1)
    fed = joined + linear("down", F.silu(gate) * up)
    wanted = torch.cat([torch.view_as_real(pairs).flatten(1), plain, joined, fed], 1)
    got = through(slice(rows))
    near = (got - wanted).abs() <= 0.03 * (1 + wanted.abs())
    return bool(near.all()) and torch.equal(through(slice(rows - 1, rows))[0], got[-1])
