"""The head at inference against the differentiable one: chains, trees, and what is left of guesses."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.core.errors import SettingError
from crossdraft.core.tree import depths, path_to
from crossdraft.heads.feature import FeatureHead
from crossdraft.heads.recipes import recipe_of
from crossdraft.heads.runner import HeadRunner, HeadState
from crossdraft.heads.visual import BRANCHES, VisualConfig
from crossdraft.nn import kernels

P, T = 14, 22
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "eagle": ("eagle", {}),
    "eagle_vlm": ("eagle_vlm", {}),
    "eagle3": ("eagle3", {"draft_vocab": 7}),
    "msd": ("msd", {}),
    "vispec": ("vispec", {"visual": VisualConfig(kind="summary", queries=3)}),
    **{
        branch: ("spec_vlm", {"visual": VisualConfig(kind="compress", branches=(branch,), ratio=2)})
        for branch in BRANCHES
    },
    "gated": ("spec_vlm", {}),
}


@pytest.fixture(params=KINDS)
def drafting(request: Any, head: Any) -> FeatureHead:
    name, settings = KINDS[request.param]
    return head(name, **settings)


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(13, 16, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@torch.no_grad()
def unrolled(drafting: FeatureHead, text: Any, passes: int) -> list[dict[int, Tensor]]:
    """[pass]{position of the entry: guess}, of chains behind the prompt of P positions."""
    reading = drafting.read(
        text.embeds[None, 1:], text.taps(drafting)[None, :-1], text.is_visual[1:], torch.tensor([P])
    )
    taught = reading.source >= P - 1
    outs = drafting.unroll(reading, passes, detach=True, taught=taught[None])
    where = reading.source.tolist()
    return [{t: out[0, i] for i, t in enumerate(where) if t >= P - 1 + j} for j, out in enumerate(outs)]


def begun(runner: HeadRunner, text: Any, length: int = P) -> tuple[HeadState, Tensor]:
    return runner.begin(text.view(length), text.embeds[length : length + 1], T + 20)


def digest(runner: HeadRunner, state: HeadState, text: Any, start: int, count: int) -> Tensor:
    """Entries start.. of the text: the state of position t and the token behind it."""
    states = text.taps(runner)[start : start + count]
    return runner.extend(state, states, text.embeds[start + 1 : start + 1 + count])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


@torch.inference_mode()
def test_verified_tokens_and_chains_are_those_of_training(drafting: FeatureHead, said: Any, rows: Tensor) -> None:
    text = said(T)
    want = unrolled(drafting, text, 4)
    runner = HeadRunner(drafting, rows, torch.float64)
    state, guess = begun(runner, text)
    close(guess[0], want[0][P - 1])
    at = P - 1
    for count in (1, 3, 2):  # tokens of a round, and a chain after each
        guess = digest(runner, state, text, at + 1, count)
        at += count
        close(guess[0], want[0][at])
        assert state.length + state.shift == at + 1
        out = guess
        for depth in range(1, min(4, T - 1 - at)):
            out = runner.step(state, out, ALONE, text.embeds[at + depth + 1][None], depth - 1, below(depth))
            close(out[0], want[depth][at + depth])
        assert state.length + state.shift == at + 1, "a draft commits nothing"


ALONE = torch.zeros(1, dtype=torch.long)
"""A node under the one guess that there is."""


def below(depth: int) -> Tensor:
    """The path of a chain's last node."""
    return torch.arange(depth, dtype=torch.int32)[None]


