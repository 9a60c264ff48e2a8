"""Fall-back: any causal language model that transformers knows, unmodified. Not bit-exact, and chains only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import SIMILARITY, Draft, Exactness, PromptView, Scores
from crossdraft.core.weights import read_json, weight_files
from crossdraft.models.loading import resolve_checkpoint
from crossdraft.models.spliced import Encoded, check_fits, end_tokens
from crossdraft.models.tokenizer import TextTokenizer


def knows(model_type: str) -> bool:
    """Whether transformers has a configuration of this type."""
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


class TransformersTarget:
    """Implements ``core.protocols.VLM`` over ``AutoModelForCausalLM``; text only. Raises CheckpointError."""

    chains_only = True

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        from transformers import AutoModelForCausalLM

        self.name, self.device = folder.name, torch.device(device)
        config = read_json(folder / "config.json")
        weight_files(folder)  # refuses pickles with a clear line
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        except (ValueError, OSError, KeyError) as error:
            first = str(error).partition("\n")[0]
            raise CheckpointError(f"neither crossdraft nor transformers can load {folder}: {first}") from error
        self._model: Any = model.eval()
        self._model.to(self.device)
        self.tokenizer = TextTokenizer(folder)
        inner = self._model.config
        self.hidden_size, self.vocab_size = int(inner.hidden_size), int(inner.vocab_size)
        self.max_positions = int(getattr(inner, "max_position_embeddings", 2048))
        self.eos_token_ids = end_tokens(folder, config)
        kind = config.get("model_type")
        self.exactness = Exactness(
            False, f"not bit-exact: '{kind}' runs on transformers' own code", self.max_positions
        )

    @classmethod
    def load(cls, ref: str | Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> "TransformersTarget":
        """Load a folder. Raises CheckpointError."""
        return cls(resolve_checkpoint(ref), dtype, device)

    def encode(self, prompt: Prompt) -> Encoded:
        """Tokenise and embed."""
        ids = self.tokenizer.dialogue(prompt.question, prompt.history)
        check_fits(len(ids), self.max_positions, self.name)
        return Encoded(self.embed(torch.tensor(ids)), tuple(ids))

    @torch.inference_mode()
    def prefill(self, encoded: Encoded, capture: tuple[int, ...] = (), room: int = 512) -> "TransformersSession":
        """Run the model over the prompt. SettingError when prompt and ``room`` exceed the context, and for the
        similarity around attention, which transformers does not show."""
        if SIMILARITY in capture:
            raise SettingError(
                f"'{self.name}' runs on transformers' own code, which can neither show nor skip its attention; "
                "choose another drafter than 'layer_skip'"
            )
        if len(encoded.tokens) + room > self.max_positions:
            raise SettingError(
                f"{len(encoded.tokens) + room} positions are asked for, but the model's context is "
                f"{self.max_positions}; shorten the prompt or the answer"
            )
        return TransformersSession(self, encoded, capture)

    @torch.inference_mode()
    def embed(self, tokens: Int[Tensor, "K"]) -> Float[Tensor, "K D"]:
        """Input embeddings."""
        return self._model.get_input_embeddings()(tokens.to(self.device))

    @torch.inference_mode()
    def unembed(self, states: Float[Tensor, "K D"]) -> Float[Tensor, "K V"]:
        """Logits of last-layer states."""
        return self._model.get_output_embeddings()(states).float()

    def run(self, ids: Tensor, cache: Any, capture: Sequence[int]) -> tuple[Scores, Any]:
        """One pass over ``ids`` (S,) behind ``cache``; the cache comes back longer by S."""
        out = self._model(
            input_ids=ids[None].to(self.device),
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=bool(capture),
        )
        # transformers lists the embeddings first; its last entry is after the final norm
        states = {i: out.hidden_states[-1 if i == -1 else i + 1][0] for i in capture}
        return Scores(out.logits[0].float(), states), out.past_key_values


class TransformersSession:
    """One request on an unmodified model, with transformers' own cache."""

    def __init__(self, model: TransformersTarget, encoded: Encoded, capture: tuple[int, ...]) -> None:
        self._model, self._capture = model, capture
        scores, self._cache = model.run(torch.tensor(encoded.tokens), None, capture)
        self.prompt = PromptView(encoded.tokens, encoded.embeds, scores.states)
        self.first = Scores(scores.logits[-1:], {i: s[-1:] for i, s in scores.states.items()})
        self._length = len(encoded.tokens)
        self._root: int | None = None
        self._rows = 0

    @property
    def length(self) -> int:
        """Cached positions, the root not counted."""
        return self._length

    @torch.inference_mode()
    def score(self, draft: Draft) -> Scores:
        """One pass over the root and a chain. SettingError for a tree or before the first root."""
        if self._root is None:
            raise SettingError("nothing to score yet: commit((), first_token) sets the first root")
        if not draft.is_chain:
            raise SettingError("trees are not supported for models on transformers' own code; draft a chain")
        ids = torch.cat((torch.tensor([self._root]), draft.tokens))
        self._drop()
        scores, self._cache = self._model.run(ids, self._cache, self._capture)
        self._rows = len(ids)
        return scores

    def commit(self, path: Sequence[int], bonus: int) -> None:
        """Keep the root and the first len(path) nodes."""
        if list(path) != list(range(len(path))):
            raise SettingError(f"a chain is kept from its start, not as {list(path)}")
        if self._rows:
            self._length += 1 + len(path)
            self._drop()
        elif self._root is not None or len(path):
            raise SettingError("commit without a scored pass")
        self._root = int(bonus)

    def mark(self) -> tuple[int, int | None]:
        """Committed length and root."""
        return self._length, self._root

    def rewind(self, mark: tuple[int, int | None]) -> None:
        """Back to ``mark``."""
        self._length, self._root = mark
        self._rows = 1  # whatever lies behind the length goes
        self._drop()

    def reroot(self, token: int) -> None:
        """Replace the root. SettingError when there is none, or a pass over it waits for its commit."""
        if self._root is None or self._rows:
            raise SettingError("a root can be replaced only before a pass over it")
        self._root = int(token)

    def _drop(self) -> None:
        if self._rows:
            surplus = self._cache.get_seq_length() - self._length
            if surplus:
                self._cache.crop(-surplus)
            self._rows = 0
