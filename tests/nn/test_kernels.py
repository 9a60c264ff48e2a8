"""Our own kernels: right, the same bits for a row whatever its company, and left out where they cannot be had.

They are tried everywhere with a C compiler (plain floats); in vectors where this machine has the instructions.
"""

import ctypes
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossdraft.core.provenance import has_fma, slow_bf16
from crossdraft.nn import kernels
from crossdraft.nn.linear import PackedLinear

PLAIN = ("-O2", "-fopenmp", "-fPIC")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The plain form, the one that this machine uses if it does, and those that it could use but does not."""
    folder = tmp_path_factory.mktemp("kernels")
    able = [PLAIN, *([kernels.FLAGS] if slow_bf16() else [])]
    if has_fma():
        able.append((*PLAIN, "-mavx2", "-mfma"))
        if " avx_vnni " in Path("/proc/cpuinfo").read_text().replace("\n", " \n"):
            able.append((*PLAIN, "-mavx2", "-mfma", "-mavxvnni"))
    own = kernels.status().library
    return [kernels.load(kernels.compiled(folder, flags)) for flags in able] + ([] if own is None else [own])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 450), blocks=st.integers(1, 4), biased=st.booleans(),
    pairs=st.one_of(st.integers(1, 90), st.integers(760, 780), st.integers(1530, 1545)),  # and panels' ends
    seed=st.integers(0, 99), threads=st.integers(1, 2),
)  # fmt: skip
def test_a_product_is_right_and_each_row_is_itself(
    libraries: list[Any], rows: int, blocks: int, pairs: int, biased: bool, seed: int, threads: int
) -> None:
    """Within rounding of float64, and bit for bit what the row gives alone."""
    draw = torch.Generator().manual_seed(seed)
    bias = torch.randn(32 * blocks, generator=draw) if biased else None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for library in libraries:
            step = library.crossdraft_step()
            inputs = -(-2 * pairs // step) * step
            weight = torch.randn(32 * blocks, inputs, generator=draw).bfloat16()
            x = torch.randn(rows, inputs, generator=draw).bfloat16()
            exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
            room = x.double().abs() @ weight.double().abs().T + 1
            assert kernels.fits(library, weight)
            packed = kernels.pack(library, weight, bias)
            got = kernels.product(library, x, packed)
            assert got.dtype == torch.bfloat16 and got.shape == exact.shape
            assert ((got.double() - exact).abs() <= exact.abs() * 2**-8 + room * inputs * 2**-23).all()
            for row in {0, rows // 2, rows - 1}:
                assert torch.equal(kernels.product(library, x[row : row + 1], packed)[0], got[row])
    finally:
        torch.set_num_threads(before)


def test_rows_that_do_not_lie_side_by_side(libraries: list[Any]) -> None:
    weight, wide = torch.randn(64, 32).bfloat16(), torch.randn(5, 64).bfloat16()
    for library in libraries:
        packed = kernels.pack(library, weight.T.contiguous().T)
        got = kernels.product(library, wide[:, ::2], packed)
        assert torch.equal(got, kernels.product(library, wide[:, ::2].contiguous(), packed))


def _paths(parents: list[int]) -> tuple[Tensor, Tensor]:
    """Rows on each row's path, root first, and how many."""
    walks = []
    for row in range(len(parents)):
        walk = [row]
        while parents[walk[0]] >= 0:
            walk.insert(0, parents[walk[0]])
        walks.append(walk)
    lengths = torch.tensor([len(walk) for walk in walks], dtype=torch.int32)
    padded = [walk + [0] * (int(lengths.max()) - len(walk)) for walk in walks]
    return torch.tensor(padded, dtype=torch.int32), lengths


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_each_row_attends_along_its_path(libraries: list[Any], data: st.DataObject) -> None:
    """As float64 does, and with the bits of plain decoding: its path as the only row behind a cache in order."""
    rows, start = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 130))
    heads, groups = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, 3, 4, 5, 8, 13, 24]))
    dim, threads = data.draw(st.sampled_from([32, 64, 128])), data.draw(st.integers(1, 2))
    parents = [-1, *(data.draw(st.integers(0, row - 1)) for row in range(1, rows))]
    chain = data.draw(st.booleans())
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q = torch.randn(rows, heads, groups, dim, generator=draw) * dim**-0.5
    keys, values = (torch.randn(heads, start + rows + 3, dim, generator=draw) for _ in range(2))
    k, v = (torch.randn(rows, heads, dim, generator=draw) for _ in range(2))
    walks, lengths = _paths(list(range(-1, rows - 1)) if chain else parents)
    before, known = torch.get_num_threads(), kernels.status
    try:
        torch.set_num_threads(threads)
        for library in libraries:
            kernels.status = lambda library=library: kernels.Status(library)
            assert kernels.attends(rows, groups, keys)
            walk = kernels.Walk(start, 0, *(() if chain else (walks, lengths)))
            got = kernels.attend(q, k, v, keys, values, walk)
            assert torch.equal(keys[:, start : start + rows], k.transpose(0, 1))
            assert torch.equal(values[:, start : start + rows], v.transpose(0, 1))
            for row in range(rows):
                own = [*range(start), *(start + step for step in walks[row, : int(lengths[row])].tolist())]
                mine, said = keys[:, own].contiguous(), values[:, own].contiguous()
                weights = torch.einsum("hgd,hnd->hgn", q[row].double(), mine.double()).softmax(-1)
                exact = torch.einsum("hgn,hnd->hgd", weights, said.double()).flatten()
                assert (got[row].double() - exact).abs().max() < 1e-5
                one = slice(row, row + 1)
                alone = kernels.attend(q[one], k[one], v[one], mine, said, kernels.Walk(len(own) - 1))
                assert torch.equal(alone[0], got[row])
                # the second half of a pass that was cut in two
                if not chain and row == rows - 1:
                    walk = kernels.Walk(start, row, walks[one], lengths[one])
                    last = kernels.attend(q[one], k[one], v[one], keys, values, walk)
                    assert torch.equal(last[0], got[row])
    finally:
        kernels.status = known
        torch.set_num_threads(before)


