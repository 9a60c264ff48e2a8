"""A feature head at inference: packed like the target's layers, with a cache of its own."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.core.errors import SettingError
from crossdraft.core.types import PromptView
from crossdraft.heads.feature import FeatureHead
from crossdraft.nn import kernels
from crossdraft.nn.attention import Attend, attend_chain, attend_masked
from crossdraft.nn.layer import PackedLayer, attention_dtype, rotations
from crossdraft.nn.linear import PackedLinear, can_prepack
from crossdraft.nn.norm import RowNorm
from crossdraft.nn.pins import Pins

# drafts need no bits of their own: no row is padded
_PINS = Pins(query_rows=1)
# nodes of a draft lie behind the last position that the target can have
_BEYOND = 64


class HeadRunner:
    """A frozen feature head. It holds nothing about a request; ``HeadState`` does.

    rows: the target's output head at ``head.d2t`` (draft, D), for a head without its own. dtype: as the target's.
    In bfloat16 its matrices and what they multiply are rounded to bytes, each output and each row with a scale,
    where our kernels can (``nn.kernels``): its guesses are hardly worse, and come sooner.
    Raises SettingError when the rows are missing or of another size.
    """

    def __init__(
        self,
        head: FeatureHead,
        rows: Float[Tensor, "draft D"] | None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = head.config.layer
        if head.lm_head is None and (rows is None or tuple(rows.shape) != (len(head.d2t), shape.hidden_size)):
            raise SettingError("this drafting head reads the target's output head, which was not given or differs")
        self.config, self.dtype, self.device = head.config, dtype, torch.device(device)
        prepack = can_prepack(dtype, self.device)
        self.num_trained = head.num_trained
        with torch.no_grad():
            self._module = _copy(head, dtype, self.device)
            self._layer = PackedLayer(head.layer, dtype, self.device, prepack, rough=True)
            self._fc = PackedLinear(
                head.fc.weight.detach().to(self.device, dtype, copy=True),
                None if head.fc.bias is None else head.fc.bias.detach().to(self.device, dtype),
                prepack,
                rough=True,
            )
            own = rows if head.lm_head is None else head.lm_head.weight
            assert own is not None
            self._head = PackedLinear(own.detach().to(self.device, dtype, copy=True), None, prepack, rough=True)
            norms = (head.norm, head.embed_norm, head.hidden_norm)
            self._norm, self._embed_norm, self._hidden_norm = (
                None if n is None else RowNorm(n.weight, shape.rms_norm_eps, dtype, self.device) for n in norms
            )
            self._turns = rotations(shape, shape.max_positions + _BEYOND, dtype, self.device)
            self._own = self._in_kernels()
        self.d2t = head.d2t.to(self.device, torch.long)
        self.words = self.d2t.numpy(force=True)
        self._is_whole = len(head.d2t) == shape.vocab_size

    def _in_kernels(self) -> kernels.Head | None:
        """All but the prompt by our own kernels, where they have its shapes."""
        library, words = kernels.status().library, self._head.padded
        is_fused = self.config.fuse == "concat"
        fuse = self._fc.own if is_fused else None
        norms = (self._embed_norm, self._hidden_norm, self._norm)
        if library is None or self._layer.own is None or words is None or (is_fused and fuse is None):
            return None
        if not all(norm is None or norm.is_own for norm in norms):
            return None
        before, feature, behind = (None if norm is None else norm.weight for norm in norms)
        return kernels.Head(
            library, self._layer.own, fuse, (before, feature, behind), words, is_normed=self.config.norm_residual
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of the trained weights at inference."""
        return self.num_trained * self._head.weight.element_size()

    def tokens(self, drafted: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The target's ids of indices into the draft vocabulary."""
        return drafted if self._is_whole else self.d2t[drafted]

    def scores(self, out: Float[Tensor, "S D"]) -> Float[Tensor, "S draft"]:
        """Logits over the draft vocabulary, of the head's dtype."""
        if self._own is not None:
            return self._own.words(out)[:, : len(self.words)]
        return self._head(out if self._norm is None else self._norm(out))

    def logits(self, out: Float[Tensor, "S D"]) -> Float[Tensor, "S draft"]:
        """Logits over the draft vocabulary, float32."""
        return self.scores(out).float()

    def begin(self, view: PromptView, first: Float[Tensor, "1 D"], room: int) -> tuple["HeadState", Tensor]:
        """Read a prompt and the target's first token. ``first``: that token's embedding; room: entries behind.

        Returns the state and the guess (1, D) behind the first token.
        """
        module, config = self._module, self.config
        states = torch.cat([view.states[layer] for layer in config.taps], dim=-1).to(self.device, self.dtype)
        embeds = torch.cat((view.embeds[1:], first.to(view.embeds)), dim=0).to(self.device, self.dtype)
        pictures = torch.tensor([token < 0 for token in (*view.tokens[1:], 0)], device=self.device)
        feats = self._fc(states) if config.fuse == "attention" else states
        reading = module.arrange(embeds[None], feats[None], pictures)
        count = reading.embeds.shape[1]
        cache = self._cache(count + room)
        if reading.direct is None:
            x, own = self._inputs(reading.embeds[0].to(self.dtype), reading.feats[0].to(self.dtype))
            reads = self._layer.read(x) if own is None else own
        else:
            x, reads = (part[0] for part in module.inputs(reading.embeds, reading.feats, reading.direct))
        turns = self._turns.index_select(0, reading.positions)
        # of the prompt's entries keys and values are all that is needed; only the last one guesses
        _, k, v = self._layer.project(reads, turns)
        cache.keys[0, :, :count] = k.transpose(0, 1)
        cache.values[0, :, :count] = v.transpose(0, 1)
        out = self._layer(
            x[-1:], turns[-1:],
            lambda q, k, v, i: attend_chain(q, k, v, cache, i, count - 1, _PINS, fresh=False), 0, reads[-1:],
        )  # fmt: skip
        cache.length = count
        return HeadState(cache, len(view.tokens) - count, reading.context), out

    def idle_state(self, capacity: int) -> "HeadState":
        """A state over an empty cache half full of nothing, for timing."""
        cache = self._cache(capacity)
        cache.length = capacity // 2
        return HeadState(cache, 0, None)

    def _cache(self, capacity: int) -> DenseCache:
        shape = self.config.layer
        return DenseCache(
            num_layers=1, num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim, capacity=capacity,
            dtype=attention_dtype(self.dtype, self.device), device=self.device,
        )  # fmt: skip

    def extend(
        self, state: "HeadState", states: Float[Tensor, "K taps_D"], embeds: Float[Tensor, "K D"]
    ) -> Float[Tensor, "1 D"]:
        """Digest verified tokens: the target's states that predicted them, and their embeddings; the next guess.

        Guesses that were made before are overwritten.
        """
        states = states.to(self.device, self.dtype)
        feats = self._fc(states) if self.config.fuse == "attention" else states
        feats, embeds = self._blend(state, feats), embeds.to(self.dtype)
        cache, start = state.cache, state.cache.length
        count = feats.shape[0]
        turns = self._turns[start + state.shift : start + state.shift + count]
        if self._own is not None and self._own.takes(count, cache.keys):
            out = self._own(feats, None, embeds, turns, cache.keys, cache.values, kernels.Walk(start))
        else:
            x, reads = self._inputs(embeds, feats)
            out = self._layer(
                x, turns, lambda q, k, v, i: attend_chain(q, k, v, cache, i, start, _PINS, fresh=False), 0, reads
            )
        cache.length = start + count
        return out[-1:]

    def step(
        self,
        state: "HeadState",
        guesses: Float[Tensor, "R D"],
        above: Int[Tensor, "S"],
        embeds: Float[Tensor, "S D"],
        used: int,
        paths: Int[Tensor, "S depth"],
    ) -> Float[Tensor, "S D"]:
        """One level of a draft: nodes at one depth (1 under the root). guesses: of the head's dtype, on its device.

        above: int64, on the CPU, which of ``guesses`` each node's parent gave. used: nodes of this draft that were
        expanded before; paths: int32, numbers of the nodes from the root's child down to each row, which is number
        used, used + 1, ... itself. Nothing is committed.
        """
        cache, start = state.cache, state.cache.length
        embeds = embeds.to(self.dtype)
        at = start + state.shift + paths.shape[1] - 1
        turns = self._turns[at : at + 1]
        if self._own is not None and self._own.takes(embeds.shape[0], cache.keys):
            walk = kernels.Walk(start, used, paths)
            return self._own(self._blend(state, guesses), above, embeds, turns, cache.keys, cache.values, walk)
        feats = self._blend(state, guesses.index_select(0, above.to(self.device)))
        x, reads = self._inputs(embeds, feats)
        return self._layer(x, turns, self._mixing(cache, start, used, paths.to(self.device)), 0, reads)

    def _mixing(self, cache: DenseCache, start: int, used: int, paths: Int[Tensor, "S depth"]) -> Attend:
        """Each row looks at the verified entries and along its path, which is as long for all."""

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            keys, values, (rows, _, groups, _) = cache.keys[layer], cache.values[layer], q.shape
            if kernels.attends(rows, groups, keys):
                return kernels.attend(q, k, v, keys, values, kernels.Walk(start, used, paths))
            hidden = torch.zeros(rows, start + used + rows, dtype=torch.bool, device=self.device)
            hidden[:, start:] = True
            hidden.scatter_(1, start + paths.long(), False)
            return attend_masked(q, k, v, cache, layer, start + used, hidden, _PINS)

        return attend

    def _inputs(self, embeds: Tensor, feats: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.config.fuse == "attention":
            assert self._embed_norm is not None and self._hidden_norm is not None
            normed = self._hidden_norm(feats)
            residual = normed if self.config.norm_residual else feats
            return residual, torch.cat((self._embed_norm(embeds), normed), dim=-1)
        return self._fc(torch.cat((embeds, feats), dim=-1)), None

    def _blend(self, state: "HeadState", feats: Tensor) -> Tensor:
        return feats if state.context is None else self._module.blend(feats[None], state.context)[0]


class HeadState:
    """One request: keys and values of the verified entries. shift: position id of an entry less its slot."""

    def __init__(self, cache: DenseCache, shift: int, context: Tensor | None) -> None:
        self.cache, self.shift, self.context = cache, shift, context

    @property
    def length(self) -> int:
        """Verified entries."""
        return self.cache.length

    @property
    def room(self) -> int:
        """Slots left for entries and nodes."""
        return self.cache.room


def _copy(head: FeatureHead, dtype: torch.dtype, device: torch.device) -> FeatureHead:
    # of its dtype from the start: float64 weights must not pass through float32
    copy = FeatureHead(head.config).to(device=device, dtype=dtype)
    copy.load_state_dict(head.state_dict())
    return copy.eval().requires_grad_(False)
