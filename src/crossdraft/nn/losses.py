"""What adapters and drafting heads learn from: losses at each position, and their weighted mean.

Every loss at a position is (B, K); padding and front-loaded weights come in one place, ``weighted_mean``. State t
is the one that predicts token t.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdraft.core.config import from_mapping
from crossdraft.core.errors import SettingError

Head = Callable[[Tensor], Tensor] | Tensor
"""The target's output head: states (..., D) -> logits (..., V), or its weight (V, D)."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The weight of each term; a term of weight 0 is not computed.

    mse, smooth_l1, cosine: adapted against target states at the same position. next_state: MSE of adapted state t
    against target state t + 1. token_ce, kl, top_k_ce: through the target's head, against its argmax, its whole
    distribution, and its ``top_k`` most likely tokens. position_decay: position t counts decay^t; 1 = all alike,
    less = the front counts more, as only what is right from the start is accepted.
    Raises SettingError when no term has a weight, or a value makes no sense.
    """

    mse: float = 0.0
    smooth_l1: float = 0.0
    cosine: float = 0.0
    next_state: float = 0.0
    token_ce: float = 0.0
    kl: float = 0.0
    top_k_ce: float = 0.0
    position_decay: float = 1.0
    top_k: int = 10

    def __post_init__(self) -> None:
        for name, weight in self.weights().items():
            if not (math.isfinite(weight) and weight >= 0):
                raise SettingError(f"loss: the weight of {name} is {weight}, must be 0 or more")
        if not any(self.weights().values()):
            raise SettingError(f"loss: every weight is 0; give one of {', '.join(self.weights())}")
        if not 0 < self.position_decay <= 1:
            raise SettingError(f"loss: position_decay is {self.position_decay}, must be above 0 and at most 1")
        if self.top_k < 1:
            raise SettingError(f"loss: top_k is {self.top_k}, must be 1 or more")

    def weights(self) -> dict[str, float]:
        """{term: weight}."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("position_decay", "top_k")}

    @property
    def needs_head(self) -> bool:
        """Whether a term goes through the target's head."""
        return any((self.token_ce, self.kl, self.top_k_ce))


ALIGNMENT = LossConfig(mse=1.0, cosine=0.5)
"""What the study trained L1-L4 with."""

PREDICTION = LossConfig(mse=0.5, cosine=0.25, next_state=0.5)
"""What the study trained L5, B1 and L5F with: half alignment, half the next state."""

DISTILLATION = LossConfig(mse=1.0, cosine=0.5, token_ce=0.1)
"""What the study trained L6 with."""

TOKENS = LossConfig(smooth_l1=1.0, kl=1.0, top_k_ce=1.0, position_decay=0.98)
"""For acceptance: states, and through the head the target's distribution and its best tokens, the front first."""


def named_loss(name: str, study: LossConfig) -> LossConfig:
    """The loss that a user names: "study" (``study``, the level's own), "tokens", or weights as "mse=1,kl=0.5".

    Raises SettingError for an unknown term and for a weight that is no number.
    """
    if name in ("study", "tokens"):
        return study if name == "study" else TOKENS
    weights: dict[str, float] = {}
    for part in name.split(","):
        term, _, weight = part.partition("=")
        try:
            weights[term.strip()] = float(weight)
        except ValueError:
            raise SettingError(
                f"loss is '{name}', must be study, tokens, or weights of its terms, as smooth_l1=1,kl=0.5"
            ) from None
    return from_mapping(LossConfig, weights, "loss")


def mse(adapted: Float[Tensor, "B K D"], target: Float[Tensor, "B K D"]) -> Float[Tensor, "B K"]:
    """Mean squared difference of the components."""
    return (adapted - target).square().mean(-1)


def smooth_l1(adapted: Float[Tensor, "B K D"], target: Float[Tensor, "B K D"]) -> Float[Tensor, "B K"]:
    """Mean over the components of d^2 / 2 where |d| < 1, else |d| - 1/2. EAGLE's (arXiv 2401.15077)."""
    return F.smooth_l1_loss(adapted, target, reduction="none").mean(-1)


def cosine(adapted: Float[Tensor, "B K D"], target: Float[Tensor, "B K D"]) -> Float[Tensor, "B K"]:
    """One minus the cosine of the angle between the two."""
    return 1 - F.cosine_similarity(adapted, target, dim=-1)


