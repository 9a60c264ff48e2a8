"""A random tiny model that recomputes everything from the token ids, as an independent reference for decoding."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Drafter
from crossdraft.core.seeds import generator
from crossdraft.core.types import SIMILARITY, Draft, Exactness, PromptView, Scores
from crossdraft.heads.recipes import RECIPES, recipe_of
from crossdraft.nn.decoder import DecoderConfig

VOCAB = 24
END = 1
NO_STATES = torch.empty(0)
LETTERS = "_.abcdefghijklmnop qrstuvwxyz"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest is begun first, so that workers end together (with --no-loadscope-reorder)."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


class LetterTokenizer:
    """One letter for each id; ids beyond the alphabet wrap round. The end token has no text."""

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(LETTERS[t % len(LETTERS)] for t in tokens if t != END)

    def encode(self, text: str) -> list[int]:
        return [2 + ord(c) % (VOCAB - 2) for c in text]


@dataclass
class TinySession:
    """Keeps the committed ids and nothing else: every row of every pass is computed anew from its own path."""

    model: "TinyVLM"
    prompt: PromptView
    capture: tuple[int, ...]
    capacity: int
    first: Scores = field(init=False)
    said: list[int] = field(default_factory=list)
    last: Draft | None = None
    widths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = self._scores([list(self.prompt.tokens)])

    @property
    def length(self) -> int:
        return len(self.prompt.tokens) + max(0, len(self.said) - 1)

    def _scores(self, paths: list[list[int]]) -> Scores:
        states = torch.stack([self.model.state(path) for path in paths])
        return Scores(self.model.unembed(states).float(), self.model.watched(states, self.capture))

    def sketch(self, drafted: Sequence[int], skip: frozenset[int]) -> torch.Tensor:
        assert self.said and self.last is None, "no root that no pass has seen"
        ids = [*self.prompt.tokens, *self.said, *drafted]
        return self.model.unembed(self.model.state(ids, attends=not skip)[None]).float()

    def score(self, draft: Draft) -> Scores:
        assert self.said, "score before the first root"
        if self.length + 1 + len(draft) > self.capacity:
            raise SettingError("the cache has no room left")
        base = [*self.prompt.tokens, *self.said]
        paths = [base]
        tokens, parents = draft.tokens.tolist(), draft.parents.tolist()
        for token, parent in zip(tokens, parents, strict=True):
            paths.append([*paths[parent + 1], token])
        self.last = draft
        self.widths.append(len(paths))
        return self._scores(paths)

    def commit(self, path: Sequence[int], bonus: int) -> None:
        if path:
            assert self.last is not None
            parents = self.last.parents.tolist()
            assert [parents[n] for n in path] == [-1, *path[:-1]], "not a path from the root"
            self.said += self.last.tokens[list(path)].tolist()
        self.said.append(int(bonus))
        self.last = None

    def mark(self) -> Any:
        return len(self.said)

    def rewind(self, mark: Any) -> None:
        assert 0 <= mark <= len(self.said)
        del self.said[mark:]
        self.last = None

    def reroot(self, token: int) -> None:
        assert self.said and self.last is None, "no root that no pass has seen"
        self.said[-1] = int(token)


class TinyVLM:
    """Random attention over the ids of the whole text, in float64; repeats itself, and ends now and then."""

    name = "tiny"
    hidden_size = 16
    exactness = Exactness(True, "float64, recomputed")

    def __init__(
        self, seed: int = 0, vocab_size: int = VOCAB, end_bias: float = 0.0, watches: str = "text"
    ) -> None:
        noise = generator(seed, "tiny")
        self.vocab_size, self.max_positions, self.eos_token_ids = vocab_size, 4096, (END,)
        self.tokenizer, self.watches = LetterTokenizer(), watches
        self.sessions: list[TinySession] = []
        size = self.hidden_size

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=noise, dtype=torch.float64) / math.sqrt(shape[-1])

        self.table = random(vocab_size, size) * 4
        self.query, self.out, self.head = (
            random(size, size) * 2,
            random(size, size) * 2,
            random(size, vocab_size) * 4,
        )
        self.end_bias = end_bias

    def encode(self, prompt: Prompt) -> list[int]:
        if self.watches == "events" and prompt.events is None:
            raise DataError("the tiny event model needs events; give some")
        ids = [-1, -1, *self.tokenizer.encode(prompt.question)]
        return ids + ([2 + len(prompt.events) % (VOCAB - 2)] if prompt.events is not None else [])

    def prefill(self, encoded: Any, capture: tuple[int, ...] = (), room: int = 512) -> TinySession:
        states = torch.stack([self.state(encoded[: n + 1]) for n in range(len(encoded))]) if capture else NO_STATES
        embeds = self.table[torch.tensor(encoded).clamp(min=0)]
        view = PromptView(tuple(encoded), embeds, self.watched(states, capture))
        session = TinySession(self, view, capture, len(encoded) + room)
        self.sessions.append(session)
        return session

    def watched(self, states: torch.Tensor, capture: tuple[int, ...]) -> dict[int, torch.Tensor]:
        """The states as every captured layer's; as the cosines around attention, numbers like those."""
        return {layer: states[:, :5].abs().clamp(max=1) if layer == SIMILARITY else states for layer in capture}

    def state(self, ids: list[int], attends: bool = True) -> torch.Tensor:
        seen = self.table[torch.tensor([max(i, 0) for i in ids])]  # (T, D)
        # nearer tokens weigh more, so that the text is not the same for ever
        nearness = torch.arange(len(ids), dtype=torch.float64).sub_(len(ids)) * 0.3
        mixed = torch.softmax(seen @ self.query @ seen[-1] * 0.2 + nearness, 0) @ seen
        return torch.tanh(mixed @ self.out * attends + seen[-1] * 0.5)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table[tokens]

    def unembed(self, states: torch.Tensor) -> torch.Tensor:
        logits = states @ self.head
        logits[:, END] += self.end_bias
        return logits


