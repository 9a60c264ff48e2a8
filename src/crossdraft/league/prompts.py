"""What the league asks: a named set, or the user's own, in two parts that share nothing.

The part "tune" is for choosing settings, figures are reported on the part "held-out" alone.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.data.paired import PairedSample, read_instruction_dataset
from crossdraft.data.scenes import write_streams
from crossdraft.data.scenes.writer import SEED_STEP
from crossdraft.extraction.jobs import choose_jobs, jobs_of

STREAMS, TEXT = "streams", "league"
"""Names: clips of unseen streams of the built-in scenes; the package's own text prompts."""

HELD_OUT, TUNE = "held-out", "tune"

CLIPS = 8
"""Neighbouring clips of one stream, all asked the same question, so that a memory has something to remember."""

# streams of the league; training and the other measurements draw theirs from other seeds
_SEEDS = {HELD_OUT: 4024, TUNE: 4025}


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one part. kinds: of each prompt, in the set's own words."""

    name: str
    prompts: tuple[Prompt, ...]
    kinds: tuple[str, ...]

    @property
    def shows_pictures(self) -> bool:
        """Whether there is something to watch."""
        return all(prompt.video is not None for prompt in self.prompts)

    def told(self) -> dict[str, Any]:
        """For a record: the name, how many of each kind, and a digest of all questions."""
        digest = hashlib.sha256("\0".join(prompt.question for prompt in self.prompts).encode()).hexdigest()[:16]
        kinds = {kind: self.kinds.count(kind) for kind in sorted(set(self.kinds))}
        return {"name": self.name, "prompts": len(self.prompts), "kinds": kinds, "questions_sha256": digest}


def read_prompt_set(source: str | Path, limit: int, part: str = HELD_OUT) -> PromptSet:
    """At most ``limit`` prompts of a part: "streams", "league", a JSON-lines file or a folder of paired clips.

    Of a folder every other recording is for tuning; each recording is asked one of its questions, another each.
    Raises DataError when there are none.
    """
    if str(source) == STREAMS:
        if limit > CLIPS * SEED_STEP:
            raise SettingError(f"limit is {limit}, but '{STREAMS}' has {CLIPS * SEED_STEP} prompts at most")
        with tempfile.TemporaryDirectory(prefix="crossdraft-") as root:
            write_streams(root, -(-limit // CLIPS), min(limit, CLIPS), seed=_SEEDS[part])
            return _of_clips(STREAMS, read_instruction_dataset(root), limit)
    path = Path(source)
    if path.is_dir():
        return _of_clips(str(source), _half(read_instruction_dataset(path), path, part), limit)
    if str(source) != TEXT and not path.is_file():
        raise DataError(
            f"no prompts are called '{source}'; give {STREAMS}, {TEXT}, a JSON-lines file or a folder of clips"
        )
    from crossdraft.data.prompts import read_prompts

    records = _in_turn(read_prompts(source, part))[:limit]
    return PromptSet(str(source), tuple(Prompt(r.question) for r in records), tuple(r.kind for r in records))


def _of_clips(name: str, samples: Sequence[PairedSample], limit: int) -> PromptSet:
    jobs = choose_jobs(jobs_of(samples), limit)
    kinds = tuple(f"question {int(job.id.rpartition('#')[2]) + 1}" for job in jobs)
    return PromptSet(name, tuple(job.load() for job in jobs), kinds)


def _half(samples: Sequence[PairedSample], path: Path, part: str) -> list[PairedSample]:
    """Every other recording, the first one held out; a part is never cut out of a recording."""
    names = list(dict.fromkeys(sample.recording for sample in samples))
    own = set(names[0 if part == HELD_OUT else 1 :: 2])
    if not own:
        raise DataError(f"{path} holds one recording only: none is left to tune settings on; add recordings")
    return [sample for sample in samples if sample.recording in own]


def _in_turn(records: Sequence[Any]) -> list[Any]:
    """One of each kind, then the second of each, and so on: a few prompts are of many kinds."""
    places: dict[str, int] = {}
    turns: list[tuple[int, int, Any]] = []
    for record in records:
        places[record.kind] = places.get(record.kind, 0) + 1
        turns.append((places[record.kind], len(turns), record))
    return [record for *_, record in sorted(turns, key=lambda turn: turn[:2])]
