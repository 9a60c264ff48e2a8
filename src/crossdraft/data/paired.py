"""Paired video and event clips with questions and answers, in EventGPT's instruction layout.

    root/EventGPT_Instruction_Subset.json   a list of records
    root/event_npy/<recording>/<clip>.npy   events (.npz as well)
    root/mp4/<recording>/<clip>.mp4         video, or root/video/<recording>/<clip>/*.png

The official subset has events and filled conversations; the clip sets made later add videos and leave the
conversations empty, their questions are asked of every clip. Both, and what we write ourselves, come through this
one reader.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt, VideoFrames
from crossdraft.data.events import load_events
from crossdraft.data.video import NUM_FRAMES, natural_key, read_image_folder, read_video

INDEX_FILE = "EventGPT_Instruction_Subset.json"
EVENT_FOLDER, MP4_FOLDER, FRAME_FOLDER = "event_npy", "mp4", "video"

# where a model's own template puts the recording; the models put it there themselves
_PLACEHOLDERS = ("<event>", "<video>", "<image>")


@dataclass(frozen=True)
class PairedSample:
    """One clip: the same span of time seen by both sensors, and what was asked about it.

    recording: the stream that the clip was cut from; the memory of a stream and the splits go by it.
    clip: file name without suffix; clip_index: its place among the recording's clips, in natural order of names.
    conversations: (question, answer) pairs in order; empty where the set leaves its questions to the reader.
    extra: every key of the record that the layout does not know.
    """

    id: str
    split: str | None
    recording: str
    clip: str
    clip_index: int
    events_path: Path
    video_path: Path | None
    sensor_size: tuple[int, int] | None
    conversations: tuple[tuple[str, str], ...]
    extra: Mapping[str, Any]


def read_instruction_dataset(
    root: str | Path,
    split: str | None = None,
    sensor_size: tuple[int, int] | None = None,
    check_files: bool = True,
) -> list[PairedSample]:
    """Read the index of a data set, sorted by recording and clip.

    Args:
        root: folder of the layout above.
        split: only records of this split; None: all.
        sensor_size: (width, height) for sets whose files and records do not state it (DSEC clips: 640, 480).
        check_files: whether every clip's files must be there.

    Raises:
        DataError: no such folder or index, damaged JSON, a record that breaks the layout, a missing file.
    """
    root = Path(root)
    samples = [_sample(root, record, f"{root / INDEX_FILE}, record {i}") for i, record in enumerate(_index(root))]
    _check_unique([sample.id for sample in samples], root)
    samples = _numbered(samples)
    if split is not None:
        splits = sorted({sample.split for sample in samples if sample.split is not None})
        if split not in splits:
            raise DataError(f"{root}: there is no split '{split}'; splits are: {', '.join(splits) or 'none'}")
        samples = [sample for sample in samples if sample.split == split]
    if check_files:
        for sample in samples:
            for path in (sample.events_path, sample.video_path):
                if path is not None and not path.exists():
                    raise DataError(
                        f"{path}: missing, though {root / INDEX_FILE} names it; copy the data set again"
                    )
    if sensor_size is not None:
        samples = [replace(s, sensor_size=sensor_size) if s.sensor_size is None else s for s in samples]
    return samples


def load_prompt(sample: PairedSample, question: str | None = None, num_frames: int | None = NUM_FRAMES) -> Prompt:
    """Load both sensors' data of a clip and ask ``question`` (None: the first one of its conversation).

    Clips of a set are cut from one span, so nothing is aligned. The recording becomes the prompt's stream.

    Raises:
        DataError: unreadable files, or no question given and none in the record.
    """
    if question is None:
        if not sample.conversations:
            raise DataError(f"{sample.id}: this clip comes without a question; give one")
        question = sample.conversations[0][0]
    return Prompt(
        question=question,
        video=_load_video(sample.video_path, num_frames),
        events=load_events(sample.events_path, sample.sensor_size),
        stream_id=sample.recording,
    )


def write_instruction_records(root: str | Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write the index of a data set whose clips are already there; it appears whole or not at all.

    Each record needs ``id``, ``event_data`` ("<recording>/<clip>.npz"), ``conversations``; may have ``split``,
    ``mp4_data``, ``video_data``, ``sensor_size`` ([width, height]) and keys of your own. Every record passes
    through the reader's checks first, so what is written can be read back.

    Returns:
        The path of the index.

    Raises:
        DataError: a record that breaks the layout, no folder to write to.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; write the clips there first")
    for i, record in enumerate(records):
        _sample(root, record, f"record {i} to be written")
    _check_unique([record["id"] for record in records], root)
    path = root / INDEX_FILE
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump([dict(record) for record in records], file, indent=1, ensure_ascii=False)
            file.write("\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _index(root: Path) -> list[Any]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder of a data set")
    path = root / INDEX_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{root}: has no {INDEX_FILE}; it is not a data set in the instruction layout") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}); copy it again") from None
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: must be a list of records with at least one")
    return content


def _sample(root: Path, record: Any, where: str) -> PairedSample:
    if not isinstance(record, Mapping):
        raise DataError(
            f"{where}: is a {type(record).__name__}, must be an object with id, event_data, conversations"
        )
    event_data = _inner_path(record, "event_data", where)
    if len(event_data.parts) != 2:
        raise DataError(f"{where}: event_data is '{event_data}', must be <recording>/<clip>.npy")
    video: Path | None = None
    if record.get("mp4_data"):
        video = root / MP4_FOLDER / _inner_path(record, "mp4_data", where)
    elif record.get("video_data"):
        video = root / FRAME_FOLDER / _inner_path(record, "video_data", where)
    identity, split = record.get("id"), record.get("split")
    if not isinstance(identity, str) or not identity:
        raise DataError(f"{where}: id is {identity!r:.40}, must be a non-empty string")
    if split is not None and not isinstance(split, str):
        raise DataError(f"{where}: split is {split!r:.40}, must be a string")
    known = {"id", "split", "event_data", "mp4_data", "video_data", "sensor_size", "conversations"}
    return PairedSample(
        id=identity,
        split=split,
        recording=event_data.parts[0],
        clip=event_data.stem,
        clip_index=0,
        events_path=root / EVENT_FOLDER / event_data,
        video_path=video,
        sensor_size=_sensor_size(record, where),
        conversations=_conversations(record, where),
        extra={key: value for key, value in record.items() if key not in known},
    )


def _inner_path(record: Mapping[str, Any], key: str, where: str) -> PurePosixPath:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {key} is {value!r:.40}, must be a path such as <recording>/<clip>")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value:
        raise DataError(f"{where}: {key} '{value}' leads out of the data set; refused")
    return path


def _sensor_size(record: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    size = record.get("sensor_size")
    if size is None:
        return None
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(s) is int and s > 0 for s in size)):
        raise DataError(f"{where}: sensor_size is {size!r:.40}, must be [width, height]")
    return size[0], size[1]


def _conversations(record: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    turns = record.get("conversations")
    if not isinstance(turns, list | tuple):
        raise DataError(f"{where}: conversations is {turns!r:.40}, must be a list of turns")
    texts = []
    for i, turn in enumerate(turns):
        speaker = "gpt" if i % 2 else "human"
        if not (isinstance(turn, Mapping) and turn.get("from") == speaker and isinstance(turn.get("value"), str)):
            raise DataError(f'{where}: turn {i} must be {{"from": "{speaker}", "value": text}}')
        texts.append(turn["value"])
    if len(texts) % 2:
        raise DataError(f"{where}: the last question has no answer; turns come in pairs of human and gpt")
    pairs = [(_without_placeholder(q), a.strip()) for q, a in zip(texts[::2], texts[1::2], strict=True)]
    if all(not question and not answer for question, answer in pairs):
        return ()  # the clip sets leave both empty: their questions are asked of every clip
    if any(not question for question, _ in pairs):
        raise DataError(f"{where}: a question is empty beside others that are not; fill it or leave it out")
    return tuple(pairs)


def _without_placeholder(text: str) -> str:
    for placeholder in _PLACEHOLDERS:
        text = text.replace(placeholder, "")
    return text.strip()


def _check_unique(ids: Sequence[str], root: Path) -> None:
    seen: set[str] = set()
    for identity in ids:
        if identity in seen:
            raise DataError(f"{root}: the id '{identity}' appears twice; ids must differ")
        seen.add(identity)


def _numbered(samples: list[PairedSample]) -> list[PairedSample]:
    """Sorted by recording and clip, with each clip's place in its recording; records of one clip share it."""
    clips: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        clips[sample.recording].add(sample.clip)
    places = {
        recording: {clip: i for i, clip in enumerate(sorted(names, key=natural_key))}
        for recording, names in clips.items()
    }
    numbered = [replace(sample, clip_index=places[sample.recording][sample.clip]) for sample in samples]
    return sorted(numbered, key=lambda sample: (natural_key(sample.recording), sample.clip_index))


def _load_video(path: Path | None, num_frames: int | None) -> VideoFrames | None:
    if path is None:
        return None
    return read_image_folder(path, num_frames) if path.is_dir() else read_video(path, num_frames)