def token_ce(logits: Float[Tensor, "B K V"], tokens: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """``-log q(token)``, float32."""
    return _token_ce(_logs(logits), tokens)


def kl(logits: Float[Tensor, "B K V"], target_logits: Float[Tensor, "B K V"]) -> Float[Tensor, "B K"]:
    """KL(p || q) of the target's distribution p and the adapted state's q, float32.

    Its gradient is that of EAGLE's soft cross-entropy.
    """
    return _kl(_logs(logits), _logs(target_logits))


def top_k_ce(logits: Float[Tensor, "B K V"], target_logits: Float[Tensor, "B K V"], k: int) -> Float[Tensor, "B K"]:
    """``-sum of p(x) log q(x)`` over the target's k most likely tokens, float32.

    Source: Zhang et al., "HASS", arXiv 2408.15766; p is not normalised anew over the k tokens.
    """
    return _top_k_ce(_logs(logits), _logs(target_logits), k)


@dataclass(frozen=True)
class SoftLabels:
    """What the target says at R positions, for losses through the head that are taken several times.

    wanted: the weighted distributions of K positions, all terms added up; rows: which of them are meant; None: all.
    weight: sums of what is wanted at those; entropy: what makes of the cross-entropy the weighted terms. float32.
    """

    wanted: Float[Tensor, "K V"]
    weight: Float[Tensor, "R"]
    entropy: Float[Tensor, "R"]
    rows: Int[Tensor, "R"] | None = None

    def at(self, rows: Int[Tensor, "r"]) -> "SoftLabels":
        """Those of some positions; what is wanted is not copied here."""
        within = rows if self.rows is None else self.rows[rows]
        return SoftLabels(self.wanted, self.weight[rows], self.entropy[rows], within)


def soft_labels(config: LossConfig, target_logits: Float[Tensor, "K V"]) -> SoftLabels:
    """The terms ``kl`` and ``top_k_ce`` of ``config`` as one soft label a position."""
    with torch.no_grad(), torch.autocast(target_logits.device.type, enabled=False):
        wanted = target_logits.new_empty(target_logits.shape, dtype=torch.float32)
        weight = wanted.new_empty(len(wanted))
        entropy = torch.zeros_like(weight)
        for part in _parts(wanted):
            logs = target_logits[part].float().log_softmax(-1)
            p = logs.exp()
            if config.kl:
                entropy[part] = config.kl * (p * logs).sum(-1)
            label = config.kl * p
            if config.top_k_ce:
                best = p.topk(min(config.top_k, p.shape[-1]), dim=-1)
                label.scatter_add_(-1, best.indices, config.top_k_ce * best.values)
            wanted[part], weight[part] = label, label.sum(-1)
    return SoftLabels(wanted, weight, entropy)


def soft_ce(logits: Float[Tensor, "K V"], labels: SoftLabels) -> Float[Tensor, "K"]:
    """``weight * log sum exp(logits) - wanted . logits + entropy``, float32: the weighted sum of the terms that
    made the labels. Its gradient is computed with it, on a CPU a few positions at a time, so that a vocabulary's
    worth of numbers for each position passes through memory once and not a dozen times."""
    values: Tensor = _SoftCE.apply(logits, labels.wanted, labels.weight, labels.rows)
    return values + labels.entropy


class _SoftCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, wanted: Tensor, weight: Tensor, rows: Tensor | None) -> Tensor:
        learns = ctx.needs_input_grad[0]
        slope = torch.empty_like(logits) if learns else None
        values = torch.empty_like(weight)
        for part in _parts(logits):
            own = logits[part].float()
            label = wanted[part] if rows is None else wanted[rows[part]]
            lse = own.logsumexp(-1)
            # a product and a sum: autocast would take a dot product in bfloat16
            values[part] = weight[part] * lse - (label * own).sum(-1)
            if slope is not None:
                own = own - lse[:, None]  # the logits may be float32 themselves: nothing is written into them
                slope[part] = own.exp_().mul_(weight[part][:, None]).sub_(label)
        if slope is not None:
            ctx.save_for_backward(slope)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None].to(slope.dtype), None, None, None


