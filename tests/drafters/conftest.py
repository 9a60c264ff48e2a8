"""For drafters with a head: heads that know what the target will say, and every guess computed anew."""

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from crossdraft.core.types import LAST, Draft, PromptView, Step
from crossdraft.heads.feature import FeatureHead
from crossdraft.nn.rope import rope_table

Opinion = Callable[[list[int]], Tensor]


class Oracle:
    """Stands in for a packed head: it remembers the text behind every guess and asks ``opinion`` about it.

    A guess is the number of its text. opinion: ids so far -> logits (V,).
    """

    device = torch.device("cpu")

    def __init__(self, table: Tensor, opinion: Opinion) -> None:
        self.table, self.opinion = table, opinion
        self.d2t, self.config = torch.arange(len(table)), SimpleNamespace(taps=(LAST,))
        self.words = self.d2t.numpy()
        self.texts: list[list[int]] = []
        self.levels: list[int] = []

    def _guess(self, text: list[int]) -> Tensor:
        self.texts.append(text)
        return torch.tensor([[len(self.texts) - 1.0]])

    def _tokens(self, embeds: Tensor) -> list[int]:
        return [int((self.table - row).abs().sum(-1).argmin()) for row in embeds]

    def begin(self, view: PromptView, first: Tensor, room: int) -> tuple[Any, Tensor]:
        state = SimpleNamespace(text=[*view.tokens, *self._tokens(first)])
        return state, self._guess(state.text)

    def extend(self, state: Any, states: Tensor, embeds: Tensor) -> Tensor:
        assert len(states) == len(embeds)
        state.text = state.text + self._tokens(embeds)
        return self._guess(state.text)

    def step(self, state: Any, guesses: Tensor, above: Tensor, embeds: Tensor, used: int, paths: Tensor) -> Tensor:
        self.levels.append(len(embeds))
        texts = [self.texts[int(row)] for row in guesses[above, 0]]
        assert all(len(text) == len(state.text) + paths.shape[1] - 1 for text in texts)
        assert paths[:, -1].tolist() == [*range(used, used + len(embeds))]
        return torch.cat([self._guess([*t, n]) for t, n in zip(texts, self._tokens(embeds), strict=True)])

    def logits(self, out: Tensor) -> Tensor:
        return torch.stack([self.opinion(self.texts[int(row)]) for row in out[:, 0]]).float()

    def scores(self, out: Tensor) -> Tensor:
        return self.logits(out)

    def tokens(self, drafted: Tensor) -> Tensor:
        return drafted


def knowing(target: Any, sign: float = 1.0) -> Oracle:
    """A head that is sure of the target's next token (sign 1), or sure that it is any other (sign -1)."""

    def opinion(text: list[int]) -> Tensor:
        best = target.unembed(target.state(text)[None])[0].argmax()
        return sign * 30.0 * (torch.arange(target.vocab_size) == best)

    return Oracle(target.table, opinion)


def introduced(drafter: Any, target: Any, prompt: Any, said: Sequence[int]) -> Any:
    """A session that has been told the prompt and what was said, in two rounds."""
    ids = target.encode(prompt)
    view = target.prefill(ids, drafter.needs.capture).prompt
    session = drafter.begin(prompt, target, None)
    session.see_prompt(view)
    session.observe(Step((said[0],), is_prompt=True))
    if len(said) > 1:
        states = torch.stack([target.state([*ids, *said[:n]]) for n in range(1, len(said))])
        session.observe(Step(tuple(said[1:]), dict.fromkeys(drafter.needs.capture, states)))
    return session


