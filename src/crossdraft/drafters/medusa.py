"""Medusa: every round's guesses come free from the state of the last verified token, and fill a fixed tree."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, Window
from crossdraft.core.tree import StaticTree, depths, static_tree
from crossdraft.core.types import LAST, Draft, Step
from crossdraft.drafters.length import MAX_LENGTH, LengthChooser
from crossdraft.drafters.shapes import plan_of
from crossdraft.heads.medusa import MedusaHead
from crossdraft.nn.linear import PackedLinear, can_prepack


class MedusaRunner:
    """Frozen Medusa heads, packed: all first maps are one linear, a shared output head is applied to all at once.

    rows: the target's output head at ``head.d2t``, where the heads share it. Rounded to bytes as
    ``heads.runner.HeadRunner`` is. SettingError when the rows are missing.
    """

    def __init__(
        self,
        head: MedusaHead,
        rows: Float[Tensor, "draft D"] | None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.dtype, self.device = head.config, dtype, torch.device(device)
        self.num_trained, self.d2t = head.num_trained, head.d2t.to(self.device)
        prepack = can_prepack(dtype, self.device)

        def packed(weight: Tensor, bias: Tensor | None = None) -> PackedLinear:
            moved = None if bias is None else bias.detach().to(self.device, dtype, copy=True)
            return PackedLinear(weight.detach().to(self.device, dtype, copy=True), moved, prepack, rough=True)

        with torch.no_grad():
            states = head.state_dict()
            count = head.config.heads
            self._mix = packed(
                torch.cat([states[f"blocks.{k}.weight"] for k in range(count)]),
                torch.cat([states[f"blocks.{k}.bias"] for k in range(count)]),
            )
            if head.lm_heads is not None:
                self._heads = [packed(states[f"lm_heads.{k}.weight"]) for k in range(count)]
            elif rows is None or tuple(rows.shape) != (len(head.d2t), head.config.hidden_size):
                raise SettingError(
                    "these Medusa heads share the target's output head, which was not given or differs"
                )
            else:
                self._heads = [packed(rows)]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the trained weights at inference."""
        return self.num_trained * self._mix.weight.element_size()

    def logits(self, state: Float[Tensor, "1 D"]) -> Float[Tensor, "heads draft"]:
        """What every head makes of one state, float32."""
        state = state.to(self.device, self.dtype)
        mixed = self._mix(state).view(self.config.heads, -1)
        mixed = torch.nn.functional.silu(mixed) + state
        if len(self._heads) == 1:
            return self._heads[0](mixed).float()
        return torch.cat([own(row[None]) for own, row in zip(self._heads, mixed, strict=True)]).float()


@dataclass(frozen=True, kw_only=True)
class Medusa:
    """Medusa-1 heads with a tree built from how often their guesses are right; verified like any other draft.

    head: packed heads. costs: measured cost of a target pass by its rows. tree: what is filled every round;
    ``core.tree.static_tree`` builds it from measured accuracies, ``paying_tree`` as large as pays.
    Source: Cai et al., arXiv 2401.10774, section 2.1.
    """

    head: MedusaRunner
    costs: CostCurve
    tree: StaticTree
    name: ClassVar[str] = "medusa"
    needs: ClassVar[Needs] = Needs(capture=(LAST,), trees=True)

    def __post_init__(self) -> None:
        if self.tree.depth > self.head.config.heads:
            raise SettingError(
                f"the tree is {self.tree.depth} levels deep, but there are {self.head.config.heads} Medusa heads"
            )

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "MedusaSession":
        """Nothing to prepare."""
        return MedusaSession(self)


class MedusaSession:
    """The state of the last verified token."""

    def __init__(self, settings: Medusa) -> None:
        self._settings = settings
        self._state: Tensor | None = None

    def observe(self, step: Step) -> None:
        """Keep the state that predicted the newest token."""
        self._state = step.states[LAST][-1:]

    def propose(self, room: int) -> Draft:
        """Every head's best guesses, hung under each other as the tree says."""
        assert self._state is not None
        settings = self._settings
        plan = plan_of(settings.tree, room)
        logits = settings.head.logits(self._state)
        best = settings.head.d2t[logits.topk(plan.most, dim=-1).indices]
        tokens = torch.cat([best[level.depth - 1][level.ranks] for level in plan.levels])
        return Draft(tokens.cpu(), plan.parents, source=settings.name)

    def finish(self) -> None:
        """Nothing outlives the request."""


def paying_tree(accuracies: Float[Tensor, "heads ranks"], costs: CostCurve, most: int = MAX_LENGTH) -> StaticTree:
    """The static tree with the most expected tokens per millisecond, of at most ``most`` nodes."""
    pass_ms = LengthChooser(costs, most, trees=True).pass_ms
    best, best_rate = static_tree(accuracies, 1), 0.0
    for count in range(1, most + 1):
        grown = static_tree(accuracies, count)
        rate = (1.0 + expected(grown, accuracies)) / pass_ms[len(grown)]
        if rate > best_rate:
            best, best_rate = grown, rate
    return best


def expected(tree: StaticTree, accuracies: Float[Tensor, "heads ranks"]) -> float:
    """Expected accepted tokens of a static tree, heads taken as independent."""
    worth: list[float] = []
    deep = depths(tree.parents).tolist()
    for parent, rank, depth in zip(tree.parents, tree.ranks, deep, strict=True):
        worth.append(float(accuracies[depth - 1, rank]) * (1.0 if parent < 0 else worth[parent]))
    return sum(worth)