@torch.inference_mode()
def test_a_node_is_the_end_of_its_own_path(drafting: FeatureHead, said: Any, rows: Tensor) -> None:
    """A tree in levels against one chain for every path."""
    text, runner = said(T), HeadRunner(drafting, rows, torch.float64)
    table = torch.randn(9, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    parents = [-1, -1, 0, 0, 1, 2, 4, 4]
    deep = depths(parents).tolist()
    state, root = begun(runner, text)
    outs: list[Tensor] = []
    for depth in (1, 2, 3):
        nodes = [n for n in range(len(parents)) if deep[n] == depth]
        above = torch.stack([root[0] if parents[n] < 0 else outs[parents[n]] for n in nodes])
        used = nodes[0]
        paths = torch.tensor([path_to(parents, n) for n in nodes], dtype=torch.int32)
        outs += runner.step(state, above, torch.arange(len(nodes)), table[nodes], used, paths)
    for node in range(len(parents)):
        out = root
        for depth, n in enumerate(path_to(parents, node), 1):
            out = runner.step(state, out, ALONE, table[n][None], depth - 1, below(depth))
        close(outs[node], out[0])


@torch.inference_mode()
def test_nothing_of_a_guess_stays(drafting: FeatureHead, said: Any, rows: Tensor) -> None:
    """Drafter refresh: keys and values after a round are those of a state that never guessed."""
    text, runner = said(T), HeadRunner(drafting, rows, torch.float64)
    (guessing, out), (quiet, _) = begun(runner, text), begun(runner, text)
    for depth in range(1, 5):
        out = runner.step(guessing, out, ALONE, torch.ones(1, 16, dtype=torch.float64), depth - 1, below(depth))
    after, alone = (digest(runner, state, text, P, 3) for state in (guessing, quiet))
    assert torch.equal(after, alone) and guessing.length == quiet.length
    for a, b in ((guessing.cache.keys, quiet.cache.keys), (guessing.cache.values, quiet.cache.values)):
        assert torch.equal(a[:, :, : quiet.length], b[:, :, : quiet.length])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gated"])
@torch.inference_mode()
def test_a_state_that_grew_is_one_that_was_built_anew(kind: str, head: Any, said: Any, rows: Tensor) -> None:
    """From the target's features of the whole text, read as a prompt (whose end a gate would look at)."""
    name, settings = KINDS[kind]
    text, runner = said(T), HeadRunner(head(name, **settings), rows, torch.float64)
    grown, _ = begun(runner, text)
    digest(runner, grown, text, P, 2)
    last = digest(runner, grown, text, P + 2, 4)
    anew, guess = begun(runner, text, P + 6)
    close(last, guess)
    assert (grown.length, grown.shift) == (anew.length, anew.shift)
    close(grown.cache.keys[:, :, : grown.length], anew.cache.keys[:, :, : anew.length])
    close(grown.cache.values[:, :, : grown.length], anew.cache.values[:, :, : anew.length])


@torch.inference_mode()
def test_logits_are_the_heads(head: Any, said: Any, rows: Tensor) -> None:
    out = torch.randn(3, 16, dtype=torch.float64)
    eagle = HeadRunner(head("eagle"), rows, torch.float64)
    close(eagle.logits(out).double(), (out @ rows.T).float().double())
    assert eagle.tokens(torch.tensor([3, 1])).tolist() == [3, 1]
    small = head("eagle3", draft_vocab=7)
    small.d2t.copy_(torch.tensor([12, 1, 3, 5, 7, 9, 11]))
    own = HeadRunner(small, None, torch.float64)
    close(own.logits(out).double(), small.unembed(out, None).float().double())
    assert own.tokens(torch.tensor([[0], [6]])).tolist() == [[12], [11]]
    assert torch.allclose(own.logits(out), own.scores(out).float())
    assert own.weight_bytes == 8 * small.num_trained
    for given in (None, rows[:5]):
        with pytest.raises(SettingError, match="reads the target's output head"):
            HeadRunner(head("eagle"), given, torch.float64)


@pytest.mark.parametrize("name", ["eagle", "eagle3", "vispec"])
@torch.inference_mode()
def test_bfloat16_is_near(name: str, head: Any, said: Any, rows: Tensor) -> None:
    text, guesses = said(T), []
    for dtype in (torch.float64, torch.bfloat16):
        runner = HeadRunner(head(name), rows, dtype)
        state, _ = begun(runner, text)
        root = digest(runner, state, text, P, 3)
        guesses.append(runner.step(state, root, ALONE, text.embeds[P + 4][None], 0, below(1)))
    assert guesses[1].dtype == torch.bfloat16
    near = torch.nn.functional.cosine_similarity(guesses[0], guesses[1].double())
    assert near > 0.99


def test_an_idle_state_has_room_for_a_level(head: Any, rows: Tensor) -> None:
    runner = HeadRunner(head("eagle"), rows, torch.float64)
    state = runner.idle_state(64)
    assert state.length == state.room == 32
    out = runner.step(state, rows[:4], torch.arange(4), rows[:4], 0, torch.arange(4, dtype=torch.int32)[:, None])
    assert torch.isfinite(out).all()


def test_a_level_attends_alike_with_and_without_our_own_kernel(
    monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    """Two levels of a draft behind 37 entries: the same keys and values stay, the same comes out up to rounding."""
    start, dim = 37, 32
    first = torch.arange(3, dtype=torch.int32)[:, None]
    second = torch.tensor([(0, 3), (0, 4), (2, 5), (1, 6)], dtype=torch.int32)
    draw = torch.Generator().manual_seed(1)
    kept, given = torch.randn(2, 2, start, dim, generator=draw), torch.randn(7, 5, 2, dim, generator=draw)
    results = []
    for found in (kernels.Status(library), kernels.Status(None, "none here")):
        monkeypatch.setattr(kernels, "status", lambda found=found: found)
        cache = DenseCache(num_layers=1, num_kv_heads=2, head_dim=dim, capacity=60, dtype=torch.float32)
        cache.keys[0, :, :start], cache.values[0, :, :start] = kept[0], kept[1]
        outs = []
        for used, paths in ((0, first), (3, second)):
            rows = given[used : used + len(paths)]
            q, k, v = rows[:, :3].transpose(1, 2), rows[:, 3], rows[:, 4]
            attend = HeadRunner._mixing(SimpleNamespace(device=torch.device("cpu")), cache, start, used, paths)
            outs.append(attend(q, k, v, 0))
        results.append((*outs, cache.keys.clone(), cache.values.clone()))
    for own, usual in zip(*results, strict=True):
        assert torch.allclose(own, usual, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("eagle", {}), ("eagle_vlm", {}), ("eagle3", {"draft_vocab": 37}),
        ("eagle3", {"draft_vocab": 37, "norm_residual": True}),
        ("vispec", {"visual": VisualConfig(kind="summary", queries=3)}),
    ],
)  # fmt: skip
@torch.inference_mode()
def test_a_head_in_our_own_kernels_says_what_its_parts_say(
    name: str, settings: dict[str, Any], shape: Any, stirring: Any, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified tokens, then two levels of guesses, some under one parent; the vocabulary fills no whole block."""
    monkeypatch.setattr(kernels, "status", lambda: kernels.Status(library))
    wide = replace(shape, vocab_size=45, hidden_size=64, intermediate_size=64, head_dim=32)
    known = {key: settings[key] for key in settings.keys() - {"norm_residual"}}
    head = stirring(recipe_of(name).network(wide, **known)).eval()
    head.config = replace(head.config, norm_residual=settings.get("norm_residual", False))
    draw = torch.Generator().manual_seed(3)
    runner = HeadRunner(head, torch.randn(len(head.d2t), 64, generator=draw), torch.bfloat16)
    usual = copy.copy(runner)
    usual._own = None
    assert runner._own is not None
    states = torch.randn(3, 64 * len(head.config.taps), generator=draw).bfloat16()
    embeds, context = torch.randn(9, 64, generator=draw).bfloat16(), torch.randn(1, 64, generator=draw).bfloat16()
    first, second = torch.tensor([[0], [1]], dtype=torch.int32), torch.tensor([[1, 2], [0, 3], [1, 4]]).int()
    results = []
    for one in (runner, usual):
        state = one.idle_state(40)
        state.cache.keys[:] = torch.randn(state.cache.keys.shape, generator=draw.manual_seed(4))
        state.cache.values[:] = torch.randn(state.cache.values.shape, generator=draw)
        state.context = context if name == "vispec" else None
        root = one.extend(state, states, embeds[:3])
        level = one.step(state, root, torch.tensor([0, 0]), embeds[3:5], 0, first)
        last = one.step(state, level, torch.tensor([1, 0, 1]), embeds[5:8], 2, second)
        results.append((root, level, last, *map(one.scores, (root, level, last)), state.cache.keys))
    assert results[0][-2].shape == (3, len(head.d2t))
    for own, parts in zip(*results, strict=True):
        if name == "vispec":  # the picture's part is a product of the library's, of other rows at once
            assert torch.allclose(own.float(), parts.float(), rtol=0.05, atol=0.05)
        else:
            assert torch.equal(own, parts)