_CACHED = 1 << 19
"""Numbers of a part: what a core's own cache holds in float32."""


def _parts(rows: Float[Tensor, "K V"]) -> list[slice]:
    """Positions that are worked on together: on a GPU all of them."""
    many = max(1, _CACHED // rows.shape[-1]) if rows.device.type == "cpu" else max(1, len(rows))
    return [slice(at, at + many) for at in range(0, len(rows), many)]


def stored_ce(
    logits: Float[Tensor, "K V"], top_ids: Int[Tensor, "K top"], top_log_probs: Float[Tensor, "K top"]
) -> Float[Tensor, "K"]:
    """``top_k_ce`` against a distribution of which only the most likely tokens were kept, float32."""
    said = logits.float().log_softmax(-1).gather(-1, top_ids.long())
    return -(top_log_probs.float().exp() * said).sum(-1)


def position_weights(num_positions: int, decay: float, device: torch.device | str = "cpu") -> Float[Tensor, "K"]:
    """``decay^t`` for t = 0.. float32."""
    return decay ** torch.arange(num_positions, dtype=torch.float32, device=device)


def weighted_mean(
    values: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None, weights: Float[Tensor, "K"]
) -> Float[Tensor, ""]:
    """Mean over the positions where ``mask`` is True, each counting ``weights``; 0 where there are none."""
    counts = weights.expand(values.shape)
    if mask is not None:
        counts = torch.where(mask, counts, 0.0)
        values = torch.where(mask, values, 0.0)
    total = counts.sum()
    return (values * counts).sum() / torch.where(total > 0, total, 1.0)


def adapter_loss(
    config: LossConfig,
    adapted: Float[Tensor, "B K D"],
    target: Float[Tensor, "B K D"],
    *,
    mask: Bool[Tensor, "B K"] | None = None,
    head: Head | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The weighted sum of the terms, and each term by itself {name: value before its weight, detached}.

    mask: False where a position is padding. head: the target's; what it makes of the target's states is the label.
    Raises SettingError when a term needs a head and none is given.
    """
    if config.needs_head and head is None:
        raise SettingError(
            "loss: token_ce, kl and top_k_ce go through the target's head; give one, or weight them 0"
        )
    weights = position_weights(adapted.shape[1], config.position_decay, adapted.device)
    terms: dict[str, Tensor] = {}
    for name, loss in (("mse", mse), ("smooth_l1", smooth_l1), ("cosine", cosine)):
        if getattr(config, name):
            terms[name] = weighted_mean(loss(adapted, target), mask, weights)
    if config.next_state:
        # the pair counts as the position that is predicted
        both = None if mask is None else mask[:, :-1] & mask[:, 1:]
        terms["next_state"] = weighted_mean(mse(adapted[:, :-1], target[:, 1:]), both, weights[1:])
    if config.needs_head and head is not None:
        for name, values in _through_head(config, adapted, target, head).items():
            terms[name] = weighted_mean(values, mask, weights)
    total = torch.stack([value * getattr(config, name) for name, value in terms.items()]).sum()
    return total, {name: value.detach() for name, value in terms.items()}


def _through_head(config: LossConfig, adapted: Tensor, target: Tensor, head: Head) -> dict[str, Tensor]:
    """{term: (B, K)} of the terms that compare tokens."""
    apply = (lambda states: F.linear(states, head)) if isinstance(head, Tensor) else head
    # once for all terms: over a vocabulary this is most of the work
    q = _logs(apply(adapted))
    with torch.no_grad():
        p = _logs(apply(target))
    values: dict[str, Tensor] = {}
    if config.token_ce:
        values["token_ce"] = _token_ce(q, p.argmax(-1))
    if config.kl:
        values["kl"] = _kl(q, p)
    if config.top_k_ce:
        values["top_k_ce"] = _top_k_ce(q, p, config.top_k)
    return values


def _logs(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)


def _token_ce(q: Tensor, tokens: Tensor) -> Tensor:
    return -q.gather(-1, tokens[..., None])[..., 0]


def _kl(q: Tensor, p: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def _top_k_ce(q: Tensor, p: Tensor, k: int) -> Tensor:
    best = p.topk(min(k, p.shape[-1]), dim=-1)
    return -(best.values.exp() * q.gather(-1, best.indices)).sum(-1)
