"""A target's own answers as lessons for drafting heads: batches of whole sequences with the target's states.

The target is frozen. Its states are computed as they are needed (nothing is stored), or once and kept in a mapped
file where many heads learn from the same answers.
"""

import hashlib
import itertools
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossdraft.core.errors import CrossdraftError, DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM
from crossdraft.core.records import write_atomically
from crossdraft.core.seeds import seed_for
from crossdraft.nn.decoder import Decoder, many_lengths
from crossdraft.training.batches import pooled

FEATURES, FEATURES_CARD = "features.bin", "features.json"
READING = "lessons.safetensors"
POOL = 16


@dataclass(frozen=True)
class Lesson:
    """One answer. ids: prompt and answer, placeholders negative; prompt: positions of the prompt; scene: number of
    the pictures it is about, None for text; group: what is held out together."""

    ids: tuple[int, ...]
    prompt: int
    scene: int | None
    group: str


@dataclass(frozen=True)
class Batch:
    """B padded sequences of T positions.

    embeds: input embeddings; states: the target's, by layer; tokens: ids, 0 where there is none. is_visual: (T,)
    positions that hold pictures, the same for all. prompt, length: positions of each sequence's prompt, and of all.
    """

    embeds: Float[Tensor, "B T D"]
    states: dict[int, Float[Tensor, "B T D"]]
    tokens: Int[Tensor, "B T"]
    is_visual: Bool[Tensor, "T"]
    prompt: Int[Tensor, "B"]
    length: Int[Tensor, "B"]

    @property
    def predicts(self) -> Bool[Tensor, "B T"]:
        """Positions whose state predicts a token of the answer."""
        position = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (position >= self.prompt[:, None] - 1) & (position + 1 < self.length[:, None])


