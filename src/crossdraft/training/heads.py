"""Train a drafting head on a target's own answers, and keep what is needed to believe its figures."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.provenance import provenance
from crossdraft.core.records import write_record
from crossdraft.core.rounds import play
from crossdraft.core.seeds import seed_for
from crossdraft.core.types import LAST
from crossdraft.heads.checkpoint import HEAD, HeadCard, load_head, save_head
from crossdraft.heads.feature import FeatureHead, output_matrices, start_outputs, with_draft_vocab
from crossdraft.heads.medusa import MedusaHead
from crossdraft.heads.recipes import Head, Recipe, recipe_of
from crossdraft.nn import losses
from crossdraft.nn.decoder import DecoderConfig
from crossdraft.training.gradients import check_processes
from crossdraft.training.lessons import Batch, Lessons
from crossdraft.training.loop import RECORD, FitConfig, Report, ended_before, fit
from crossdraft.training.narrow import narrowed
from crossdraft.training.state import STATE

KIND = "head-training"
RANKS = 10
"""Guesses of each depth whose accuracy is measured: a static tree is built from them."""


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How a drafting head is trained.

    name: of ``heads.recipes``. settings: of its network (``FeatureHeadConfig``, ``MedusaConfig``, and
    intermediate_size). epochs, minutes: whichever ends first. batch: answers of a step. peak_lr: None takes
    0.256 / width, which is 6e-5 at 4,096. passes: of the recipe, replaced. start: "random", "target" (as the
    target's last layer, ``FeatureHead.start_from``), or a trained head of the same shape to go on from.
    freeze_output: a head's own output matrices stay as they began, the target's rows (of a trained head that is
    gone on from: its own): less to compute, and less to learn by heart from few answers. depth: guesses of a chain
    in the held-out figures. dtype: "bfloat16" computes in it, with float32 weights. processes: 2 halve every batch
    on a CPU.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 3
    minutes: float | None = None
    batch: int = 16
    peak_lr: float | None = None
    passes: int | None = None
    start: str = "random"
    freeze_output: bool = False
    followed: float = 1.0
    depth: int = 5
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    device: str = "cpu"
    processes: int = 1

    def __post_init__(self) -> None:
        if self.start not in ("random", "target") and not Path(self.start).exists():
            raise SettingError(f"start is '{self.start}', must be random, target or a trained head that is there")
        for name in ("epochs", "batch", "depth", "passes"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise SettingError(f"{name} is {value!r}, must be a whole number from 1 on")
        if not 0 < self.followed <= 1:
            raise SettingError(f"followed is {self.followed}, must be above 0 and at most 1")
        check_processes(self.processes, self.device)

    @property
    def recipe(self) -> Recipe:
        """With what is replaced. SettingError for an unknown name."""
        recipe = recipe_of(self.name)
        return recipe if self.passes is None else replace(recipe, passes=self.passes)


def train_head(
    lessons: Lessons,
    train: Sequence[int],
    held_out: Sequence[int],
    out: str | Path,
    config: HeadTraining,
    *,
    target: str,
    fingerprint: str = "",
    corpus: str = "",
    report: Report = lambda what, done, total: None,
    note: Callable[[str], None] = lambda line: None,
    resume: bool = True,
    stop_after: int | None = None,
) -> dict[str, Any] | None:
    """Train and return the record that was written, OUT/training.json (kind "head-training").

    OUT/head.safetensors has the weights, OUT/log.jsonl the figures. Held out: ``top1``, the share of the target's
    tokens that the first guess is, ``accept_k``, that of the k-th given that all before it were right, and ``tau``:
    tokens for each pass of chains of ``config.depth``, played through the held-out answers round by round
    (simulated, no target runs; exact where these answers are greedy). Interrupted, the next call goes on to the
    numbers of an unbroken one.

    stop_after: end after so many steps, as if interrupted (for tests); then the result is None.
    Raises SettingError for settings that cannot work, and when OUT holds another training; Diverged.
    """
    out = Path(out)
    pupil = Pupil(lessons, train, held_out, config)
    apart = ("name", "settings", "device", "minutes", "start", "freeze_output", "followed")
    about = {
        "name": config.name, "target": target, "answers": lessons.digest, "train": len(pupil.train),
        "network": asdict(pupil.head.config), **{k: v for k, v in asdict(config).items() if k not in apart},
    }  # fmt: skip
    about = plain(about)
    if config.freeze_output:
        about["freeze_output"] = True
    if config.followed < 1:
        about["followed"] = config.followed
    if config.start != "random":  # what was begun before there was a choice is gone on with
        about["start"] = config.start if pupil.before is None else pupil.before[1]
    if (record := ended_before(out, KIND, about, resume=resume, products=(HEAD,), note=note)) is not None:
        return record
    rate = config.peak_lr if config.peak_lr is not None else 0.256 / lessons.width
    plan = FitConfig(
        steps=config.epochs * pupil.num_batches, minutes=config.minutes, epoch=pupil.num_batches, peak_lr=rate,
        weight_decay=0.01, clip=0.5, show=("tau", "tau"), dtype=config.dtype, seed=config.seed,
    )  # fmt: skip
    ended = fit(
        config.name, pupil.head, pupil.loss_of, plan, out, evaluate=pupil.figures, about=about, resume=resume,
        stop_after=stop_after, processes=config.processes, report=report, note=note,
    )  # fmt: skip
    if ended is None:
        return None
    seen, seconds = round(pupil.num_tokens * ended.step / pupil.num_batches), ended.seconds
    if pupil.before is not None:
        earlier = pupil.before[0]
        seen, seconds = seen + earlier.trained_tokens, seconds + earlier.seconds
        if earlier.fingerprint not in ("", fingerprint):
            note(f"{config.start} was trained for another target ({earlier.target}); now it is one for {target}")
    figures = ended.figures
    if figures is None:
        with torch.no_grad(), narrowed(config.device, config.dtype):
            figures = pupil.figures()
    card = HeadCard(
        method=config.name, target=target, fingerprint=fingerprint, trained_tokens=seen, seconds=seconds,
        corpus=lessons.digest[:16], accuracies=pupil.accuracies,
    )  # fmt: skip
    save_head(out / HEAD, pupil.head, card)
    body = {
        "name": config.name, "target": target, "corpus": corpus, "parameters": pupil.head.num_trained,
        "trained_parameters": pupil.num_learning,
        "steps": ended.step, "ended_by": ended.ended_by, "seconds": seconds, "trained_tokens": seen,
        "num_answers": len(pupil.train), "num_held_out": len(pupil.held_out), "held_out": figures,
        "accuracies": pupil.accuracies, "recipe": {
            "passes": config.recipe.passes, "decay": config.recipe.decay, "detach": config.recipe.detach,
            "noise": config.recipe.noise,
            "loss": None if config.recipe.loss is None else asdict(config.recipe.loss),
        },
        "config": plain(asdict(config) | {"peak_lr": rate}), "about": about,
        "provenance": provenance(),
    }  # fmt: skip
    write_record(out / RECORD, KIND, body)
    (out / STATE).unlink(missing_ok=True)
    return body


def plain(value: Any) -> Any:
    """Tuples as lists, as they come back from JSON."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def network_of(config: HeadTraining, target: DecoderConfig) -> Head:
    """The head that shall be trained, with weights as torch draws them.

    Raises SettingError for settings that fit no network, and for a start that does not fit this one, before any
    answer is read.
    """
    head: Head = config.recipe.network(target, **config.settings)
    if config.freeze_output and not output_matrices(head):
        raise SettingError(
            f"{config.name} heads as they are asked for read the target's output head, which is not trained; leave "
            "freeze_output out, or give them output rows of their own (own_head=true)"
        )
    if config.start == "target":
        if isinstance(head, MedusaHead):
            raise SettingError("Medusa heads start from the target's output head as they are; leave start out")
        head.check_start(target)
    elif config.start != "random":
        before = load_head(config.start)[0]
        if replace(before.config, draft_vocab=None) != replace(head.config, draft_vocab=None):
            raise SettingError(
                f"{config.start} holds a head of another shape; give the settings that it was trained with"
            )
    return head


