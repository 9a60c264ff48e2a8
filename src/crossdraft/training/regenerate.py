"""The target answers every prompt itself: heads are trained on what it says, not on what somebody wrote.

Every prompt is answered once, at the temperatures in turn. The work is cut into batches by the list of prompts and
the settings alone, and each batch draws from a generator of its own, so a run that was broken off and taken up
again writes what an unbroken one does.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from crossdraft.core.errors import CheckpointError, DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, Drafter
from crossdraft.core.records import write_atomically
from crossdraft.core.seeds import seed_for
from crossdraft.core.types import Limits, Sampling
from crossdraft.core.weights import read_json, weight_files
from crossdraft.data.corpus import CorpusWriter, Reply
from crossdraft.decode.loop import first_end, generate
from crossdraft.models import fingerprint
from crossdraft.models.spliced import end_tokens
from crossdraft.models.tokenizer import TextTokenizer
from crossdraft.nn.decoder import many_lengths
from crossdraft.verify import rule_for

_STAGE = 32
"""New tokens between two looks at which answers of a batch have ended."""

Report = Callable[[str, int, int], None]
Enough = Callable[[], bool]
"""Asked after every batch: whether to end with what there is."""


@dataclass(frozen=True, kw_only=True)
class Regeneration:
    """How the prompts are answered. temperatures: taken in turn, so 0, 0, 0.7 makes a third of the answers sampled;
    batch: prompts answered at once; seed: of the sampling and of the order of the batches."""

    temperatures: tuple[float, ...] = (0.0,)
    max_new_tokens: int = 200
    batch: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0 <= t < float("inf") for t in self.temperatures):
            raise SettingError(f"temperatures are {list(self.temperatures)}, must be numbers of 0 or more")
        for name in ("max_new_tokens", "batch"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}, must be 1 or more")

    def settings(self) -> dict[str, Any]:
        """All of it, as a record holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """A prompt to be answered. group, clip: as in ``data.corpus.Reply``."""

    id: str
    group: str
    question: str
    clip: str | None = None


@dataclass(frozen=True)
class Batch:
    """Prompts that are answered together, at one temperature. seed: of their sampling."""

    asked: tuple[Asked, ...]
    temperature: float
    seed: int


class Answering(Protocol):
    """A target as regeneration needs it."""

    def answers(self, batches: Sequence[Batch]) -> Iterator[list[tuple[int, ...]]]:
        """For each batch in turn the token ids of its answers, with the end token where there was one."""
        ...


def plan(asked: Sequence[Asked], config: Regeneration) -> list[Batch]:
    """The batches in the order in which they are done: alike inside, mixed among each other.

    Prompts of one group are alike in length, and so are their answers; a batch takes as long as its longest. A
    batch of one needs no sorting: then the prompts keep their order, as the clips of a stream should.
    """
    turn = len(config.temperatures)
    sorts: list[tuple[float, list[Asked]]] = []
    if config.batch == 1:
        sorts = [(config.temperatures[i % turn], [one]) for i, one in enumerate(asked)]
    else:
        for temperature in dict.fromkeys(config.temperatures):
            own = [one for i, one in enumerate(asked) if config.temperatures[i % turn] == temperature]
            own.sort(key=lambda one: (one.group, len(one.question)))
            sorts += [(temperature, own[at : at + config.batch]) for at in range(0, len(own), config.batch)]
        order = np.random.default_rng(seed_for(config.seed, "batches")).permutation(len(sorts))
        sorts = [sorts[i] for i in order]
    return [
        Batch(tuple(own), temperature, seed_for(config.seed, f"answers/{number}"))
        for number, (temperature, own) in enumerate(sorts)
    ]


def regenerate(
    target: Answering,
    asked: Sequence[Asked],
    config: Regeneration,
    root: str | Path,
    identity: Mapping[str, Any],
    *,
    note: Mapping[str, Any] | None = None,
    report: Report = lambda *_: None,
    enough: Enough = lambda: False,
) -> tuple[int, int]:
    """Answer what the corpus in ``root`` lacks, and declare it whole. Returns replies and tokens made now.

    identity, note: what decides the answers, and what else is to be known; see ``CorpusWriter``. enough: a corpus
    that was ended by it is whole too, with fewer answers, and is not gone on with. Raises what the target raises;
    what was answered before is kept.
    """
    batches = plan(asked, config)
    with CorpusWriter(root, identity, note) as writer:
        done, kept = 0, 0
        while done < len(batches) and kept + len(batches[done].asked) <= len(writer.kept):
            kept += len(batches[done].asked)
            done += 1
        if writer.whole:
            return 0, 0
        writer.keep(kept)
        made = tokens = 0
        todo = batches[done:]
        for batch, answers in zip(todo, target.answers(todo), strict=True):
            replies = [
                Reply(
                    id=one.id, group=one.group, question=one.question, tokens=said,
                    temperature=batch.temperature, clip=one.clip,
                )
                for one, said in zip(batch.asked, answers, strict=True)
            ]  # fmt: skip
            writer.append(replies)
            made, tokens = made + len(replies), tokens + sum(len(said) for said in answers)
            report("answering", kept + made, len(asked))
            if enough():
                break
        writer.finish()
    return made, tokens