class Lessons:
    """Answers with a frozen target to look at them.

    decoder: the target's, with its weights; layers: whose states are wanted, -1 the last behind its norm.
    keep: a folder for a file of all states, or one for each of the corpora that the lessons are of, with how many
    of them are its own, in their order; None: computed anew for every batch. processes: that fill such a file (on a
    CPU, one thread each).
    """

    def __init__(
        self,
        decoder: Decoder,
        lessons: Sequence[Lesson],
        scenes: Sequence[Float[Tensor, "M D"]],
        layers: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        keep: Path | Sequence[tuple[Path, int]] | None = None,
        processes: int = 1,
        report: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        if not lessons:
            raise DataError("there is no answer to learn from")
        self.decoder, self.lessons, self.scenes = decoder, list(lessons), list(scenes)
        self.layers, self.device = tuple(sorted(set(layers))), torch.device(device)
        self.lengths = np.array([len(lesson.ids) for lesson in self.lessons])
        self.width, self.dtype = decoder.config.hidden_size, decoder.embed_tokens.weight.dtype
        self._epoch: tuple[object, Sequence[int], list[np.ndarray]] | None = None
        self.kept: list[Tensor] | None = None
        """Of each corpus: the mapped states of its lessons, end to end, (positions, layers * D)."""
        if keep is not None:
            parts = [(keep, len(self.lessons))] if isinstance(keep, Path) else list(keep)
            self._keep(parts, processes, report)

    @property
    def num_tokens(self) -> int:
        """Answer tokens of all lessons."""
        return int(sum(len(lesson.ids) - lesson.prompt for lesson in self.lessons))

    @cached_property
    def digest(self) -> str:
        """What is taught: by this a training is known again."""
        return self._digest(range(len(self.lessons)))

    def _digest(self, places: Iterable[int]) -> str:
        """Of some lessons and their pictures, whatever other lessons there are."""
        sha, numbers = hashlib.sha256(), dict[int, int]()
        for place in places:
            lesson = self.lessons[place]
            scene = None if lesson.scene is None else numbers.setdefault(lesson.scene, len(numbers))
            sha.update(repr((lesson.ids, lesson.prompt, scene)).encode())
        for scene in numbers:
            sha.update(self.scenes[scene].detach().cpu().float().numpy().tobytes())
        return sha.hexdigest()

    def counts(self, places: Sequence[int]) -> Int[Tensor, "V"]:
        """How often each token is in the answers at ``places``."""
        out = torch.zeros(self.decoder.config.vocab_size, dtype=torch.long)
        for place in places:
            lesson = self.lessons[place]
            answer = torch.tensor(lesson.ids[lesson.prompt :])
            out.index_add_(0, answer, torch.ones_like(answer))
        return out

    def places_of(
        self, places: Sequence[int], num_batches: int, seed: int, step: int, part: int, parts: int
    ) -> Int[np.ndarray, "n"]:
        """Every so many of the lessons of a step: each epoch of ``num_batches`` goes through ``places`` once, in an
        order of its own, lessons of like length together."""
        epoch, at = divmod(step, num_batches)
        key = (epoch, num_batches, seed)
        if self._epoch is None or self._epoch[0] != key or self._epoch[1] is not places:
            rng = np.random.default_rng(seed_for(seed, f"epoch/{epoch}"))
            batches = pooled(rng.permutation(np.array(places)), self.lengths, num_batches, rng)
            self._epoch = (key, places, batches)
        batch = self._epoch[2][at]
        # the last batch may have fewer lessons than there are parts
        return batch[part::parts] if part < len(batch) else batch[:1]

    def batch(self, places: Sequence[int] | np.ndarray) -> Batch:
        """The lessons at ``places``. DataError when their pictures do not lie at the same positions."""
        chosen = [self.lessons[int(place)] for place in places]
        steps = max(len(lesson.ids) for lesson in chosen)
        ids = torch.zeros(len(chosen), steps, dtype=torch.long)
        seen = torch.zeros(len(chosen), steps, dtype=torch.bool)
        for row, lesson in enumerate(chosen):
            own = torch.tensor(lesson.ids)
            ids[row, : len(own)] = own.clamp(min=0)
            seen[row, : len(own)] = own < 0
        if not torch.equal(seen, seen[:1].expand_as(seen)):
            raise DataError("the prompts of one batch hold their pictures at different positions; teach them apart")
        embeds = torch.nn.functional.embedding(ids.to(self.device), self.decoder.embed_tokens.weight).clone()
        for row, lesson in enumerate(chosen):
            if lesson.scene is not None:
                embeds[row, seen[row]] = self.scenes[lesson.scene].to(self.device, embeds.dtype)
        states = self._states(embeds) if self.kept is None else self._kept_states(places, steps)
        return Batch(
            embeds, states, ids.to(self.device), seen[0].to(self.device),
            torch.tensor([lesson.prompt for lesson in chosen], device=self.device),
            torch.tensor([len(lesson.ids) for lesson in chosen], device=self.device),
        )  # fmt: skip

    @torch.no_grad()
    def _states(self, embeds: Tensor) -> dict[int, Tensor]:
        with torch.autocast(self.device.type, enabled=False), many_lengths(self.device):
            return self.decoder(embeds, capture=self.layers)[1]

    # -- states that are kept --------------------------------------------------------------------------------------

    def _keep(
        self, parts: Sequence[tuple[Path, int]], processes: int, report: Callable[[str, int, int], None]
    ) -> None:
        """Map the states of each corpus, so that a corpus which more are added to is not read anew."""
        counts = [count for _, count in parts]
        if sum(counts) != len(self.lessons):
            raise DataError(f"the corpora have {sum(counts)} answers, {len(self.lessons)} were given")
        self._part = np.repeat(np.arange(len(parts)), counts)
        apart = np.split(self.lengths, np.cumsum(counts)[:-1])
        self._starts = np.concatenate([lengths.cumsum() - lengths for lengths in apart])
        mark = _weights_digest(self.decoder)
        # nothing counts as kept before all of it is
        self.kept = [
            self._keep_one(folder, np.flatnonzero(self._part == number), mark, processes, report)
            for number, (folder, _) in enumerate(parts)
        ]

    def _keep_one(
        self, folder: Path, places: Int[np.ndarray, "n"], mark: str, processes: int,
        report: Callable[[str, int, int], None],
    ) -> Float[Tensor, "positions layers_D"]:  # fmt: skip
        """The mapped states of the lessons at ``places``, end to end, of the target's dtype."""
        shape = (int(self.lengths[places].sum()), len(self.layers) * self.width)
        card = {
            "answers": self._digest(places.tolist()), "layers": list(self.layers), "dtype": str(self.dtype),
            "shape": list(shape), "target": mark,
        }  # fmt: skip
        path, told = folder / FEATURES, folder / FEATURES_CARD
        size = shape[0] * shape[1] * torch.finfo(self.dtype).bits // 8
        whole = path.is_file() and path.stat().st_size >= size and _told(told) == card
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mapped = torch.from_file(str(path), shared=True, size=shape[0] * shape[1], dtype=self.dtype).view(shape)
        except (OSError, RuntimeError) as error:
            raise CrossdraftError(
                f"cannot keep the target's states in {path} ({error}); free some space, or compute them anew for "
                "every batch (--online)"
            ) from error
        if whole:
            return mapped
        told.unlink(missing_ok=True)
        order = places[np.argsort(self.lengths[places], kind="stable")]
        pools = [order[start : start + POOL] for start in range(0, len(order), POOL)]
        many = processes if self.device.type == "cpu" else 1
        # forked, they share the weights and the mapped file
        context = multiprocessing.get_context("fork")
        others = [context.Process(target=self._help, args=(mapped, pools[i::many])) for i in range(1, many)]
        for other in others:
            other.start()
        try:
            what = "the target reads its answers"
            self._fill(mapped, pools[::many], lambda done: report(what, many * done, len(order)))
        except BaseException:
            for other in others:
                other.terminate()
            raise
        for other in others:
            other.join()
            if other.exitcode:
                raise CrossdraftError(
                    f"a process that computed the target's states has died (out of memory?); run it again, or with "
                    f"fewer than {processes} processes"
                )
        write_atomically(told, json.dumps(card).encode())
        return mapped

    def _help(self, mapped: Tensor, pools: Sequence[np.ndarray]) -> None:
        """``_fill`` in a forked process, in which threads would wait for ones that were not forked."""
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
        self._fill(mapped, pools)

    def _fill(
        self, mapped: Tensor, pools: Sequence[np.ndarray], report: Callable[[int], None] = lambda done: None
    ) -> None:
        """Compute the states of these lessons into the mapped file."""
        for number, places in enumerate(pools):
            report(number * POOL)
            batch = self.batch(places)
            joined = torch.cat([batch.states[layer] for layer in self.layers], dim=-1)
            for row, place in enumerate(places):
                start = self._starts[place]
                mapped[start : start + self.lengths[place]] = joined[row, : self.lengths[place]].cpu()

    def _kept_states(self, places: Sequence[int] | np.ndarray, steps: int) -> dict[int, Tensor]:
        assert self.kept is not None
        out = self.kept[0].new_zeros(len(places), steps, len(self.layers) * self.width)
        for row, place in enumerate(places):
            start, length = self._starts[place], self.lengths[place]
            out[row, :length] = self.kept[self._part[place]][start : start + length]
        parts = out.to(self.device).split(self.width, dim=-1)
        return dict(zip(self.layers, parts, strict=True))


def _told(path: Path) -> Any:
    """What a card says; None when there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _weights_digest(decoder: Decoder) -> str:
    """A cheap mark of a decoder's weights: sums of every parameter."""
    sums = torch.stack([p.detach().float().sum().cpu() for p in decoder.parameters()])
    return hashlib.sha256(sums.numpy().tobytes()).hexdigest()


def read_lessons(
    target: VLM,
    answers: Iterable[tuple[Callable[[], Prompt], Sequence[int], str, str | None]],
    report: Callable[[int], None] = lambda done: None,
) -> tuple[list[Lesson], list[Float[Tensor, "M D"]]]:
    """Encode every prompt once. answers: (prompt, answer tokens, group, name of its pictures or None).

    Pictures of one name are kept once. Raises DataError for a prompt that cannot be encoded.
    """
    lessons: list[Lesson] = []
    scenes: list[Tensor] = []
    numbers: dict[str | int, int] = {}
    for number, (load, tokens, group, pictures) in enumerate(answers):
        report(number)
        encoded = target.encode(load())
        seen = torch.tensor(encoded.tokens) < 0
        scene = None
        if bool(seen.any()):
            key = number if pictures is None else pictures
            if key not in numbers:
                numbers[key] = len(scenes)
                scenes.append(encoded.embeds[seen].clone())
            scene = numbers[key]
        lessons.append(Lesson((*encoded.tokens, *tokens), len(encoded.tokens), scene, group))
    return lessons, scenes


def keep_reading(
    folder: Path, sign: str, lessons: Sequence[Lesson], scenes: Sequence[Float[Tensor, "M D"]]
) -> None:
    """Keep what ``read_lessons`` gave, for ``kept_reading`` with the same sign. CrossdraftError where it cannot be
    written."""
    tensors = {
        "ids": torch.tensor([token for lesson in lessons for token in lesson.ids]),
        "lengths": torch.tensor([len(lesson.ids) for lesson in lessons]),
        "prompts": torch.tensor([lesson.prompt for lesson in lessons]),
        "scene": torch.tensor([-1 if lesson.scene is None else lesson.scene for lesson in lessons]),
        "sizes": torch.tensor([len(scene) for scene in scenes], dtype=torch.long),
        "scenes": torch.cat([scene.cpu() for scene in scenes]) if scenes else torch.empty(0),
    }
    told = {"sign": sign, "groups": json.dumps([lesson.group for lesson in lessons])}
    try:
        write_atomically(folder / READING, save(tensors, told))
    except CrossdraftError as error:
        raise CrossdraftError(f"{error}, or let the target look anew for every training (--online)") from error


def kept_reading(folder: Path, sign: str) -> tuple[list[Lesson], list[Float[Tensor, "M D"]]] | None:
    """What ``keep_reading`` kept; None when there is nothing of this sign, or nothing that can be read."""
    try:
        with safe_open(folder / READING, "pt") as file:
            told = file.metadata() or {}
            if told.get("sign") != sign:
                return None
            groups = json.loads(told["groups"])
            ids, lengths, prompts, scene, sizes = (
                file.get_tensor(name).tolist() for name in ("ids", "lengths", "prompts", "scene", "sizes")
            )
            scenes = list(file.get_tensor("scenes").split(sizes)) if sizes else []
        ends = itertools.accumulate(lengths)
        lessons = [
            Lesson(tuple(ids[end - length : end]), prompt, None if number < 0 else number, group)
            for end, length, prompt, number, group in zip(ends, lengths, prompts, scene, groups, strict=True)
        ]
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        return None
    return lessons, scenes


def hold_out(lessons: Sequence[Lesson], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Places to train on and to hold out, whole groups; DataError when there is one group only."""
    groups = sorted({lesson.group for lesson in lessons})
    if len(groups) < 2:
        raise DataError("all answers are of one group, so none can be held out; give answers of two recordings")
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    order = np.random.default_rng(seed_for(seed, "held out")).permutation(len(groups))
    held = {groups[i] for i in order[:count]}
    train = [i for i, lesson in enumerate(lessons) if lesson.group not in held]
    return train, [i for i, lesson in enumerate(lessons) if lesson.group in held]