class Pupil:
    """A head, the answers that it learns from, and those that it is judged by."""

    def __init__(
        self, lessons: Lessons, train: Sequence[int], held_out: Sequence[int], config: HeadTraining
    ) -> None:
        self.lessons, self.config, self.recipe = lessons, config, config.recipe
        self.before: tuple[HeadCard, str] | None = None
        """Card and digest of the head that the training goes on from."""
        lengths = lessons.lengths
        # an answer of one token has nothing behind its first root
        self.train = [i for i in train if lengths[i] - lessons.lessons[i].prompt > 1]
        usable = [i for i in held_out if lengths[i] - lessons.lessons[i].prompt > 1]
        self.held_out = sorted(usable, key=lambda i: lengths[i])
        if not self.train or not self.held_out:
            raise SettingError("a head needs answers of two tokens or more to learn from, and some to be judged by")
        self.num_batches = -(-len(self.train) // config.batch)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed_for(config.seed, "head"))
            self.head = network_of(config, lessons.decoder.config)
        if config.start in ("random", "target"):
            self._begin(config.start)
        else:
            self._go_on_from(config.start)
        if config.freeze_output:
            for matrix in output_matrices(self.head):
                matrix.requires_grad_(False)
        self.num_learning = sum(p.numel() for p in self.head.parameters() if p.requires_grad)
        self.head.to(config.device)
        # where each of the target's tokens is in the draft vocabulary; -1: nowhere
        self.t2d = torch.full((lessons.decoder.config.vocab_size,), -1, device=config.device)
        self.t2d[self.head.d2t] = torch.arange(len(self.head.d2t), device=config.device)
        self.rows = lessons.decoder.lm_head.weight.detach().to(config.device)[self.head.d2t]
        if lacking := [layer for layer in (*self.head.config.taps, LAST) if layer not in lessons.layers]:
            raise SettingError(f"head '{config.name}' reads layer {lacking[0]}, whose states are not there")
        self.num_tokens = sum(int(lengths[i]) - lessons.lessons[i].prompt for i in self.train)
        self.accuracies: list[list[float]] = []
        self._judged: tuple[Batch, tuple[list[Tensor], Tensor]] | None = None
        """While held-out figures are taken: a batch and its guesses, which its loss and its figures share."""

    def _begin(self, start: str) -> None:
        """Draft the most frequent tokens, with the target's rows for them; start: as in ``HeadTraining``."""
        head, decoder = self.head, self.lessons.decoder
        with_draft_vocab(head, self._common()[: len(head.d2t)].sort().values)
        if start == "target":
            assert isinstance(head, FeatureHead), "checked by network_of"
            head.start_from(decoder)
        rows = decoder.lm_head.weight.detach().cpu()[head.d2t].float()
        start_outputs(head, rows)

    def _go_on_from(self, path: str) -> None:
        """The weights and the draft vocabulary of a trained head, or of fewer tokens the most frequent ones of it;
        further tokens begin with the target's rows."""
        head, (before, card) = self.head, load_head(path)
        file = Path(path) / HEAD if Path(path).is_dir() else Path(path)
        self.before = card, hashlib.sha256(file.read_bytes()).hexdigest()
        common = self._common()
        drafted = torch.isin(common, before.d2t)
        chosen = torch.cat((common[drafted], common[~drafted]))[: len(head.d2t)]
        with_draft_vocab(head, chosen.sort().values)
        rows = self.lessons.decoder.lm_head.weight.detach().cpu()[head.d2t].float()
        outputs = {id(matrix) for matrix in output_matrices(before)}
        kept = {name: p for name, p in before.named_parameters() if id(p) not in outputs}
        head.load_state_dict(kept, strict=False)
        start_outputs(head, rows)
        known, still = torch.isin(head.d2t, before.d2t), torch.isin(before.d2t, head.d2t)
        with torch.no_grad():
            for matrix, trained in zip(output_matrices(head), output_matrices(before), strict=True):
                matrix[known] = trained[still]  # both in rising order of the target's ids

    def _common(self) -> Int[Tensor, "V"]:
        """The target's tokens, those that are most frequent in the answers first, of equal ones the lower id: a
        tokenizer's early merges are its frequent ones."""
        return self.lessons.counts(self.train).sort(descending=True, stable=True).indices

    def places_of(self, step: int, part: int, parts: int) -> Int[np.ndarray, "n"]:
        """Every so many answers of the step's batch."""
        return self.lessons.places_of(self.train, self.num_batches, self.config.seed, step, part, parts)

    def loss_of(self, step: int, part: int, parts: int) -> Tensor:
        """The loss of every so many answers of the step's batch."""
        return self.learn(self.lessons.batch(self.places_of(step, part, parts)))

    def learn(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        if isinstance(self.head, MedusaHead):
            return self._learn_tokens(self.head, batch)
        return self._learn_features(self.head, batch)

    # -- Medusa ----------------------------------------------------------------------------------------------------

    def _learn_tokens(self, head: MedusaHead, batch: Batch) -> Tensor:
        """Cross-entropy of the text's own tokens: head k at position t against token t + 2 + k."""
        states = batch.states[LAST].float()
        position = torch.arange(states.shape[1], device=states.device)
        total = states.new_zeros((), dtype=torch.float32)
        begun = position >= batch.prompt[:, None] - 1
        for k, logits in enumerate(head(states, self.rows)):
            ahead = position + 2 + k
            label = batch.tokens[:, ahead.clamp(max=len(position) - 1)]
            there = begun & (ahead < batch.length[:, None]) & (self.t2d[label] >= 0)
            if bool(there.any()):
                own = losses.token_ce(logits[there], self.t2d[label[there]])
                total = total + self.recipe.decay**k * own.mean()
        return total

    # -- feature heads ---------------------------------------------------------------------------------------------

    def _guess(
        self, head: FeatureHead, batch: Batch, passes: int, followed: Bool[Tensor, "B P"] | None = None
    ) -> tuple[list[Tensor], Int[Tensor, "T"]]:
        """Guessed features of every pass at the entries that chains come to, and the original number of each.

        followed: positions whose chains go on behind their first guess; None: all.
        """
        if self._judged is not None and self._judged[0] is batch:
            outs, source = self._judged[1]
            return outs[:passes], source
        states = torch.cat([batch.states[layer] for layer in head.config.taps], dim=-1)[:, :-1]
        if head.training and self.recipe.noise:
            noise = (torch.rand_like(states, dtype=torch.float32) - 0.5) * 2 * self.recipe.noise
            states = states + noise * (512 / states.shape[1])
        reading = head.read(batch.embeds[:, 1:].float(), states.float(), batch.is_visual[1:], batch.prompt)
        source = reading.source
        if followed is not None:
            followed = followed[:, source.clamp(min=0)]
        taught = _entries(batch, source, 0)
        outs = head.unroll(reading, passes, detach=self.recipe.detach, taught=taught, followed=followed)
        return outs, source

    def _learn_features(self, head: FeatureHead, batch: Batch) -> Tensor:
        config = self.recipe.loss
        assert config is not None
        followed = None
        if head.training and self.config.followed < 1:
            followed = torch.rand(batch.tokens.shape, device=batch.tokens.device) < self.config.followed
        outs, source = self._guess(head, batch, self.recipe.passes, followed)
        taught = _entries(batch, source, 0)
        if head.config.own_head:
            token = batch.tokens[:, 2:][:, source.clamp(0, batch.tokens.shape[1] - 3)]
            taught = taught & (self.t2d[token] >= 0)
        total = outs[0].new_zeros((), dtype=torch.float32)
        if not bool(taught.any()):
            return total
        wanted = batch.states[LAST][:, 1:][:, source.clamp(min=0)][taught]
        # what the target says at an entry is the same in every pass
        labels = None
        if config.needs_head:
            with torch.no_grad():
                labels = losses.soft_labels(config, F.linear(wanted.to(self.rows.dtype), self.rows))
        for j, out in enumerate(outs):
            come_to = _entries(batch, source, j)
            if followed is not None and j:
                come_to = come_to & followed[:, (source - j).clamp(min=0)]
            there = come_to[taught].nonzero()[:, 0]
            if not len(there):
                continue
            guessed, terms = out[taught][there], []
            if config.smooth_l1:
                near = losses.smooth_l1(guessed.float(), wanted[there].float())
                terms.append(config.smooth_l1 * near.mean())
            if labels is not None:
                terms.append(losses.soft_ce(head.unembed(guessed, self.rows), labels.at(there)).mean())
            total = total + self.recipe.decay**j * torch.stack(terms).sum()
        return total

    # -- held out --------------------------------------------------------------------------------------------------

    def figures(self, seen: Callable[[Batch], Batch] = lambda batch: batch) -> dict[str, float]:
        """Loss, top1, accept_k and simulated tau over the held-out answers; leaves ``accuracies`` behind.

        seen: what becomes of a batch before the head sees it.
        """
        depth = self.config.depth
        if isinstance(self.head, MedusaHead):
            depth = min(depth, self.head.config.heads)
        loss, emitted, rounds = 0.0, 0, 0
        tried, right, there_were = np.zeros(depth), np.zeros(depth), np.zeros(depth)
        ranks = np.zeros((depth, RANKS))
        # a gate chooses for each answer by itself when it drafts, and once for a whole batch
        gated = isinstance(self.head, FeatureHead) and self.head.visual is not None and self.head.visual.gate
        together = 1 if gated else self.config.batch
        for start in range(0, len(self.held_out), together):
            places = self.held_out[start : start + together]
            batch = seen(self.lessons.batch(places))
            if isinstance(self.head, FeatureHead):
                self._judged = batch, self._guess(self.head, batch, max(depth, self.recipe.passes))
            loss += float(self.learn(batch).detach()) * len(places)
            hits, found, there = self._hits(batch, depth)
            self._judged = None
            ranks += found
            there_were += there.sum((1, 2))
            for row in range(len(places)):
                runs = _runs(hits[:, row], there[:, row])
                for k in range(depth):
                    # the last k roots have no k + 1 tokens behind them
                    tried[k] += int((runs[: len(runs) - k] >= k).sum())
                    right[k] += int((runs > k).sum())
                pairs = play([0, *runs.tolist()], depth)
                emitted += sum(e for _, e in pairs)
                rounds += len(pairs)
        self.accuracies = (ranks / np.maximum(there_were, 1)[:, None]).round(5).tolist()
        out = {"loss": loss / len(self.held_out), "top1": float(right[0] / max(tried[0], 1))}
        out |= {f"accept_{k + 1}": float(right[k] / max(tried[k], 1)) for k in range(depth)}
        return out | {"tau": emitted / max(rounds, 1)}

    def _hits(self, batch: Batch, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(hits (depth, B, T): guess k of the chain that begins behind root position t is right; how many were
        right at each depth and rank; there (depth, B, T): there is such a token)."""
        steps = batch.tokens.shape[1]
        hits = np.zeros((depth, len(batch.tokens), steps), dtype=bool)
        there_all = np.zeros_like(hits)
        ranks = np.zeros((depth, RANKS))
        if isinstance(self.head, MedusaHead):
            guesses = [(k, g) for k, g in enumerate(self.head(batch.states[LAST].float(), self.rows)[:depth])]
            where = torch.arange(steps, device=batch.tokens.device)
        else:
            outs, where = self._guess(self.head, batch, depth)
            guesses = list(enumerate(outs))
        for k, guess in guesses:
            medusa = isinstance(self.head, MedusaHead)
            begun = where - (0 if medusa else k)  # entry at which the chain began
            ahead = where + 2 + (k if medusa else 0)  # position of the token that is guessed
            there = (begun >= batch.prompt[:, None] - 1) & (ahead < batch.length[:, None]) & (where >= 0)
            token = batch.tokens[:, ahead.clamp(max=steps - 1)]
            rows = there.nonzero()
            if not len(rows):
                continue
            logits = guess[there] if medusa else self.head.unembed(guess[there], self.rows)  # type: ignore[operator]
            best = self.head.d2t[logits.topk(min(RANKS, logits.shape[-1]), dim=-1).indices]
            same = best == token[there][:, None]
            ranks[k, : same.shape[1]] += same.float().sum(0).cpu().numpy()
            root = (begun.expand_as(there)[there] + 1).cpu().numpy()
            hits[k, rows[:, 0].cpu().numpy(), root] = same[:, 0].cpu().numpy()
            there_all[k, rows[:, 0].cpu().numpy(), root] = True
        return hits, ranks, there_all


def _entries(batch: Batch, source: Int[Tensor, "T"], j: int) -> Bool[Tensor, "B T"]:
    """Entries of pass j that belong to a chain behind the prompt and have a token to guess."""
    return (source >= batch.prompt[:, None] - 1 + j) & (source + 2 < batch.length[:, None])


def _runs(hits: Bool[np.ndarray, "depth T"], there: Bool[np.ndarray, "depth T"]) -> Int[np.ndarray, "roots"]:
    """Leading right guesses behind each root of an answer but the last, in order."""
    roots = np.flatnonzero(there[0])
    return np.logical_and.accumulate(hits[:, roots], axis=0).sum(0)