class Retold:
    """What a head makes of every path, each computed by itself: one causal pass over the text and the path."""

    def __init__(self, head: FeatureHead, target: Any, prompt: Any, said: Sequence[int]) -> None:
        self.head, self.target = head, target
        ids = target.encode(prompt)
        text = [*ids, *said]
        states = torch.stack([target.state(text[: n + 1]) for n in range(len(text) - 1)])
        taps = torch.cat([states] * len(head.config.taps), dim=-1)
        is_visual = torch.tensor([token < 0 for token in text[1:]])
        embeds = target.embed(torch.tensor(text[1:]).clamp(min=0))
        self.reading = head.read(embeds[None], taps[None], is_visual, torch.tensor([len(ids)]))
        self.known: dict[tuple[int, ...], Tensor] = {}

    def guess(self, path: tuple[int, ...]) -> Tensor:
        """(1, 1, D) the feature behind the path."""
        if path in self.known:
            return self.known[path]
        head, r = self.head, self.reading
        embeds, feats, positions, direct = r.embeds, r.feats, r.positions, r.direct
        for n, token in enumerate(path):
            embeds = torch.cat((embeds, self.target.embed(torch.tensor([[token]]))), dim=1)
            feats = torch.cat((feats, head.blend(self.guess(path[:n]), r.context)), dim=1)
            positions = torch.cat((positions, positions[-1:] + 1))
            if direct is not None:
                direct = torch.cat((direct, torch.zeros(1, 1, dtype=torch.bool)), dim=1)
        x, reads = head.inputs(embeds, feats, direct)
        cos, sin = rope_table(head.config.layer.frequencies(), positions[None])
        out = head.layer(x, cos.unsqueeze(2), sin.unsqueeze(2), None, reads)[:, -1:]
        self.known[path] = out
        return out

    def logits(self, path: tuple[int, ...]) -> Tensor:
        rows = self.target.head.T[self.head.d2t]
        return self.head.unembed(self.guess(path), rows)[0, 0]

    def children(self, path: tuple[int, ...], count: int) -> list[tuple[int, float]]:
        """The most probable tokens behind a path, with their log-probabilities, best first."""
        best = self.logits(path).log_softmax(-1).topk(min(count, len(self.head.d2t)))
        return [(int(self.head.d2t[i]), float(v)) for i, v in zip(best.indices, best.values, strict=True)]

    def candidates(self, branch: int, depth: int) -> list[tuple[tuple[int, ...], float]]:
        """EAGLE-2's expansion: all nodes and their values, level by level."""
        every: list[tuple[tuple[int, ...], float]] = []
        frontier: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        for _ in range(depth):
            level = [
                ((*path, token), worth + own)
                for path, worth in frontier
                for token, own in self.children(path, branch)
            ]
            every += level
            frontier = sorted(level, key=lambda node: -node[1])[:branch]
        return every

    def tree(self, branch: int, depth: int, nodes: int) -> set[tuple[int, ...]]:
        """The paths of the best nodes of all."""
        best = sorted(self.candidates(branch, depth), key=lambda node: -node[1])
        return {path for path, _ in best[:nodes]}


def paths_of(draft: Draft) -> list[tuple[int, ...]]:
    """The tokens from the root to each node."""
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(draft.tokens.tolist(), draft.parents.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


class Lawful:
    """A target of five tokens that knows the law behind every short text, and a head with another opinion."""

    vocab_size = 5

    def __init__(self, depth: int = 2) -> None:
        noise = torch.Generator().manual_seed(0)
        self.table = torch.eye(self.vocab_size, dtype=torch.float64)
        self.p: dict[tuple[int, ...], Tensor] = {}
        self.q: dict[tuple[int, ...], Tensor] = {}
        for length in range(depth + 1):
            for text in itertools.product(range(self.vocab_size), repeat=length):
                drawn = torch.randn(2, self.vocab_size, generator=noise, dtype=torch.float64)
                self.p[text], self.q[text] = drawn[0] * 1.5, drawn[0] + drawn[1]

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def head(self) -> Oracle:
        return Oracle(self.table, lambda text: self.q[tuple(text[1:])])

    def session(self, drafter: Any) -> Any:
        session = drafter.begin(None, self, None)
        session.see_prompt(PromptView((), torch.zeros(0, self.vocab_size)))
        session.observe(Step((0,), is_prompt=True))
        return session

    def rows(self, draft: Draft) -> Tensor:
        return torch.stack([self.p[()], *(self.p[path] for path in paths_of(draft))])


@pytest.fixture
def oracle() -> Callable[..., Oracle]:
    return knowing


@pytest.fixture
def begin() -> Callable[..., Any]:
    return introduced


@pytest.fixture
def retell() -> type[Retold]:
    return Retold


@pytest.fixture
def paths() -> Callable[[Draft], list[tuple[int, ...]]]:
    return paths_of


@pytest.fixture
def lawful() -> Lawful:
    return Lawful()
