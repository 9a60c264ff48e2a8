"""What all our models share: a decoder behind pictures, events or nothing, spliced into the text's embeddings."""

import copy
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError, DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import SIMILARITY, Exactness, PromptView, Scores
from crossdraft.core.weights import read_json, save_weights
from crossdraft.models.loading import load_weights, resolve_checkpoint
from crossdraft.models.session import DecoderSession
from crossdraft.models.tokenizer import TextTokenizer
from crossdraft.nn.decoder import Decoder
from crossdraft.nn.engine import Engine, TreeAttention

PLACEHOLDER = -200
"""Id of a position that holds no text."""


class Parts(nn.Module):
    """A model's modules before inference packs them: what training fills and checkpoints hold.

    Subclasses build their modules from a config.json mapping, and name the keys of the published layout.
    """

    decoder: Decoder
    family: str

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config

    @staticmethod
    @abstractmethod
    def rename(key: str) -> str | None:
        """A published key as our parameter's name; None for a key that is known and not used."""

    @staticmethod
    @abstractmethod
    def publish(name: str) -> str:
        """Our parameter's name as the published key; inverse of ``rename``."""

    @property
    def optional(self) -> tuple[str, ...]:
        """Names that a checkpoint may leave out."""
        return ("decoder.lm_head.weight",) if self.decoder.config.tie_embeddings else ()


@dataclass(frozen=True)
class Encoded:
    """An encoded prompt. embeds: (P, D); tokens: ids, placeholders negative."""

    embeds: Float[Tensor, "P D"]
    tokens: tuple[int, ...]