@dataclass(frozen=True)
class FreeWidth:
    """Every pass costs the same: drafts are as long as their method can make them."""

    def pass_ms(self, rows: int) -> float:
        return 1.0


@dataclass
class Tiny:
    """A target, an event model, and a way to make every drafter of the catalogue for them."""

    target: TinyVLM
    event_model: TinyVLM

    def drafter(self, name: str) -> Drafter:
        from crossdraft.core.registry import find
        from crossdraft.drafters import DRAFTERS
        from crossdraft.drafters.constant import OpeningBook
        from crossdraft.drafters.memory import StreamMemory

        settings: dict[str, Callable[[], dict[str, Any]]] = {
            "none": dict,
            "constant": lambda: {"book": OpeningBook(), "costs": FreeWidth()},
            "ngram": lambda: {"costs": FreeWidth()},
            "memory": lambda: {"memory": StreamMemory(), "costs": FreeWidth()},
            "draft_model": lambda: {"draft_model": self.event_model, "costs": FreeWidth(), "length": 6},
            "layer_skip": lambda: {"costs": FreeWidth(), "threshold": 0.3, "max_share": 1.0, "length": 5},
            "cross_modal": lambda: {"event_model": self.event_model, "costs": FreeWidth(), "token_ms": 0.01},
        }
        if name in RECIPES or name == "eagle2":
            return find("drafter", DRAFTERS, name)(**self._headed(name))  # type: ignore[no-any-return]
        made: Drafter = find("drafter", DRAFTERS, name)(**settings[name]())
        return made

    def head(self, name: str, seed: int = 0) -> Any:
        """An untrained drafting head for the target."""
        torch.manual_seed(seed)
        size = self.target.hidden_size
        shape = DecoderConfig(
            vocab_size=self.target.vocab_size, hidden_size=size, intermediate_size=24,
            num_layers=getattr(self.target, "num_layers", 6), num_heads=2,
            num_kv_heads=1, head_dim=8, max_positions=4096,
        )  # fmt: skip
        return recipe_of(name).network(shape).double().eval().requires_grad_(False)

    def _headed(self, name: str) -> dict[str, Any]:
        from crossdraft.core.tree import static_tree
        from crossdraft.drafters.medusa import MedusaRunner
        from crossdraft.heads.runner import HeadRunner

        rows, head = self.target.head.T, self.head("eagle" if name == "eagle2" else name)
        dtype = getattr(self.target, "dtype", torch.float64)
        if name == "medusa":
            guesses = torch.tensor([[0.6, 0.3, 0.1]] * 4)
            tree = static_tree(guesses, 12)
            return {"head": MedusaRunner(head, rows, dtype), "costs": FreeWidth(), "tree": tree}
        return {"head": HeadRunner(head, rows, dtype), "costs": FreeWidth()}


@pytest.fixture
def tiny() -> Tiny:
    return Tiny(TinyVLM(0), TinyVLM(1, watches="events"))


@pytest.fixture
def prompt() -> Prompt:
    return make_prompt("what is there to see?")


@pytest.fixture
def free_width() -> FreeWidth:
    return FreeWidth()


@pytest.fixture
def make_tiny() -> Callable[..., TinyVLM]:
    return TinyVLM


@pytest.fixture
def ask() -> Callable[..., Prompt]:
    return make_prompt


def make_prompt(question: str, num_events: int = 7, stream_id: str | None = "stream") -> Prompt:
    """A prompt without pictures, with a few events."""
    import numpy as np

    from crossdraft.core.prompt import EventStream

    t = np.arange(num_events, dtype=np.int64)
    xy = np.zeros(num_events, dtype=np.uint16)
    events = EventStream(xy, xy, t, np.zeros(num_events, dtype=np.uint8), (4, 4))
    return Prompt(question, events=events, stream_id=stream_id)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of event recordings: the real ones where a checkout has them beside it, else made after their model.

    640 x 480, 50 ms, one on a camera's own clock and one on its own; each as npz and as the legacy pickled npy.
    """
    import numpy as np

    real = Path(__file__).resolve().parents[2] / "shared" / "data" / "events"
    if list(real.glob("*.np[yz]")):
        return real
    folder = tmp_path_factory.mktemp("recordings")
    for name, start_us, clock in (("sample1", 0, np.uint16), ("interlaken_00_d_000089", 51_836_949_776, np.int64)):
        rng, count = np.random.default_rng(len(name)), 125_000
        columns = {
            "p": rng.integers(0, 2, count).astype(np.uint8),
            "t": (start_us + np.sort(rng.integers(0, 49_900, count))).astype(clock),
            "x": rng.integers(0, 640, count).astype(np.uint16),
            "y": rng.integers(0, 480, count).astype(np.uint16),
        }
        np.savez(folder / f"{name}.npz", **columns)
        np.save(folder / f"{name}.npy", np.array(columns, dtype=object), allow_pickle=True)
    return folder
