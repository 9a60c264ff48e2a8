"""What is to be extracted: one clip and one question a job, from a data set or from a manifest."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.seeds import seed_for
from crossdraft.data.align import load_aligned
from crossdraft.data.events import parse_sensor_size
from crossdraft.data.paired import PairedSample, load_prompt, read_instruction_dataset
from crossdraft.data.video import read_image_folder, read_video

_MANIFEST_KEYS = {"id", "recording", "clip_index", "video", "events", "question", "sensor_size"}


@dataclass(frozen=True)
class Job:
    """A question about a clip. id: unique; recording: by which data are split; load: reads the files when asked.

    other: of a control: reads the clip whose events the event model sees instead of this one's.
    """

    id: str
    recording: str
    clip_index: int
    question: str
    load: Callable[[], Prompt]
    other: Callable[[], Prompt] | None = None

    def seen(self, prompt: Prompt) -> Prompt:
        """What the event model is shown of ``prompt``: the target's, or its question over other events."""
        return prompt if self.other is None else replace(prompt, events=self.other().events)


def shuffled(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs, in each of which the event model sees the events of another clip.

    Of a clip of another recording where there are several, taken in turn from half of the list away, else of the
    clip half of the recording away. A function of the list alone. SettingError when there is one clip only.
    """
    clips = {(job.recording, job.clip_index): job.load for job in jobs}
    if len(clips) < 2:
        raise SettingError("a control shows the events of another clip, but there is one clip only; add clips")
    recordings = {recording for recording, _ in clips}
    foreign = {name: [clip for clip in clips if clip[0] != name] or list(clips) for name in recordings}
    others = {}
    for place, clip in enumerate(clips):
        choice = foreign[clip[0]]
        others[clip] = clips[choice[(place + len(clips) // 2) % len(choice)]]
    return [replace(job, other=others[job.recording, job.clip_index]) for job in jobs]


def choose_jobs(jobs: Sequence[Job], count: int) -> list[Job]:
    """At most ``count`` jobs in the order of a stream, one question for each recording (another for each), so that
    a memory has something to remember. Raises DataError when there is none."""
    recordings: dict[str, list[Job]] = {}
    for job in jobs:
        recordings.setdefault(job.recording, []).append(job)
    if not recordings:
        raise DataError("no clip is left to ask anything about")
    share = -(-count // len(recordings))
    chosen: list[Job] = []
    for number, own in enumerate(recordings.values()):
        questions = list(dict.fromkeys(job.question for job in own))
        question = questions[number % len(questions)]
        chosen += sorted((job for job in own if job.question == question), key=lambda job: job.clip_index)[:share]
    return chosen[:count]


def spread_jobs(jobs: Sequence[Job], count: int) -> list[Job]:
    """``count`` jobs in their order, as many of each recording as of the others."""
    seen: dict[str, int] = {}
    turns = []
    for number, job in enumerate(jobs):
        seen[job.recording] = seen.get(job.recording, 0) + 1
        turns.append((seen[job.recording], number))
    return [jobs[number] for number in sorted(number for _, number in sorted(turns)[:count])]


def jobs_of(
    samples: Sequence[PairedSample], questions: Sequence[str] = (), per_clip: int | None = None
) -> list[Job]:
    """A job for every question of every clip: the clip's own questions, or ``questions`` asked of each.

    per_clip: only so many questions of each clip, drawn by the clip's id, so that the same ones are drawn again.
    Raises SettingError when a clip has no question of its own and none is given.
    """
    jobs = []
    for sample in samples:
        asked = questions or [question for question, _ in sample.conversations]
        if not asked:
            raise SettingError(f"clip '{sample.id}' comes without a question; name a file with --questions")
        jobs += [
            Job(
                f"{sample.id}#{number}", sample.recording, sample.clip_index, question,
                partial(load_prompt, sample, question),
            )
            for number, question in _drawn(sample.id, asked, per_clip)
        ]  # fmt: skip
    return jobs


def _drawn(sample_id: str, asked: Sequence[str], per_clip: int | None) -> list[tuple[int, str]]:
    order = np.random.default_rng(seed_for(0, f"questions/{sample_id}")).permutation(len(asked))
    return [(int(i), asked[i]) for i in sorted(order[:per_clip])]


def find_jobs(
    data: str | Path | None,
    manifest: str | Path | None,
    *,
    split: str | None = None,
    sensor: str | None = None,
    questions: str | Path | None = None,
    per_clip: int | None = None,
    limit: int | None = None,
    shuffle: bool = False,
) -> list[Job]:
    """The jobs that a user names: of a data set in the instruction layout, or of a manifest.

    split, sensor, questions (a file) and per_clip (see ``jobs_of``) are for a data set; a manifest states all of
    that itself. shuffle: show the event model another clip's events, out of all clips, whatever the limit (see
    ``shuffled``). Raises DataError and SettingError.
    """
    for name, value in (("limit", limit), ("per_clip", per_clip)):
        if value is not None and value < 1:
            raise SettingError(f"{name} is {value}, must be 1 or more")
    if data is not None:
        size = None if sensor is None else parse_sensor_size(sensor)
        asked = read_questions(questions) if questions is not None else []
        jobs = jobs_of(read_instruction_dataset(data, split, size), asked, per_clip)
    elif manifest is not None:
        if any(option is not None for option in (split, sensor, questions, per_clip)):
            raise SettingError("a manifest states split, sensor and questions itself; leave these options out")
        jobs = read_manifest(manifest)
    else:
        raise SettingError("nothing to extract from: name a data set or a manifest")
    return (shuffled(jobs) if shuffle else jobs)[:limit]


def read_questions(path: str | Path) -> list[str]:
    """One question a line, or a JSON list of them. DataError when there is none."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    found: Any = text.splitlines()
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(found, list) or any(not isinstance(line, str) for line in found):
        raise DataError(f"{path}: must hold one question a line, or a JSON list of questions")
    questions = [line.strip() for line in found if line.strip()]
    if not questions:
        raise DataError(f"{path}: holds no question")
    if len(set(questions)) < len(questions):
        raise DataError(f"{path}: holds a question twice; each is asked of every clip once")
    return questions