def test_scores_far_apart_are_weighed_without_overflow(
    libraries: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = torch.zeros(1, 3, 32)
    keys[0, :, 0] = torch.tensor([-3e4, 3e4, 0.0])
    values = torch.arange(3.0).view(1, 3, 1).expand(1, 3, 32).contiguous()
    q = torch.zeros(1, 1, 1, 32)
    for library in libraries:
        monkeypatch.setattr(kernels, "status", lambda library=library: kernels.Status(library))
        for size, wanted in ((1.0, 1.0), (-1.0, 0.0), (0.0, 1.0)):
            q[..., 0] = size
            new = keys[:, 2:].transpose(0, 1), values[:, 2:].transpose(0, 1)
            got = kernels.attend(q, *new, keys, values, kernels.Walk(2))
            assert got[0].tolist() == pytest.approx([wanted] * 32, abs=1e-6)


def test_what_it_does_not_attend_to(libraries: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "status", lambda: kernels.Status(libraries[0]))
    keys = torch.zeros(2, 128, 64)
    assert kernels.attends(4, 3, keys)
    assert not kernels.attends(4, 3, keys.double()) and not kernels.attends(4, 3, keys[..., :48])
    assert not kernels.attends(132, 3, keys) and not kernels.attends(4, 25, keys)
    monkeypatch.setattr(kernels, "status", lambda: kernels.Status(None, "none here"))
    assert not kernels.attends(4, 3, keys)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), blocks=st.integers(1, 6), seed=st.integers(0, 99))
