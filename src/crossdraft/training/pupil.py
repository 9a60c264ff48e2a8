"""The event model while it is taught: what it makes of a batch of answers, its loss and how well it speaks."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossdraft.adapters.lora import L6
from crossdraft.nn.decoder import Decoder
from crossdraft.nn.losses import DISTILLATION, adapter_loss, kl, stored_ce, token_ce
from crossdraft.training.answers import Batch


@dataclass(frozen=True)
class Pupil:
    """A decoder that learns, or in which ``lora`` learns while it is frozen.

    head: the target's output head (V, Dt), for what needs it; kl_weight: of the target's distribution beside its
    tokens. through_head: what is taught and judged are the states, through ``lora.front`` and ``head`` (the
    study's L6), not the decoder's own tokens. narrow: passes run in bfloat16.
    """

    decoder: Decoder
    lora: L6 | None = None
    head: Float[Tensor, "V Dt"] | None = None
    kl_weight: float = 1.0
    through_head: bool = False
    narrow: bool = False

    @property
    def module(self) -> nn.Module:
        """What the optimiser sees."""
        return self.decoder if self.lora is None else self.lora

    def _arithmetic(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.narrow)

    def states(self, batch: Batch) -> Float[Tensor, "K D"]:
        """The states that predict the batch's tokens, after the final norm."""
        text = self.decoder.embed_tokens(batch.ids)
        seen = batch.seen.to(text.dtype)
        embeds = torch.cat((text[:, : batch.left], seen, text[:, batch.left :]), 1)
        states, _ = self.decoder(embeds, batch.mask, batch.positions)
        # index_select: the backward pass of indexing adds single numbers
        return states.flatten(0, 1).index_select(0, batch.flat)

    def logits(self, batch: Batch) -> Float[Tensor, "K V"]:
        """What the pupil would say at each token; float32 or wider."""
        with self._arithmetic():
            states = self.states(batch)
        return self._spoken(states.to(self.decoder.norm.weight.dtype))

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the tokens: cross-entropy with the target's and with its distribution, or the study's loss."""
        with self._arithmetic():
            states = self.states(batch)
            logits = None if self.through_head else self.decoder.unembed(states)
        if logits is not None:
            return self._token_loss(logits, batch)
        assert self.lora is not None and batch.target_states is not None
        adapted, target = self.lora.front(states.to(self._dtype)), batch.target_states.to(self._dtype)
        return adapter_loss(DISTILLATION, adapted[None], target[None], head=self.head)[0]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def _token_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        each = token_ce(logits[None], batch.tokens[None])
        if self.kl_weight and batch.top_ids is not None and batch.top_log_probs is not None:
            each = each + self.kl_weight * stored_ce(logits, batch.top_ids, batch.top_log_probs)
        elif self.kl_weight:
            assert self.head is not None and batch.target_states is not None
            wanted = F.linear(batch.target_states.to(self.head.dtype), self.head)
            shared = min(wanted.shape[-1], logits.shape[-1])
            each = each + self.kl_weight * kl(logits[:, :shared], wanted[:, :shared])
        return each.mean()

    def _spoken(self, states: Tensor) -> Tensor:
        if not self.through_head:
            return self.decoder.unembed(states)
        assert self.lora is not None and self.head is not None
        return F.linear(self.lora.front(states), self.head)


@dataclass(frozen=True)
class Marks:
    """How well a pupil says the target's words when led through them. loss: cross-entropy with the target's tokens,
    nats; top1: share of tokens that are its first choice; run: leading first choices of an answer, mean."""

    loss: float
    top1: float
    run: float


@torch.no_grad()
def marks(pupil: Pupil, batches: Iterable[Batch]) -> Marks:
    """Judge in eval mode, over all tokens and answers of ``batches``."""
    was_training = pupil.module.training
    pupil.module.eval()
    loss, right, runs = 0.0, [], []
    for batch in batches:
        logits = pupil.logits(batch)
        loss += float(F.cross_entropy(logits.float(), batch.tokens, reduction="sum"))
        hits = logits.argmax(-1) == batch.tokens
        right.append(hits)
        runs += [int(part.cumprod(0).sum()) for part in hits.split(list(batch.sizes))]
    pupil.module.train(was_training)
    count = sum(map(len, right))
    return Marks(loss / count, float(torch.cat(right).float().mean()), sum(runs) / len(runs))