def read_manifest(path: str | Path) -> list[Job]:
    """Jobs of a JSON-lines file, one object a line; paths are relative to the manifest's folder.

    {"id", "recording", "clip_index", "video" (file or folder of pictures), "events", "question", "sensor_size"
    ([width, height], for recordings that do not carry it)}. Events are aligned with the video as for one answer.
    Raises DataError that names the line.
    """
    path = Path(path)
    try:
        # by line ends alone: a question may hold what else Python takes for one
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    jobs = [_manifest_job(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not jobs:
        raise DataError(f"{path}: holds no clip")
    seen: set[str] = set()
    for job in jobs:
        if job.id in seen:
            raise DataError(f"{path}: the id '{job.id}' appears twice; ids must differ")
        seen.add(job.id)
    return jobs


def _manifest_job(path: Path, number: int, line: str) -> Job:
    where = f"{path}, line {number}"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error})") from None
    if not isinstance(entry, dict) or (unknown := set(entry) - _MANIFEST_KEYS):
        what = f"has unknown keys {', '.join(sorted(unknown))}" if isinstance(entry, dict) else "is no object"
        raise DataError(f"{where}: {what}; known are {', '.join(sorted(_MANIFEST_KEYS))}")
    for key in ("id", "recording", "video", "events", "question"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise DataError(f"{where}: {key} is {entry.get(key)!r:.40}, must be a non-empty string")
    if type(entry.get("clip_index")) is not int:
        raise DataError(f"{where}: clip_index is {entry.get('clip_index')!r:.40}, must be a whole number")
    size = entry.get("sensor_size")
    try:
        words = "x".join(map(str, size)) if isinstance(size, list) else str(size)
        sensor = None if size is None else parse_sensor_size(words)
    except DataError:
        raise DataError(f"{where}: sensor_size is {size!r:.40}, must be [WIDTH, HEIGHT] in pixels") from None
    video, events = (path.parent / entry[key] for key in ("video", "events"))

    def load() -> Prompt:
        frames = read_image_folder(video) if video.is_dir() else read_video(video)
        return Prompt(entry["question"], frames, load_aligned(events, frames, sensor), entry["recording"])

    return Job(entry["id"], entry["recording"], entry["clip_index"], entry["question"], load)