@dataclass(frozen=True)
class TextTarget:
    """A text target on transformers' own ``generate``, many prompts at once.

    The prompts' ids and the end tokens are those of ``models.llama.LlamaTarget``. workers: processes, each with a
    model and one CPU thread of its own (they scale better than threads, and the answers do not depend on how many
    there are); 1: in this process. In half precision a batch does not round as our one-request passes do, so a
    greedy answer may leave the target's own at a near-tie: as training material both are the target's. For the same
    reason the answers depend on the device.
    Raises SettingError for several workers on a GPU; CheckpointError.
    """

    folder: Path
    dtype: torch.dtype
    max_new_tokens: int
    workers: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.workers > 1 and not self.device.startswith("cpu"):
            raise SettingError(
                f"{self.workers} processes were asked for; on a GPU one does the work, with larger batches instead"
            )

    def answers(self, batches: Sequence[Batch]) -> Iterator[list[tuple[int, ...]]]:
        """See ``Answering``. SettingError when a prompt and its answer exceed the context."""
        tokenizer = TextTokenizer(self.folder)
        context = int(read_json(self.folder / "config.json").get("max_position_embeddings", 2048))
        work = []
        for batch in batches:
            ids = [tokenizer.dialogue(one.question, ()) for one in batch.asked]
            if (longest := max(map(len, ids))) + self.max_new_tokens > context:
                raise SettingError(
                    f"a prompt is {longest} tokens long, with {self.max_new_tokens} new ones it exceeds the "
                    f"context of {context} of {self.folder.name}; shorten it or the answers"
                )
            work.append((ids, batch.temperature, batch.seed))
        yield from self.run(work)

    def run(self, work: "Sequence[_Work]") -> Iterator[list[tuple[int, ...]]]:
        """What the model goes on with, for each batch of (ids of prompts, temperature, seed)."""
        if self.workers == 1 or len(work) < 2:
            yield from map(_Generator(self), work)
            return
        pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _begin, (self,))
        try:
            yield from pool.map(_one, work)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class SelfAsking:
    """How a target makes up prompts. count: how many; temperature: of the sampling; max_tokens: of a prompt, longer
    ones are dropped; batch: made at once."""

    count: int
    temperature: float = 1.0
    max_tokens: int = 128
    batch: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("count", "max_tokens", "batch"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}, must be 1 or more")
        if not 0 < self.temperature < float("inf"):
            raise SettingError(f"temperature is {self.temperature}, must be above 0: it is to make up many prompts")


_TRIES = 8
"""Times as many prompts as are wanted may be made up before it is said that there are too few good ones."""


def own_prompts(
    target: "TextTarget", config: SelfAsking, report: Report = lambda *_: None, keep: Path | None = None,
    enough: Enough = lambda: False,
) -> list[str]:  # fmt: skip
    """Prompts that the target makes up itself: it is shown its chat template up to the user's first words, and what
    it goes on with is one. Those that do not end, say next to nothing or came before are dropped.

    keep: a file that knows after every batch what was made so far; where it is there, it is gone on with. enough:
    ends with those that there are, once there is one.
    Source of the idea: Xu et al., "Magpie", arXiv 2406.08464. Raises SettingError where there is no chat template,
    when too few of what it says can be used, or when ``keep`` was made by other settings; DataError when it is
    damaged, CrossdraftError when it cannot be written.
    """
    tokenizer = TextTokenizer(target.folder)
    opening, ends = tokenizer.opening(), end_tokens(target.folder, read_json(target.folder / "config.json"))
    how = {
        "checkpoint": fingerprint(target.folder), "dtype": str(target.dtype),
        "device": target.device.partition(":")[0], **asdict(config),
    }  # fmt: skip
    del how["count"]  # the batches come in one order however many are wanted
    found, made = _begun(keep, how)
    while len(found) < config.count:
        if made >= _TRIES * config.count:
            raise SettingError(
                f"{target.folder.name} made up {made} prompts, of which {len(found)} end and are new, "
                f"{config.count} are wanted; let them be longer, or take another temperature"
                + ("" if keep is None else f" (and remove {keep})")
            )
        lacking = config.count - len(found)
        batches = [
            ([opening] * config.batch, config.temperature, seed_for(config.seed, f"prompts/{made + i}"))
            for i in range(0, lacking, config.batch)
        ]
        for said in target.run(batches):
            made += len(said)
            for tokens in said:
                text = tokenizer.decode(tokens[:-1]).strip()
                if tokens[-1] in ends and len(text.split()) > _FEW_WORDS:
                    found.setdefault(text)
            report("making up prompts", min(len(found), config.count), config.count)
            if keep is not None:
                write_atomically(keep, json.dumps({"how": how, "made": made, "found": list(found)}).encode())
            if len(found) >= config.count or (found and enough()):
                return list(found)[: config.count]
    return list(found)[: config.count]


