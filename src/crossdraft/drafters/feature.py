"""Drafting with a feature head: the session that EAGLE and its kin share, and the trees that they grow.

After every round the head digests the verified tokens together with the target's own features, so that nothing of
its guesses stays; from there it guesses on. Children are the most probable tokens (point masses), whatever the
temperature, or are drawn from the head's own distribution without replacement for a rule that wants that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, Window
from crossdraft.core.tree import EAGLE_1, StaticTree, best_of, select, spelling, subtree
from crossdraft.core.types import Draft, PromptView, Sampling, Step
from crossdraft.drafters.confidence import Confidence
from crossdraft.drafters.length import LengthChooser
from crossdraft.drafters.shapes import MAX_NODES, Shape, chain_of, check_size, plan_of
from crossdraft.heads.growth import Growth
from crossdraft.heads.runner import HeadRunner, HeadState
from crossdraft.verify.sampling import position_keys, process_logits, uniforms

Array = np.ndarray

_USUAL = 16
"""Nodes over which the cost of another row of a pass is averaged."""
_ONE = np.ones(1)


@dataclass(frozen=True, kw_only=True)
class FeatureDrafter:
    """Settings that all feature drafters share; subclasses are names and defaults.

    head: the packed head. costs: measured cost of a target pass by its rows.
    shape: "dynamic" (EAGLE-2): ``branch`` children of each of the ``branch`` best nodes of every level (with
        ``nodes``: of those whose children can still be kept; without: of those that pay), of all of which the best
        ``nodes`` are kept; "static" (EAGLE-1): ``static``; "chain": one child each.
    depth: levels, at most. nodes: at most; None: of a dynamic tree as many as pay by the measured costs and by how
    far the head could be believed so far, up to MAX_NODES, and none where none pay; of a static one or a chain all.
    level_ms: measured time of a level that expands one node, and of each further node expanded in it; None: a tenth
        of a target step for a level is assumed.
    sampling: draw the children from the head instead of taking the best (chains and static trees): for Leviathan's
        rule, which must be given drafts that were drawn.
    Raises SettingError for values that make no sense.
    """

    head: HeadRunner
    costs: CostCurve
    shape: Shape = "dynamic"
    depth: int = 6
    branch: int = 8
    nodes: int | None = None
    static: StaticTree = EAGLE_1
    sampling: Sampling | None = None
    level_ms: tuple[float, float] | None = None
    name: ClassVar[str] = "feature"
    needs: Needs = field(init=False, repr=False, default=Needs(trees=True))
    fixed: StaticTree = field(init=False, repr=False, compare=False)
    pass_ms: Float[Array, "widths"] = field(init=False, repr=False, compare=False)
    row_ms: float = field(init=False, repr=False, compare=False)
    level_costs_ms: tuple[float, float] = field(init=False, repr=False, compare=False)
    confidence: Confidence = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.shape not in ("dynamic", "static", "chain"):
            raise SettingError(f"shape is '{self.shape}', must be dynamic, static or chain")
        check_size(self.nodes, self.depth)
        if not 1 <= self.branch <= 64:
            raise SettingError(f"branch is {self.branch}, must be from 1 to 64")
        if self.level_ms is not None and not _are_times(self.level_ms):
            raise SettingError(f"level_ms is {self.level_ms}, must be two times in milliseconds")
        if self.sampling is not None and self.shape == "dynamic":
            raise SettingError(
                "a dynamic tree is pruned by its nodes' values, so they must not be drawn; choose static or chain"
            )
        if self.sampling is not None and self.sampling.temperature == 0:
            raise SettingError("temperature 0 draws nothing; leave sampling out")
        is_chain = self.shape == "chain"
        needs = Needs(capture=self.head.config.taps, trees=not is_chain)
        object.__setattr__(self, "needs", needs)
        object.__setattr__(self, "fixed", self._cut(chain_of(self.depth) if is_chain else self.static))
        pass_ms = LengthChooser(self.costs, MAX_NODES, trees=not is_chain).pass_ms
        object.__setattr__(self, "pass_ms", np.array(pass_ms))
        object.__setattr__(self, "row_ms", (pass_ms[_USUAL] - pass_ms[0]) / _USUAL)
        object.__setattr__(self, "level_costs_ms", self.level_ms or (0.1 * pass_ms[0], 0.0))
        object.__setattr__(self, "confidence", Confidence(pass_ms[0], self.depth))

    def _cut(self, fixed: StaticTree) -> StaticTree:
        """Its first ``nodes`` nodes: they come level by level, so that these are a tree."""
        return fixed if self.nodes is None else StaticTree(fixed.parents[: self.nodes], fixed.ranks[: self.nodes])

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "FeatureSession":
        """Nothing to do before the target has read the prompt."""
        return FeatureSession(self, target)


@dataclass(frozen=True)
class _Promise:
    """A dynamic tree that was sent, what its head promised of it by depth, what its round takes, and the chances of
    the nodes that were expanded and of the best child of each, summed."""

    tokens: Int[Array, "N"]
    parents: Int[Array, "N"]
    by_depth: list[float]
    ms: float
    expanded: tuple[float, float]

    def kept(self, said: tuple[int, ...]) -> int:
        """How deep what was said runs in it, whoever else had drafted the same."""
        return len(spelling(self.tokens, self.parents, said))


class FeatureSession:
    """One request: the head's cache, what it has not digested yet, how many tokens were said, and whether what the
    head promises is kept."""

    def __init__(self, settings: FeatureDrafter, target: VLM) -> None:
        self._settings, self._target = settings, target
        self._view: PromptView | None = None
        self._state: HeadState | None = None
        self._tokens: list[int] = []
        self._features: list[Tensor] = []
        self._said = 0
        self._confidence = settings.confidence.request()
        self._promise: _Promise | None = None
        self._tree: Growth | None = None

    def see_prompt(self, view: PromptView) -> None:
        """Keep the prompt until the first draft is wanted."""
        self._view = view

    def observe(self, step: Step) -> None:
        """Keep what was said, with the features that predicted it, until the next draft is wanted."""
        self._said += len(step.tokens)
        if (promise := self._promise) is not None:
            kept, self._promise = promise.kept(step.tokens), None
            cut = kept == len(step.tokens)
            self._settings.confidence.learn(promise.by_depth, kept, cut, promise.ms, promise.expanded)
        if self._confidence.is_silent:
            return
        self._tokens += step.tokens
        if not step.is_prompt:
            taps = self._settings.head.config.taps
            self._features.append(torch.cat([step.states[layer] for layer in taps], dim=-1))

    def propose(self, room: int) -> Draft:
        """Digest what was said since the last draft, and guess on."""
        settings = self._settings
        if settings.shape == "dynamic" and settings.nodes is None and not self._confidence.ask():
            self._tokens, self._features, self._state, self._view = [], [], None, None
            return Draft.chain([], source=settings.name)
        guess = self._digest(room)
        if settings.shape == "dynamic":
            return self._dynamic(guess, min(settings.depth, room))
        return self._static(guess, room)

    def finish(self) -> None:
        """Nothing outlives the request."""

    def _digest(self, room: int) -> Tensor:
        """The guess behind everything that was said."""
        head = self._settings.head
        if self._state is None:
            assert self._view is not None, "see_prompt comes first"
            first, self._tokens = self._tokens[:1], self._tokens[1:]
            beyond = room + 2 + self._settings.depth * self._settings.branch + len(self._settings.fixed)
            self._state, guess = head.begin(self._view, self._embed(torch.tensor(first)), beyond)
            self._view = None
        if self._tokens:
            embeds = self._embed(torch.tensor(self._tokens))
            guess = head.extend(self._state, torch.cat(self._features), embeds)
            self._tokens, self._features = [], []
        return guess

    def _embed(self, tokens: Int[Tensor, "K"]) -> Float[Tensor, "K D"]:
        return self._target.embed(tokens)

    # -- dynamic trees ---------------------------------------------------------------------------------------------

    def _dynamic(self, guess: Float[Tensor, "1 D"], depth: int) -> Draft:
        """Expand the best nodes of each level, keep the best of all. Source: arXiv 2406.16858, section 4."""
        settings, head = self._settings, self._settings.head
        assert self._state is not None
        k = min(settings.branch, len(head.words))
        if self._tree is None:
            self._tree = Growth(head.words, k, settings.depth)
        tree = self._tree
        tree.begin()
        tree.grow(head.scores(guess))
        guesses, factors = guess, settings.confidence.factors()
        spent_ms = settings.level_costs_ms[0]  # digesting what was said
        for level in range(1, depth):
            if settings.nodes is None:
                count = self._worth_expanding(tree.worth, factors[level])
            else:
                count = _can_matter(tree.worth, tree.values, settings.nodes)
            if not count:
                break
            spent_ms += settings.level_costs_ms[0] + (count - 1) * settings.level_costs_ms[1]
            front = tree.front(count)
            embeds = self._embed(front.words)
            guesses = head.step(self._state, guesses, front.rows, embeds, tree.used, front.paths)
            tree.grow(head.scores(guesses))
        values, parents = tree.values, tree.parents
        if settings.nodes is not None:
            kept, within = select(values, parents, settings.nodes)
            return self._drafted(tree.words[kept], within)
        depths = np.arange(len(tree.sizes)).repeat(tree.sizes)
        chances = np.exp(values.astype(np.float64))
        best = best_of(values, MAX_NODES)
        count, ms = self._count(chances[best] * factors[depths[best]], spent_ms)
        kept, within = subtree(parents, best[:count])
        draft = self._drafted(tree.words[kept], within)
        promised = np.bincount(depths[kept], chances[kept], len(tree.sizes)).tolist()
        # the children of what was expanded stand behind the root's, the best of each k first
        reached, best_child = float(chances[tree.expanded].sum()), float(chances[k::k].sum())
        self._promise = _Promise(draft.tokens.numpy(), within, promised, ms, (reached, best_child))
        return draft

    def _drafted(self, words: Int[Array, "N"], parents: Int[Array, "N"]) -> Draft:
        return Draft(torch.from_numpy(words), torch.from_numpy(parents), source=self._settings.name)

    def _worth_expanding(self, worth: Sequence[float], factor: float) -> int:
        """How many of the frontier's best nodes to expand; 0: another level costs more than it can bring.

        A node brings what its best child can be expected to be right, less what the child's row costs a pass and
        its own row costs the level; all of them together must bring more than passes without a draft would in the
        rest of the level's time. (Drafting gives more than these, but a level also opens the way to the next one.)
        factor: how far chances at the children's depth can be believed. Looks at distributions and at what became
        of earlier drafts, never at the noise that will judge this one. (Of other requests too: give them other
        seeds where a rule draws numbers of its own.)
        """
        settings = self._settings
        plain_ms, (level_ms, further_ms) = settings.pass_ms[0], settings.level_costs_ms
        brings, takes = factor * settings.confidence.best_child, (settings.row_ms + further_ms) / plain_ms
        count, total = 0, 0.0
        for value in worth:  # falling
            chance = math.exp(value)
            gain = chance * brings - takes
            if gain <= 0:
                break
            count, total = count + 1, total + gain
        return count if total > (level_ms - further_ms) / plain_ms else 0

    def _count(self, chances: Float[Array, "M"], spent_ms: float) -> tuple[int, float]:
        """How many of the best nodes give the most expected tokens per millisecond, what drafting and digesting
        took included, and how long such a round takes. chances: of being accepted, the best node's first."""
        emitted = np.concatenate((_ONE, chances)).cumsum()
        costs = self._settings.pass_ms[: len(emitted)] + spent_ms
        count = int((emitted / costs).argmax())
        return count, float(costs[count])

    # -- static trees and chains -----------------------------------------------------------------------------------

    def _static(self, guess: Float[Tensor, "1 D"], room: int) -> Draft:
        """Fill a tree of fixed form level by level; nodes deeper than ``room`` are left out."""
        settings, head = self._settings, self._settings.head
        assert self._state is not None
        plan = plan_of(settings.fixed, min(room, settings.depth))
        tokens = torch.zeros(len(plan.parents), dtype=torch.long, device=head.device)
        probs = None
        if settings.sampling is not None:
            probs = torch.zeros(len(plan.parents), self._target.vocab_size, dtype=torch.float64, device=head.device)
        guesses, used = guess, 0
        for level in plan.levels:
            logits = head.logits(guesses)
            if probs is None:
                word = logits.topk(level.most, dim=-1).indices[level.rows, level.ranks]
            else:
                word = self._drawn(logits, level.nodes, level.rows, level.ranks, probs)
            tokens[level.nodes] = head.tokens(word)
            if not len(level.inner):
                break
            below = level.inner
            embeds = self._embed(tokens[level.nodes[below]])
            guesses = head.step(self._state, guesses, level.rows[below], embeds, used, level.paths)
            used += len(below)
        return Draft(tokens.cpu(), plan.parents, None if probs is None else probs.cpu(), settings.name)

    def _drawn(
        self, logits: Float[Tensor, "R V"], nodes: Tensor, rows: Tensor, ranks: Tensor, probs: Float[Tensor, "N V"]
    ) -> Int[Tensor, "n"]:
        """Children drawn without replacement, by Gumbel's order; ``probs`` gets the law of each given its elders.

        Source: the recursion of methods for siblings drawn without replacement, EAGLE's code; Kool et al., arXiv
        1903.06059 (Gumbel top-k).
        """
        settings, head = self._settings, self._settings.head
        assert settings.sampling is not None
        q = process_logits(logits, settings.sampling).softmax(-1)
        # one key for each expanded node: position of the answer, and a place in the tree that no other has
        places = self._said * 4096 + int(nodes[0]) + torch.arange(len(logits))
        keys = position_keys(settings.sampling.seed, "draft", places)
        noise = uniforms(keys.to(q.device), q.shape[-1])
        order = (q.log() - noise.log().neg().log()).argsort(dim=-1, descending=True, stable=True)
        word = order[rows, ranks]
        for node, row, rank in zip(nodes.tolist(), rows.tolist(), ranks.tolist(), strict=True):
            law = q[row].clone()
            law[order[row, :rank]] = 0
            if not law.sum() > 0:  # its elders were all that can be drawn: what is left is one choice, and sure
                law[order[row, rank]] = 1
            probs[node, head.d2t] = law / law.sum()
        return word


def _are_times(pair: object) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(0 <= ms < math.inf for ms in pair)


def _can_matter(worth: Sequence[float], known: Float[Array, "N"], nodes: int) -> int:
    """How many of the frontier's best nodes may have children among the ``nodes`` best of all: no child is worth
    more than its parent, and of equal ones the earlier is kept. The tree is the same as if all were expanded."""
    if len(known) < nodes:
        return len(worth)
    least = float(np.partition(known, -nodes)[-nodes])
    return sum(value > least for value in worth)