def test_norm(libraries: list[Any], rows: int, blocks: int, seed: int) -> None:
    """Within rounding of float64, each row with the bits that it has alone."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.randn(rows, 16 * blocks, generator=draw) * 3).bfloat16()
    weight = torch.rand(16 * blocks, generator=draw) + 0.5
    length = (x.double().square().sum(-1, keepdim=True) + 0.01**2).sqrt()
    wanted = x.double() * weight.double() / length
    for library in libraries:
        got = kernels.norm(library, x, weight, 0.01)
        assert ((got.double() - wanted).abs() <= wanted.abs() * 2**-8 + 1e-12).all()
        assert torch.equal(kernels.norm(library, x[-1:], weight, 0.01), got[-1:])


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), blocks=st.integers(1, 6), seed=st.integers(0, 99))
def test_gate(libraries: list[Any], rows: int, blocks: int, seed: int) -> None:
    """Within rounding of float64, each row with the bits that it has alone."""
    draw, size = torch.Generator().manual_seed(seed), 16 * blocks
    both = (torch.randn(rows, 2 * size, generator=draw) * 8).bfloat16()
    wanted = F.silu(both[:, :size].double()) * both[:, size:].double()
    for library in libraries:

        def gate(both: Tensor, library: Any = library) -> Tensor:
            out = both.new_empty(len(both), size)
            places = (ctypes.c_void_p(x.data_ptr()) for x in (both, out))
            library.crossdraft_gate(*places, ctypes.c_long(len(both)), ctypes.c_long(size))
            return out

        gated = gate(both)
        assert ((gated.double() - wanted).abs() <= wanted.abs() * 2**-7.9 + 1e-30).all()
        assert torch.equal(gate(both[-1:]), gated[-1:])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40), blocks=st.integers(1, 3), biased=st.booleans(), seed=st.integers(0, 99),
    threads=st.integers(1, 2),
)  # fmt: skip
def test_a_layer_but_for_its_attention(
    libraries: list[Any], rows: int, blocks: int, biased: bool, seed: int, threads: int
) -> None:
    """Products as by themselves, the rest within rounding of float64; each row alone has its bits."""
    draw = torch.Generator().manual_seed(seed)
    size, inner, heads, kv_heads, dim, floor = 32 * blocks, 64 * blocks, 6, 2, 32, 0.01
    turned, mixed_size = (heads + kv_heads) * dim, heads * dim

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    weights = {
        name: (normal(*shape) * 0.3).bfloat16()
        for name, shape in {
            "qkv": (turned + kv_heads * dim, size), "out": (size, mixed_size), "gate_up": (2 * inner, size),
            "down": (size, inner),
        }.items()
    }  # fmt: skip
    biases = {
        name: normal(w.shape[0]) if biased and name in ("qkv", "out") else None for name, w in weights.items()
    }
    norms = torch.rand(size, generator=draw) + 0.5, torch.rand(size, generator=draw) + 0.5
    x, mixed = (normal(rows, size) * 3).bfloat16(), normal(rows, mixed_size)
    angles = torch.rand(rows, 1, dim // 2, generator=draw) * 7
    turns = torch.complex(angles.cos(), angles.sin())
    one, before = slice(rows - 1, rows), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for library in libraries:
            packed = {name: kernels.pack(library, w, biases[name]) for name, w in weights.items()}
            layer = kernels.Layer(
                library, packed, norms, heads=heads, kv_heads=kv_heads, dim=dim, floor=floor, scale=0.25
            )
            # rotation, of rows that are normalised here or were before
            reads = kernels.norm(library, x, norms[0], floor)
            qkv = kernels.product(library, reads, packed["qkv"])
            pairs = torch.view_as_complex(qkv[:, :turned].double().view(rows, -1, dim // 2, 2))
            wanted = torch.view_as_real(pairs * turns.to(torch.complex128)).flatten(2)
            q, k, v = layer.project(x, turns, normed=True)
            assert (q.double().flatten(1) - 0.25 * wanted[:, :heads].flatten(1)).abs().max() < 1e-5
            assert (k.double() - wanted[:, heads:]).abs().max() < 1e-5
            assert torch.equal(v, qkv[:, turned:].float().view(rows, kv_heads, dim))
            for other in (layer.project(reads, turns, normed=False), layer.project(x, turns, normed=True)):
                assert all(torch.equal(a, b) for a, b in zip(other, (q, k, v), strict=True))
            alone = layer.project(x[one], turns[one], normed=True)
            assert all(torch.equal(a, b[one]) for a, b in zip(alone, (q, k, v), strict=True))
            shared = layer.project(x, turns[:1], normed=True)
            same = layer.project(x, turns[:1].expand(rows, 1, -1), normed=True)
            assert all(torch.equal(a, b) for a, b in zip(shared, same, strict=True))
            # the residual sums are torch's own
            joined = layer.join(mixed, x)
            assert torch.equal(joined, kernels.product(library, mixed.bfloat16(), packed["out"]) + x)
            assert torch.equal(layer.join(mixed[one], x[one]), joined[one])
            fed = joined.clone()
            layer.feed(fed)
            both = kernels.product(library, kernels.norm(library, joined, norms[1], floor), packed["gate_up"])
            gated = F.silu(both[:, :inner].double()) * both[:, inner:].double()
            wanted = joined.double() + gated @ weights["down"].double().T
            room = joined.double().abs() + gated.abs() @ weights["down"].double().abs().T
            assert ((fed.double() - wanted).abs() <= room * 2**-7).all()
            last = joined[one].clone()
            layer.feed(last)
            assert torch.equal(last, fed[one])
    finally:
        torch.set_num_threads(before)


def _random_layers(
    library: Any, count: int, size: int, draw: torch.Generator, normed: bool = True, wide: int = 1
) -> list[kernels.Layer]:
    """Layers of six query and two key/value heads of 32 channels, two of three with biases; the first with a norm
    or without, its attention reading something ``wide`` times as wide as the rows."""
    layers = []
    for number in range(count):
        shapes = {
            "qkv": (10 * 32, size if number else wide * size), "out": (size, 6 * 32), "gate_up": (4 * size, size),
            "down": (size, 2 * size),
        }  # fmt: skip
        packed = {
            name: kernels.pack(
                library, (torch.randn(shape, generator=draw) * 0.2).bfloat16(),
                torch.randn(shape[0], generator=draw) if number % 3 and name in ("qkv", "out") else None,
            )
            for name, shape in shapes.items()
        }  # fmt: skip
        norms = [torch.rand(size, generator=draw) + 0.5 for _ in range(2)]
        before = norms[0] if normed or number else None
        layers.append(
            kernels.Layer(library, packed, (before, norms[1]), heads=6, kv_heads=2, dim=32, floor=0.01, scale=0.2)
        )
    return layers


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_layers_in_one_call_are_the_layers_one_by_one(libraries: list[Any], data: st.DataObject) -> None:
    rows, start, first = (data.draw(st.integers(*bounds)) for bounds in ((1, 20), (0, 40), (0, 2)))
    count, size = data.draw(st.integers(1, 4)), 32 * data.draw(st.integers(1, 2))
    parents = [-1, *(data.draw(st.integers(0, row - 1)) for row in range(1, first + rows))]
    walks, lengths = (part[first:] for part in _paths(parents))
    chain = data.draw(st.booleans())
    walk = kernels.Walk(start) if chain else kernels.Walk(start, first, walks.contiguous(), lengths.contiguous())
    few = data.draw(st.none() | st.integers(0, count))
    capture = data.draw(st.sets(st.integers(-1, count - 1)))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(rows, size, generator=draw).bfloat16()
    angles = torch.rand(rows, 1, 16, generator=draw) * 7
    turns, given = torch.polar(torch.ones_like(angles), angles), x.clone()
    shape = count + 1, 2, start + first + rows + 3, 32  # of a cache with a layer more than there are
    before, known, threads = torch.get_num_threads(), kernels.status, data.draw(st.integers(1, 2))
    try:
        torch.set_num_threads(threads)
        for library in libraries:
            kernels.status = lambda library=library: kernels.Status(library)
            layers = _random_layers(library, count, size, draw)
            keys, values = (torch.randn(shape, generator=draw) for _ in range(2))
            mine, said = keys.clone(), values.clone()
            wanted, behind = x, []
            for layer, *cached in zip(layers[:few], keys, values, strict=False):
                mixed = kernels.attend(*layer.project(wanted, turns, normed=True), *cached, walk)
                wanted = layer.join(mixed, wanted)
                layer.feed(wanted)
                behind.append(wanted)
            taps: dict[int, Tensor] = {}
            got = kernels.Stack(library, layers)(x, turns, mine, said, walk, taps, capture, few)
            assert torch.equal(got, wanted) and got is not x
            assert torch.equal(mine, keys) and torch.equal(said, values) and torch.equal(x, given)
            assert set(taps) == {layer for layer in capture if 0 <= layer < len(behind)}
            assert all(torch.equal(taps[layer], behind[layer]) for layer in taps)
    finally:
        kernels.status = known
        torch.set_num_threads(before)


def test_what_does_not_fit_together_is_no_stack(libraries: list[Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (_random_layers(libraries[0], 1, size, draw)[0] for size in (32, 64))
    with pytest.raises(ValueError, match="one shape"):
        kernels.Stack(libraries[0], [one, other])
    (lacking,) = _random_layers(libraries[0], 1, 32, draw, normed=False)
    with pytest.raises(ValueError, match="norm of its own"):
        kernels.Stack(libraries[0], [one, lacking])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_head_in_two_calls_is_its_parts_one_by_one(libraries: list[Any], data: st.DataObject) -> None:
    """EAGLE's kind, with an input norm or without, and EAGLE-3's, whose residual row may be the normalised one."""
    rows, start, first = (data.draw(st.integers(*bounds)) for bounds in ((1, 20), (0, 40), (0, 2)))
    size, words = 32 * data.draw(st.integers(1, 2)), 32 * data.draw(st.integers(1, 3))
    is_fused, flag, has_last = (data.draw(st.booleans()) for _ in range(3))
    parents = [-1, *(data.draw(st.integers(0, row - 1)) for row in range(1, first + rows))]
    walks, lengths = (part[first:] for part in _paths(parents))
    chain = data.draw(st.booleans())
    walk = kernels.Walk(start) if chain else kernels.Walk(start, first, walks.contiguous(), lengths.contiguous())
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    feats, embeds = (torch.randn(rows, size, generator=draw).bfloat16() for _ in range(2))
    above = data.draw(st.none() | st.lists(st.integers(0, rows - 1), min_size=rows, max_size=rows))
    angles = torch.rand(data.draw(st.sampled_from([1, rows])), 1, 16, generator=draw) * 7
    turns, given = torch.polar(torch.ones_like(angles), angles), feats.clone()
    before, known, threads = torch.get_num_threads(), kernels.status, data.draw(st.integers(1, 2))
    try:
        torch.set_num_threads(threads)
        for library in libraries:
            kernels.status = lambda library=library: kernels.Status(library)
            pack = data.draw(st.sampled_from([kernels.pack, kernels.pack_bytes]))
            if is_fused:
                (layer,) = _random_layers(library, 1, size, draw, normed=flag)
            else:
                (layer,) = _random_layers(library, 1, size, draw, normed=False, wide=2)
            bias = torch.randn(size, generator=draw)
            fuse = pack(library, (torch.randn(size, 2 * size, generator=draw) * 0.2).bfloat16(), bias)
            said = pack(library, (torch.randn(words, size, generator=draw) * 0.2).bfloat16())
            norms = [torch.rand(size, generator=draw) + 0.5 for _ in range(3)]
            some = (None, None) if is_fused else (norms[0], norms[1])
            head = kernels.Head(
                library, layer, fuse if is_fused else None, (*some, norms[2] if has_last else None), said,
                is_normed=flag,
            )  # fmt: skip
            keys, values = (torch.randn(1, 2, start + first + rows + 3, 32, generator=draw) for _ in range(2))
            mine, own = keys.clone(), values.clone()
            taken = feats if above is None else feats[above]
            if is_fused:
                x = kernels.product(library, torch.cat((embeds, taken), 1), fuse)
                projected = layer.project(x, turns, normed=flag)
            else:
                embed, feature = (
                    kernels.norm(library, part, norm, 0.01)
                    for part, norm in zip((embeds, taken), norms, strict=False)
                )
                x = feature if flag else taken
                projected = layer.project(torch.cat((embed, feature), 1), turns, normed=False)
            wanted = layer.join(kernels.attend(*projected, keys[0], values[0], walk), x)
            layer.feed(wanted)
            got = head(feats, None if above is None else torch.tensor(above), embeds, turns, mine, own, walk)
            assert torch.equal(got, wanted) and torch.equal(feats, given)
            assert torch.equal(mine, keys) and torch.equal(own, values)
            last = kernels.norm(library, wanted, norms[2], 0.01) if has_last else wanted
            assert torch.equal(head.words(got), kernels.product(library, last, said))
    finally:
        kernels.status = known
        torch.set_num_threads(before)


def _as_bytes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers of at most 127, what one is worth in each row, and where float32 may take another; float64."""
    most = x.float().abs().amax(1, keepdim=True)
    exact = x.double() * torch.where(most > 0, 127 / most, 0.0).double()
    return exact.round(), most.double() / 127, ((exact - exact.floor() - 0.5).abs() < 1e-4).double()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 200), blocks=st.integers(1, 3), inputs=st.integers(1, 60), biased=st.booleans(),
    seed=st.integers(0, 99), threads=st.integers(1, 2),
)  # fmt: skip
def test_a_product_of_bytes_is_that_of_whole_numbers(
    libraries: list[Any], rows: int, blocks: int, inputs: int, biased: bool, seed: int, threads: int
) -> None:
    """Both sides are rounded, then it is exact; a row alone has its bits, and one that is none spoils itself."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(32 * blocks, 16 * inputs, generator=draw).bfloat16()
    sizes = 10.0 ** torch.randint(-4, 4, (rows, 1), generator=draw)
    x = (torch.randn(rows, 16 * inputs, generator=draw) * sizes).bfloat16()
    x[seed % rows] *= seed % 3  # and a row of zeros
    bias = torch.randn(32 * blocks, generator=draw) if biased else None
    (w, of_w, loose_w), (v, of_x, loose_v) = _as_bytes(weight), _as_bytes(x)
    sums, unit = v @ w.T, of_x * of_w.T
    room = (v.abs() @ loose_w.T + loose_v @ w.abs().T + loose_v @ loose_w.T + 0.1) * unit
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for library in libraries:
            packed = kernels.pack_bytes(library, weight, bias)
            got = kernels.product(library, x, packed)
            wanted = sums * unit + (0.0 if bias is None else bias.double())
            assert ((got.double() - wanted).abs() <= room + (wanted.abs() + room) * 2**-7.9 + 1e-30).all()
            one = seed % rows
            assert torch.equal(kernels.product(library, x[one : one + 1], packed)[0], got[one])
            spoilt = x.clone()
            spoilt[one, seed % x.shape[1]] = float("nan") if seed % 2 else float("inf")
            again = kernels.product(library, spoilt, packed)
            assert again[one].isnan().all()
            others = torch.arange(rows) != one
            assert torch.equal(again[others], got[others])
    finally:
        torch.set_num_threads(before)


def test_a_layer_of_bytes_is_near_one_of_bfloat16(libraries: list[Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    size, dim, rows = 64, 32, 5
    shapes = {"qkv": (4 * dim, size), "out": (size, 2 * dim), "gate_up": (4 * size, size), "down": (size, 2 * size)}
    weights = {name: (torch.randn(shape, generator=draw) / 8).bfloat16() for name, shape in shapes.items()}
    x, mixed = torch.randn(rows, size, generator=draw).bfloat16(), torch.randn(rows, 2 * dim, generator=draw)
    turns, norm = torch.polar(torch.ones(1, 1, dim // 2), torch.rand(1, 1, dim // 2)), torch.ones(size) * 8
    for library in libraries:
        said = []
        for pack in (kernels.pack, kernels.pack_bytes):
            packed = {name: pack(library, weight) for name, weight in weights.items()}
            layer = kernels.Layer(
                library, packed, (norm, norm), heads=2, kv_heads=1, dim=dim, floor=0.01, scale=1.0
            )
            fed = layer.join(mixed, x)
            layer.feed(fed)
            said.append([*layer.project(x, turns, normed=True), fed.float()])
        for exact, rough in zip(*said, strict=True):
            assert 0 < (exact - rough).norm() / exact.norm() < 0.03


def test_bytes_are_for_what_need_not_be_exact(libraries: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    weight, rows = torch.randn(77, 64).bfloat16(), torch.randn(3, 64).bfloat16()
    for library in libraries:
        monkeypatch.setattr(kernels, "status", lambda library=library: kernels.Status(library))
        rough, exact = (PackedLinear(weight, None, True, rough=wanted) for wanted in (True, False))
        assert not exact.is_rough and rough.is_rough == bool(library.crossdraft_has_bytes())
        assert rough.kind == "our own packed linears" + " of bytes" * rough.is_rough
        assert rough(rows).shape == (3, 77)
        near = torch.nn.functional.cosine_similarity(rough(rows).float(), exact(rows).float())
        assert (near > 0.999).all() and torch.equal(rough(rows), exact(rows)) != rough.is_rough
        assert not PackedLinear(weight[:, :40].contiguous(), None, True, rough=True).is_rough  # no whole vectors


def best(library: Any, logits: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the places of its k best, and their log-probabilities: a level below rows that are sure."""
    (rows, width), size = logits.shape, max(len(logits), k)
    places, values = np.zeros((rows, k), np.int64), np.zeros((rows, k), np.float32)
    ids, numbers, worth = np.arange(width), np.zeros((4, size), np.int64), np.zeros(size, np.float32)
    arrays = ids, places, *numbers, values, worth, *np.zeros((2, 2 * size), np.int32)
    tree = kernels.Tree(*(array.ctypes.data for array in arrays), width, k)
    kernels.grow(library, tree, logits, 0, rows, 1)
    return places, values


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9), width=st.integers(1, 700), most=st.integers(1, 64), seed=st.integers(0, 99),
    spread=st.sampled_from([0.01, 1.0, 8.0, 200.0]), padded=st.booleans(), threads=st.integers(1, 2),
)  # fmt: skip
def test_the_best_of_a_vocabulary(
    libraries: list[Any], rows: int, width: int, most: int, seed: int, spread: float, padded: bool, threads: int
) -> None:
    """Places as a stable sort has them, and log-probabilities as float64 has them."""
    draw, k, before = torch.Generator().manual_seed(seed), min(most, width), torch.get_num_threads()
    logits = (torch.randn(rows, width + 5 * padded, generator=draw) * spread).bfloat16()[:, :width]
    ordered = logits.double().sort(dim=-1, descending=True, stable=True)
    logs = ordered.values[:, :k] - logits.double().logsumexp(-1, keepdim=True)
    try:
        torch.set_num_threads(threads)
        for library in libraries:
            places, found = best(library, logits, k)
            assert places.tolist() == ordered.indices[:, :k].tolist()
            assert np.abs(found - logs.numpy()).max() < 1e-4 * max(1.0, spread)
    finally:
        torch.set_num_threads(before)


