"""A target's answers as lessons for the event model: what it sees, what it is asked, what the target said.

The vision side stays as it is, so every clip is looked at once. Several answers about one clip share a row: its
events in front, the questions with their answers behind. Each answer sees the front and itself only, and positions
restart behind the front, so it is trained exactly as if it stood alone, and the front is paid for once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.seeds import seed_for
from crossdraft.data.store import Entry, Store
from crossdraft.models.eventgpt import EventGPT
from crossdraft.models.spliced import PLACEHOLDER, check_fits

Report = Callable[[str, int, int], None]

# as between target and event model: vocabularies of one family differ by a handful of added tokens at most
_MAX_ADDED_TOKENS = 128
_COMPARED_TEXTS = 8
_IN_MEMORY_BYTES = 2 << 30


class Asked(Protocol):
    """A question about a clip, as extraction was given it (``extraction.jobs.Job``)."""

    @property
    def id(self) -> str:
        """The id of its sample in the store."""
        ...

    @property
    def question(self) -> str:
        """The user's words."""
        ...

    def load(self) -> Prompt:
        """Read its clip."""
        ...


@dataclass(frozen=True)
class Answer:
    """One sample of the store. rear: ids of the prompt behind the events; tokens: what the target said."""

    place: int
    recording: str
    rear: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A clip and some of the answers about it, by their numbers."""

    clip: int
    answers: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Packed rows. B rows of T positions, K tokens to predict.

    ids: (B, T - M) text, the M event embeddings of ``seen`` belong behind the first ``left``; flat: where, in the
    B * T positions, each token is predicted; tokens: the target's; sizes: how many of each answer, in order.
    target_states, top_ids, top_log_probs: the target's at these tokens, as far as they were asked for.
    """

    ids: Int[Tensor, "B text"]
    seen: Float[Tensor, "B M D"]
    left: int
    mask: Bool[Tensor, "B 1 T T"]
    positions: Int[Tensor, "B T"]
    flat: Int[Tensor, "K"]
    tokens: Int[Tensor, "K"]
    sizes: tuple[int, ...]
    target_states: Float[Tensor, "K Dt"] | None = None
    top_ids: Int[Tensor, "K top"] | None = None
    top_log_probs: Float[Tensor, "K top"] | None = None

    def to(self, device: str) -> "Batch":
        """The same on ``device``."""
        moved: dict[str, Any] = {
            f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Answers:
    """All answers of a store with the clips they are about.

    left: ids in front of the events, the same for every prompt; seen: event embeddings of the N clips;
    recording_of: of each clip; clips: the clip of each answer.
    """

    store: Store
    left: tuple[int, ...]
    seen: Float[Tensor, "N M D"]
    recording_of: tuple[str, ...]
    answers: tuple[Answer, ...]
    clips: tuple[int, ...]

    def rows(self, recordings: Iterable[str], most: int) -> list[Row]:
        """The answers of these recordings, at most ``most`` of one clip in a row."""
        wanted = set(recordings)
        of_clip: dict[int, list[int]] = {}
        for number, (answer, clip) in enumerate(zip(self.answers, self.clips, strict=True)):
            if answer.recording in wanted:
                of_clip.setdefault(clip, []).append(number)
        return [
            Row(clip, tuple(numbers[at : at + most]))
            for clip, numbers in of_clip.items()
            for at in range(0, len(numbers), most)
        ]

    def stranger(self, clip: int) -> int:
        """A clip of another recording, always the same one: the control for what the events say."""
        count = len(self.recording_of)
        others = ((clip + count // 2 + step) % count for step in range(count))
        return next(other for other in others if self.recording_of[other] != self.recording_of[clip])

    def pack(self, rows: Sequence[Row], wanted: Sequence[str] = (), *, shuffled: bool = False) -> Batch:
        """The rows as one batch with the ``wanted`` tensors of the store; shuffled: behind a stranger's events."""
        asked = [[self.answers[number] for number in row.answers] for row in rows]
        left, media = len(self.left), self.seen.shape[1]
        front = left + media
        behind = max(sum(len(a.rear) + len(a.tokens) - 1 for a in row) for row in asked)
        ids = np.zeros((len(rows), left + behind), np.int64)
        ids[:, :left] = self.left
        # 0: seen by all behind it; padding is an answer of its own, so that no row of attention is empty
        owner = np.full((len(rows), front + behind), -1)
        owner[:, :front] = 0
        positions = np.zeros((len(rows), front + behind), np.int64)
        positions[:, :front] = np.arange(front)
        flat: list[int] = []
        for b, row in enumerate(asked):
            at = front
            for j, answer in enumerate(row):
                text = (*answer.rear, *answer.tokens[:-1])
                end = at + len(text)
                ids[b, at - media : end - media] = text
                owner[b, at:end] = j + 1
                positions[b, at:end] = front + np.arange(len(text))
                # the state at the prompt's last position predicts the first token
                flat += range(b * (front + behind) + at + len(answer.rear) - 1, b * (front + behind) + end)
                at = end
        whose = torch.from_numpy(owner)
        mask = (whose[:, None, :] == 0) | (whose[:, None, :] == whose[:, :, None])
        clips = [self.stranger(row.clip) if shuffled else row.clip for row in rows]
        listed = [answer for row in asked for answer in row]
        return Batch(
            ids=torch.from_numpy(ids), seen=self.seen[clips], left=left, mask=mask.tril_()[:, None],
            positions=torch.from_numpy(positions), flat=torch.tensor(flat),
            tokens=torch.tensor([token for answer in listed for token in answer.tokens]),
            sizes=tuple(len(answer.tokens) for answer in listed), **self._stored(listed, wanted),
        )  # fmt: skip

    def _stored(self, answers: Sequence[Answer], wanted: Sequence[str]) -> dict[str, Tensor]:
        if not wanted:
            return {}
        samples = [self.store[answer.place] for answer in answers]
        return {name: torch.cat([getattr(sample, name) for sample in samples]) for name in wanted}


def read_answers(
    model: EventGPT, store: Store, jobs: Iterable[Asked], scratch: Path, report: Report = lambda *_: None
) -> Answers:
    """Look at every clip of the store once, and cut every question and answer into ids.

    scratch: folder for a file of event embeddings, where they are too many for memory.
    Raises DataError when the store cannot teach this event model, when it holds samples that are not among the
    jobs, and for a clip that cannot be read.
    """
    listed = {job.id: job for job in jobs}
    _check(model, store, listed)
    numbers: dict[tuple[str, int], int] = {}
    for entry in store.entries:
        numbers.setdefault((entry.recording, entry.clip_index), len(numbers))
    left: tuple[int, ...] = ()
    seen = torch.empty(0)
    answers, looked_at = [], [False] * len(numbers)
    for place, entry in enumerate(store.entries):
        report("looking at the clips", place, len(store))
        clip = numbers[entry.recording, entry.clip_index]
        if not looked_at[clip]:
            encoded = model.encode(listed[entry.id].load())
            where = torch.tensor(encoded.tokens) == PLACEHOLDER
            if not any(looked_at):
                left = encoded.tokens[: int(where.int().argmax())]
                seen = _space(len(numbers), encoded.embeds[where], scratch)
            seen[clip], looked_at[clip] = encoded.embeds[where], True
        answers.append(_answer(model, store, place, entry, len(left) + seen.shape[1]))
    recordings = tuple(recording for recording, _ in numbers)
    clips = tuple(numbers[entry.recording, entry.clip_index] for entry in store.entries)
    return Answers(store, left, seen, recordings, tuple(answers), clips)


def _answer(model: EventGPT, store: Store, place: int, entry: Entry, front: int) -> Answer:
    sample = store[place]
    assert sample.target_tokens is not None
    ids = model.prompt_ids(Prompt(entry.question))
    rear, tokens = tuple(ids[ids.index(PLACEHOLDER) + 1 :]), tuple(sample.target_tokens.tolist())
    if max(tokens) >= model.vocab_size:
        raise _other_language(store, f"sample '{entry.id}' has token {max(tokens)} of {model.vocab_size}")
    check_fits(front + len(rear) + len(tokens), model.max_positions, model.name)
    return Answer(place, entry.recording, rear, tokens)


def _space(count: int, one: Float[Tensor, "M D"], scratch: Path) -> Float[Tensor, "N M D"]:
    """Room for so many clips' embeddings: in memory, or in a mapped file that goes with the process."""
    shape, size = (count, *one.shape), count * one.numel()
    if size * one.element_size() <= _IN_MEMORY_BYTES:
        return torch.empty(shape, dtype=one.dtype)
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / ".seen.bin"
    room = torch.from_file(str(path), shared=True, size=size, dtype=one.dtype).view(shape)
    path.unlink()
    return room


def _check(model: EventGPT, store: Store, listed: dict[str, Asked]) -> None:
    identity = store.identity
    if identity.mode != "teacher-forced":
        raise DataError(
            f"{store.root}: is {identity.mode}, two different texts side by side; the event model is taught on "
            "answers that both models read: extract with --mode teacher-forced"
        )
    if not identity.has_tokens:
        raise DataError(f"{store.root}: holds texts without token ids; extract again to teach an event model")
    size = identity.vocab_size
    if size is not None and abs(size - model.vocab_size) > _MAX_ADDED_TOKENS:
        raise _other_language(store, f"{size} tokens against {model.vocab_size}")
    lacking = [entry.id for entry in store.entries if entry.id not in listed]
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise DataError(
            f"{store.root}: sample '{lacking[0]}' is of no clip that was given{more}; name the data that the store "
            "was extracted from"
        )
    for entry in store.entries:
        if listed[entry.id].question != entry.question:
            raise DataError(
                f"{store.root}: sample '{entry.id}' answers '{entry.question:.60}', but these data ask "
                f"'{listed[entry.id].question:.60}'; name the data that the store was extracted from"
            )
    some = [sample for sample, _ in zip(store, range(_COMPARED_TEXTS), strict=False) if sample.target_text]
    texts = {s.target_text: s.target_tokens.tolist() for s in some if s.target_tokens is not None}
    if texts and all(model.tokenizer.decode(tokens) != text for text, tokens in texts.items()):
        raise _other_language(store, f"'{model.name}' reads the first answer's tokens as another text")


def _other_language(store: Store, what: str) -> DataError:
    return DataError(
        f"{store.root}: was extracted from a target of another vocabulary ({what}); choose an event model of the "
        "target's language model family"
    )


def rows_of_step(rows: Sequence[Row], step: int, batch: int, seed: int) -> list[Row]:
    """The rows of one step, a function of ``step`` alone: every epoch meets all of them in a new order."""
    picked = []
    for slot in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(slot, len(rows))
        picked.append(rows[_order(seed, epoch, len(rows))[place]])
    return picked


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, total: int) -> np.ndarray:
    return np.random.default_rng(seed_for(seed, f"epoch/{epoch}")).permutation(total)