def _begun(keep: Path | None, how: Mapping[str, Any]) -> tuple[dict[str, None], int]:
    """What ``own_prompts`` kept, and of how many that it made; nothing yet where there is no such file."""
    if keep is None or not keep.exists():
        return {}, 0
    try:
        before = json.loads(keep.read_bytes())
        told, made, found = before["how"], int(before["made"]), dict.fromkeys(map(str, before["found"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{keep} is damaged ({type(error).__name__}); remove it, prompts are made anew") from error
    if told != how:
        raise SettingError(f"{keep} holds prompts made up with other settings; remove it, or name another file")
    return found, made


_FEW_WORDS = 2


@dataclass(frozen=True)
class LoopTarget:
    """Any target, one request at a time in the lossless loop. drafter: changes the time alone; load: {prompt's id:
    reads the clip and its question}."""

    target: VLM
    drafter: Drafter
    max_new_tokens: int
    load: Mapping[str, Callable[[], Prompt]]

    def answers(self, batches: Sequence[Batch]) -> Iterator[list[tuple[int, ...]]]:
        """See ``Answering``. DataError when a clip cannot be read."""
        limits = Limits(max_new_tokens=self.max_new_tokens, eos_token_ids=tuple(self.target.eos_token_ids))
        for batch in batches:
            said = []
            for one in batch.asked:
                sampling = Sampling(temperature=batch.temperature, seed=seed_for(batch.seed, one.id))
                prompt, rule = self.load[one.id](), rule_for(sampling)
                said.append(tuple(generate(self.target, self.drafter, prompt, rule=rule, limits=limits).tokens))
            yield said


_Work = tuple[list[list[int]], float, int]


class _Generator:
    """The loaded model: (prompts' ids, temperature, seed) -> answers."""

    def __init__(self, target: TextTarget) -> None:
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.utils import logging

        from crossdraft.training.batched import pack_linears

        logging.disable_progress_bar()
        folder = target.folder
        weight_files(folder)  # refuses pickles with a clear line
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=target.dtype, use_safetensors=True)
        except (ValueError, OSError, KeyError) as error:
            first = str(error).partition("\n")[0]
            raise CheckpointError(f"transformers cannot load {folder}: {first}") from error
        # nothing but what we ask for: a checkpoint's own settings (penalties, top-k) would give another law
        model.generation_config = GenerationConfig()
        self._model, self._device = model.eval().to(target.device), torch.device(target.device)
        pack_linears(model)
        self._ends = end_tokens(folder, read_json(folder / "config.json"))
        self._max_new_tokens = target.max_new_tokens

    @torch.inference_mode()
    def __call__(self, work: _Work) -> list[tuple[int, ...]]:
        from transformers import GenerationConfig, LogitsProcessorList

        from crossdraft.training.batched import OneDraw, roomy_cache

        prompts, temperature, seed = work
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            seen[row, width - len(prompt) :] = 1
        draws = LogitsProcessorList([OneDraw(temperature)] if temperature else [])
        config = GenerationConfig(
            eos_token_id=list(self._ends) or None, pad_token_id=self._ends[0] if self._ends else 0,
            return_dict_in_generate=True,
        )  # fmt: skip
        ids, seen = ids.to(self._device), seen.to(self._device)
        said: list[list[int]] = [[] for _ in prompts]
        live, cache = list(range(len(prompts))), roomy_cache(self._model.config.num_hidden_layers)
        own_noise = torch.random.fork_rng([self._device] if self._device.type == "cuda" else [])
        with own_noise, many_lengths(self._device):
            torch.manual_seed(seed)
            # by and by, so that answers that have ended do not go on costing until the longest has
            while live and (room := self._max_new_tokens - len(said[live[0]])) > 0:
                config.max_new_tokens = min(room, _STAGE)
                out = self._model.generate(
                    ids, attention_mask=seen, past_key_values=cache, generation_config=config,
                    logits_processor=draws,
                )  # fmt: skip
                for row, tokens in zip(live, out.sequences[:, ids.shape[1] :].tolist(), strict=True):
                    end = first_end(tokens, self._ends)
                    said[row] += tokens if end is None else tokens[: end + 1]
                on = [i for i, row in enumerate(live) if said[row][-1] not in self._ends]
                live, ids, cache = [live[i] for i in on], out.sequences[on], out.past_key_values
                cache.batch_select_indices(torch.tensor(on, dtype=torch.long, device=self._device))
                seen = torch.nn.functional.pad(seen[on], (0, ids.shape[1] - seen.shape[1]), value=1)
        return [tuple(tokens) for tokens in said]


_mine: _Generator | None = None
"""Of a worker process."""


def _begin(target: TextTarget) -> None:
    global _mine
    torch.set_num_threads(1)
    _mine = _Generator(target)


def _one(work: _Work) -> list[tuple[int, ...]]:
    assert _mine is not None
    return _mine(work)