def test_the_best_where_all_but_few_are_ruled_out(libraries: list[Any]) -> None:
    logits = torch.full((1, 200), float("-inf")).bfloat16()
    logits[0, [3, 150]] = torch.tensor([1.0, 2.0]).bfloat16()
    for library in libraries:
        places, found = best(library, logits, 4)
        assert places.tolist() == [[150, 3, 0, 1]]
        assert np.allclose(found[0, :2], logits[0, [150, 3]].float().log_softmax(0))
        assert np.isneginf(found[0, 2:]).all()


@pytest.mark.parametrize("place", [0, 7, 15, 16, 63, 64, 150, 199])
def test_a_number_that_is_none_spoils_its_row_alone(libraries: list[Any], place: int) -> None:
    logits = torch.randn(2, 200).bfloat16()
    logits[0, place] = float("nan")
    for library in libraries:
        places, found = best(library, logits, 5)
        assert np.isnan(found[0]).all() and ((places >= 0) & (places < 200)).all()
        assert np.allclose(found[1], logits[1].float().log_softmax(0).topk(5).values, atol=1e-4)


_seeds = count(1)


@pytest.mark.parametrize("part", ["project", "join", "feed"])
def test_a_layer_that_does_nothing_is_found_out(libraries: list[Any], part: str) -> None:
    class Broken:
        def __init__(self, library: Any) -> None:
            self._library = library

        def __getattr__(self, name: str) -> Any:
            return (lambda *_: 1) if name == f"crossdraft_{part}" else getattr(self._library, name)

    for library in libraries:
        assert kernels._layers_right(library, next(_seeds))
        assert not kernels._layers_right(Broken(library), next(_seeds))