class SplicedVLM:
    """Implements ``core.protocols.VLM`` on our decoder. Subclasses say how a prompt becomes embeddings.

    Holds nothing about a request.
    """

    def __init__(
        self, name: str, parts: Parts, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.name, self.folder, self.device = name, folder, torch.device(device)
        self.engine = Engine(parts.decoder, dtype, device)
        self.tokenizer = TextTokenizer(folder)
        cfg = parts.decoder.config
        self.hidden_size, self.vocab_size = cfg.hidden_size, cfg.vocab_size
        self.max_positions = cfg.max_positions
        self.eos_token_ids = end_tokens(folder, parts.config)

    @property
    def exactness(self) -> Exactness:
        """What the self-test found; it holds for the thread count that it ran with."""
        tested, now = self.engine.tested_threads, torch.get_num_threads()
        if self.device.type == "cpu" and tested != now and self.engine.exactness.bit_exact:
            return Exactness(
                False,
                f"not known to be bit-exact: tested with {tested} CPU threads, running with {now}; load it again",
            )
        return self.engine.exactness

    def with_trees(self, attention: TreeAttention) -> Self:
        """The same weights, with draft trees scored by ``attention``."""
        other = copy.copy(self)
        other.engine = self.engine.twin(tree_attention=attention)
        return other

    @abstractmethod
    def encode(self, prompt: Prompt) -> Encoded:
        """Preprocess, run the tower and the projector, splice. Raises DataError (see ``core.protocols.VLM``)."""

    def splice(self, ids: Sequence[int], media: Sequence[Float[Tensor, "M D"]]) -> Encoded:
        """Put ``media``, in order, where ``ids`` holds the placeholder. DataError when that is too long.

        CheckpointError when the tokenizer gives an id for which the model has no embedding.
        """
        if (highest := max(ids, default=0)) >= self.vocab_size:
            raise CheckpointError(
                f"the tokenizer of {self.name} gives id {highest}, but the model knows {self.vocab_size} tokens; "
                "put the tokenizer files that belong to this checkpoint into its folder"
            )
        parts: list[Tensor] = []
        tokens: list[int] = []
        text: list[int] = []
        waiting = list(media)

        def flush() -> None:
            if text:
                parts.append(self.embed(torch.tensor(text)))
                tokens.extend(text)
                text.clear()

        for token in ids:
            if token != PLACEHOLDER:
                text.append(token)
                continue
            flush()
            block = waiting.pop(0).to(self.engine.dtype)
            parts.append(block)
            tokens.extend([PLACEHOLDER] * len(block))
        flush()
        assert not waiting, "more media than placeholders"
        check_fits(len(tokens), self.max_positions, self.name)
        return Encoded(torch.cat(parts), tuple(tokens))

    def prefill(self, encoded: Encoded, capture: tuple[int, ...] = (), room: int = 512) -> DecoderSession:
        """Run the decoder over the prompt. SettingError when prompt and ``room`` exceed the context, or
        for a layer that is not there."""
        layers = self.engine.config.num_layers
        if wrong := [layer for layer in capture if not -1 <= layer < layers and layer != SIMILARITY]:
            raise SettingError(
                f"layer {wrong[0]} is asked for, but {self.name} has layers 0 to {layers - 1}, and -1 for the end"
            )
        cache = self.engine.new_cache(len(encoded.tokens) + room)
        result = self.engine.prefill(encoded.embeds, cache, capture)
        last = {layer: states[-1:] for layer, states in result.states.items()}
        view = PromptView(encoded.tokens, encoded.embeds, result.states)
        return DecoderSession(self.engine, cache, Scores(result.logits, last), view, capture)

    def embed(self, tokens: Int[Tensor, "K"]) -> Float[Tensor, "K D"]:
        """Input embeddings."""
        return self.engine.embed(tokens)

    def unembed(self, states: Float[Tensor, "K D"]) -> Float[Tensor, "K V"]:
        """Logits of states after the final norm."""
        return self.engine.unembed(states)


def check_fits(length: int, context: int, name: str) -> None:
    """DataError when a prompt of ``length`` positions leaves no room for an answer."""
    if length >= context:
        raise DataError(
            f"the prompt is {length} positions long, the context of {name} is {context}; "
            "shorten the question or give fewer pictures"
        )


def end_tokens(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """Ids that end an answer: generation_config.json, else config.json, else its text_config."""
    for source in (
        read_json(folder / "generation_config.json", needed=False),
        config,
        config.get("text_config") or {},
    ):
        found = source.get("eos_token_id")
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    return ()


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The decoder's part of a LLaVA-like config.json, with the defaults that transformers leaves unwritten.

    Raises CheckpointError for a language model that is not of the Llama family.
    """
    text = dict(config.get("text_config") or {})
    kind = text.get("model_type", "llama")
    if kind not in ("llama", "mistral"):
        raise CheckpointError(
            f"language model '{kind}' inside this checkpoint is not supported; llama and mistral are"
        )
    if kind == "mistral" and text.get("sliding_window"):
        raise CheckpointError("a mistral decoder with a sliding window is not supported")
    # transformers writes only what differs from its LlamaConfig defaults
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
    }
    return {**defaults, **text}


def build_parts(kind: type[Parts], config: dict[str, Any], folder: Path) -> Parts:
    """The modules that ``config`` describes, empty. CheckpointError when its values make no model."""
    try:
        return kind(config)
    except CheckpointError:
        raise
    # a config.json may hold anything; whatever its values break, the reason is the same
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{folder / 'config.json'} describes no {kind.family} model ({first}); fetch it again"
        ) from error


def read_parts(kind: type[Parts], ref: str | Path, dtype: torch.dtype) -> tuple[Parts, Path]:
    """Build ``kind`` from a checkpoint folder and fill it. Raises CheckpointError."""
    folder = resolve_checkpoint(ref)
    parts = build_parts(kind, read_json(folder / "config.json"), folder)
    fill(parts, folder, dtype)
    return parts, folder


def fill(parts: Parts, folder: Path, dtype: torch.dtype, elsewhere: Sequence[str] = ()) -> None:
    """Give ``parts`` the weights in ``folder``; a tied head is the embedding table, whatever is stored for it.

    elsewhere: names that this folder may leave out because the caller reads them from another one.
    Raises CheckpointError.
    """
    tied = bool(parts.optional)

    def rename(key: str) -> str | None:
        name = parts.rename(key)
        return None if tied and name in parts.optional else name

    load_weights(parts, folder, rename, dtype, (*parts.optional, *elsewhere))
    if tied:
        parts.decoder.lm_head.weight = parts.decoder.embed_tokens.weight
    parts.eval()


def save_parts(parts: Parts, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the published layout: model.safetensors in ``dtype`` and config.json. The tokenizer is the caller's."""
    skip = set(parts.optional)
    state = {
        parts.publish(name): p.to(dtype)
        for name, p in parts.named_parameters(remove_duplicate=False)
        if name not in skip
    }
    save_weights(Path(folder), state, {**parts.config, "dtype": str(dtype).removeprefix("torch.")})


def save_like(parts: Parts, source: Path, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """``save_parts``, with tokenizer and pre-processing of the checkpoint ``source`` that they came from."""
    save_parts(parts, folder, dtype)
    for pattern in ("*.json", "tokenizer.model", "*.jinja"):
        for path in source.glob(pattern):
            # a record of what was trained into ``source`` is not true of what it became
            if path.name not in ("config.json", "model.safetensors.index.json", "training.json"):
                shutil.copyfile(path, Path(folder) / path.name)
