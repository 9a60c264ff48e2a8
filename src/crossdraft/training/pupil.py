"""The event model while it is taught: what it makes of a batch of answers, its loss and how well it speaks."""

from collections.abc import Iterable
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
    study's L6), not the decoder's own tokens.
    """

    decoder: Decoder
    lora: L6 | None = None
    head: Float[Tensor, "V Dt"] | None = None
    kl_weight: float = 1.0
    through_head: bool = False

    @property
    def module(self) -> nn.Module:
        """What learns."""
        return self.decoder if self.lora is None else self.lora

    def states(self, batch: Batch) -> Float[Tensor, "K D"]:
        """The states that predict the batch's tokens, after the final norm."""
        text = self.decoder.embed_tokens(batch.ids)
        seen = batch.seen.to(text.dtype)
        embeds = torch.cat((text[:, : batch.left], seen, text[:, batch.left :]), 1)
        states, _ = self.decoder(embeds, batch.mask, batch.positions)
        # index_select: the backward pass of indexing adds single numbers
        return states.flatten(0, 1).index_select(0, batch.flat)

    def logits(self, batch: Batch) -> Float[Tensor, "K V"]:
        """What the pupil would say at each token."""
        states = self.states(batch)
        if not self.through_head:
            return self.decoder.unembed(states)
        assert self.lora is not None and self.head is not None
        return F.linear(self.lora.front(states), self.head)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the tokens: cross-entropy with the target's and with its distribution, or the study's loss."""
        if self.through_head:
            assert self.lora is not None and batch.target_states is not None
            adapted = self.lora.front(self.states(batch)).float()
            return adapter_loss(DISTILLATION, adapted[None], batch.target_states.float()[None], head=self.head)[0]
        logits = self.logits(batch)
        each = token_ce(logits[None], batch.tokens[None])
        if self.kl_weight:
            each = each + self.kl_weight * self._distribution(logits, batch)
        return each.mean()

    def _distribution(self, logits: Tensor, batch: Batch) -> Tensor:
        """(K,) how far the pupil's distribution is from the target's, but for a constant."""
        if batch.top_ids is not None and batch.top_log_probs is not None:
            return stored_ce(logits, batch.top_ids, batch.top_log_probs)
        assert self.head is not None and batch.target_states is not None
        wanted = F.linear(batch.target_states.to(self.head.dtype), self.head)
        # added tokens that only one of the two knows
        shared = min(wanted.shape[-1], logits.shape[-1])
        return kl(logits[:, :shared], wanted[:, :shared])


@dataclass(frozen=True)
class Marks:
    """How well a pupil says the target's words when led through them. loss: cross-entropy with the target's tokens,
    nats; top1: share of tokens that are its first choice; run: leading first choices of an answer, mean."""

    loss: float
    top1: float
    run: float


@torch.no_grad()
def marks(pupil: Pupil, batches: Iterable[Batch]) -> Marks:
    """Judge in eval mode, over all tokens and answers of ``batches``, in the weights' own precision."""
    was_training = pupil.module.training
    pupil.module.eval()
    loss, right, runs = 0.0, [], []
    for batch in batches:
        with torch.autocast(batch.ids.device.type, enabled=False):
            logits = pupil.logits(batch)
        loss += float(F.cross_entropy(logits.float(), batch.tokens, reduction="sum"))
        hits = logits.argmax(-1) == batch.tokens
        right.append(hits)
        runs += [int(part.cumprod(0).sum()) for part in hits.split(list(batch.sizes))]
    pupil.module.train(was_training)
    count = sum(map(len, right))
    return Marks(loss / count, float(torch.cat(right).float().mean()), sum(runs) / len(runs))