def test_what_cannot_be_packed_is_left_to_the_library(
    libraries: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in libraries:
        monkeypatch.setattr(kernels, "status", lambda library=library: kernels.Status(library))
        for shape, dtype in (((64, 31), torch.bfloat16), ((64, 32), torch.float32)):
            weight, rows = torch.randn(shape).to(dtype), torch.randn(3, shape[1]).to(dtype)
            assert not kernels.fits(library, weight)
            linear = PackedLinear(weight, None, prepack=True)
            assert "our own" not in linear.kind
            assert (linear(rows) - F.linear(rows, weight)).abs().max() < 0.2
        assert kernels.fits(library, torch.zeros(64, 32, dtype=torch.bfloat16))


def test_outputs_that_fill_no_block(libraries: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias, rows = torch.randn(77, 64).bfloat16(), torch.randn(77).bfloat16(), torch.randn(9, 64).bfloat16()
    for library in libraries:
        monkeypatch.setattr(kernels, "status", lambda library=library: kernels.Status(library))
        for own in (None, bias):
            linear = PackedLinear(weight, own, prepack=True)
            got = linear(rows)
            wanted = F.linear(rows.double(), weight.double(), None if own is None else own.double())
            assert "our own" in linear.kind and got.shape == (9, 77)
            assert ((got.double() - wanted).abs() <= wanted.abs() * 2**-7 + 1e-2).all()
            assert torch.equal(linear(rows[3:4])[0], got[3])


def test_products_in_several_threads_at_once(libraries: list[Any]) -> None:
    """Each its own: no buffer is shared."""
    weight = torch.randn(64, 256).bfloat16()
    for library in libraries:
        packed = kernels.pack(library, weight)
        inputs = [torch.randn(5 + i, 256).bfloat16() for i in range(6)]
        wanted = [kernels.product(library, x, packed) for x in inputs]
        with ThreadPoolExecutor(6) as pool:
            for _ in range(40):
                got = pool.map(lambda x, p=packed, lib=library: kernels.product(lib, x, p), inputs)
                assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("machine", ["sapphirerapids", "cooperlake", "skylake-avx512", "alderlake", "haswell"])
def test_every_form_compiles_without_a_warning(machine: str, tmp_path: Path) -> None:
    """Also those that this machine cannot run."""
    compiler = shutil.which("gcc")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("gcc on x86-64 compiles these")
    for source in kernels.SOURCES:
        command = [compiler, "-O1", f"-march={machine}", "-fopenmp", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        command += ["-c", str(source), "-o", str(tmp_path / "made.o")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_linear_says_whose_product_it_is(monkeypatch: pytest.MonkeyPatch, libraries: list[Any]) -> None:
    weight, bias, rows = torch.randn(64, 32).bfloat16(), torch.randn(64).bfloat16(), torch.randn(7, 32).bfloat16()
    wanted = F.linear(rows.double(), weight.double(), bias.double())
    for library in libraries:
        monkeypatch.setattr(kernels, "status", lambda library=library: kernels.Status(library))
        linear = PackedLinear(weight, bias, prepack=True)
        assert linear.kind == "our own packed linears"
        assert (linear(rows).double() - wanted).abs().max() < 0.1
        assert PackedLinear(weight, bias, prepack=False).kind == "F.linear"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine with the instructions and an empty cache, asked for the first time."""
    monkeypatch.setenv("CROSSDRAFT_CACHE", str(tmp_path))
    monkeypatch.delenv("CROSSDRAFT_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "bf16_unit", lambda: "avx512_bf16")
    monkeypatch.setattr(kernels, "status", kernels.status.__wrapped__)
    return monkeypatch


def test_it_is_compiled_once(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = kernels.compiled(tmp_path / "kernels", PLAIN)
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == [first.name], "no scraps are left"
    fresh.setattr(subprocess, "run", None)
    assert kernels.compiled(tmp_path / "kernels", PLAIN) == first


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda patch: patch.setenv("CROSSDRAFT_KERNELS", "0"), "left out by CROSSDRAFT_KERNELS"),
        (lambda patch: patch.setattr(kernels, "load", _forbidden), "does not let this process use AMX"),
        (lambda patch: [patch.setattr(kernels, name, str) for name in ("bf16_unit", "has_fma")], "no AVX2"),
        (lambda patch: (patch.delenv("CC", raising=False), patch.setenv("PATH", "")), "no C compiler"),
        (lambda patch: patch.setenv("CC", "false"), "cannot be compiled"),
        (lambda patch: patch.setattr(kernels, "load", _broken), "cannot be compiled: not a library"),
        *(
            (lambda patch, name=name: patch.setattr(kernels, name, lambda _: False), "wrong on a small example")
            for name in ("_is_right", "_bytes_right", "_attends_right", "_layers_right")
        ),
    ],
)
def test_why_it_is_left_out(fresh: pytest.MonkeyPatch, change: Any, why: str) -> None:
    fresh.setattr(kernels, "compiled", lambda folder, flags=PLAIN, make=kernels.compiled: make(folder, flags))
    change(fresh)
    found = kernels.status()
    assert found.library is None and why in found.why
    assert PackedLinear(torch.zeros(64, 32, dtype=torch.bfloat16), None, prepack=False).kind == "F.linear"


def _broken(path: Path) -> Any:
    raise OSError("not a library")


class _forbidden:
    """A library that the system gives no tiles."""

    def __init__(self, path: Path) -> None:
        """Loads nothing."""

    def crossdraft_begin(self) -> int:
        return 0


def test_a_wrong_product_is_noticed(libraries: list[Any]) -> None:
    assert all(kernels._is_right(library) for library in libraries)

    class Wrong:
        crossdraft_pack = libraries[0].crossdraft_pack

        @staticmethod
        def crossdraft_rows(*_: Any) -> int:
            """Writes nothing."""
            return 1

    assert not kernels._is_right(Wrong())  # type: ignore[arg-type]
