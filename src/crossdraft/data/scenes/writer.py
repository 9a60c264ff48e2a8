"""Streams written to disk in EventGPT's instruction layout, to be read back by the reader that reads a user's data.

out/EventGPT_Instruction_Subset.json   one record a clip; conversations hold all twelve questions
out/event_npy/<stream>/<clip>.npz      p uint8, t int64 (us from the first frame), x, y uint16, sensor_size
out/mp4/<stream>/<clip>.mp4            H.264, 96 x 96, 20 fps
out/scenes.json                        seed, kind, sizes and the generator's version
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from crossdraft.core.errors import DataError, SettingError
from crossdraft.data.paired import EVENT_FOLDER, MP4_FOLDER, write_instruction_records
from crossdraft.data.scenes.stream import FPS, SceneClip, Stream, make_stream
from crossdraft.data.scenes.world import SIZE

# changes with every change of the pictures, the events or the words
GENERATOR_VERSION = 1
MANIFEST = "scenes.json"
# seeds of one data set's streams are SEED_STEP * seed + 0, 1, 2, ...
SEED_STEP = 1000

# (what, done, total)
Report = Callable[[str, int, int], None]


def split_of(number: int) -> str:
    """Split of a data set's stream ``number``: of ten streams eight are for training, then one each val and test.

    Splits go by stream, never by clip: neighbouring clips share half their pictures.
    """
    return {8: "val", 9: "test"}.get(number % 10, "train")


def streams_of(num_streams: int, num_clips: int, seed: int = 0, kind: str = "drive") -> list[Stream]:
    """The streams of one data set.

    Raises:
        SettingError: no streams, more than SEED_STEP of them, no clips, an unknown kind, a negative seed.
    """
    if not 1 <= num_streams <= SEED_STEP:
        raise SettingError(f"{num_streams} streams are asked for, must be 1 to {SEED_STEP}")
    if seed < 0:
        raise SettingError(f"seed is {seed}, must be 0 or more")
    return [make_stream(SEED_STEP * seed + i, num_clips, kind) for i in range(num_streams)]


def write_streams(
    out_dir: str | Path,
    num_streams: int = 1,
    num_clips: int = 32,
    seed: int = 0,
    kind: str = "drive",
    report: Report | None = None,
) -> int:
    """Write ``num_streams`` streams of ``num_clips`` clips; returns how many clips there are.

    Interrupted, it goes on where it stopped when called again with the same settings: clips appear whole or not at
    all, the index comes last.

    Raises:
        SettingError: as ``streams_of``.
        DataError: the folder holds a set made with other settings, or nothing can be written there.
    """
    streams = streams_of(num_streams, num_clips, seed, kind)
    out = Path(out_dir)
    manifest = {
        "generator_version": GENERATOR_VERSION, "seed": seed, "kind": kind, "num_streams": num_streams,
        "num_clips": num_clips, "streams": [s.name for s in streams], "sensor_size": [SIZE, SIZE], "fps": FPS,
    }  # fmt: skip
    try:
        out.mkdir(parents=True, exist_ok=True)
        _claim(out / MANIFEST, manifest)
        records: list[dict[str, Any]] = []
        for number, stream in enumerate(streams):
            for folder in (EVENT_FOLDER, MP4_FOLDER):
                (out / folder / stream.name).mkdir(parents=True, exist_ok=True)
            for i in range(num_clips):
                records.append(_write_clip(out, stream, stream.clip(i), split_of(number)))
                if report is not None:
                    report(f"clips of {stream.name}", len(records), num_streams * num_clips)
        write_instruction_records(out, records)
    except OSError as error:
        raise DataError(
            f"{out}: cannot write there ({error.strerror or error}); free space or give another folder"
        ) from None
    return len(records)


def _claim(path: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, or check that the one that is there is the same."""
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            known = None
        if known != manifest:
            raise DataError(
                f"{path}: belongs to a set made with other settings; choose another folder or remove it"
            )
        return
    _whole(path, lambda partial: partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8"))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a neighbour of ``path`` that takes its name when it is complete."""
    partial = path.with_name(f".partial.{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_clip(out: Path, stream: Stream, clip: SceneClip, split: str) -> dict[str, Any]:
    """Write what is missing of a clip's files; return its record."""
    stem = f"{stream.name}/{clip.index:06d}"
    events_path, video_path = out / EVENT_FOLDER / f"{stem}.npz", out / MP4_FOLDER / f"{stem}.mp4"
    if not events_path.exists():
        events = clip.events()
        _whole(
            events_path,
            lambda partial: np.savez_compressed(
                partial,
                p=events.p,
                t=events.t_us - clip.start_us,
                x=events.x,
                y=events.y,
                sensor_size=np.array(events.sensor_size),
            ),
        )
    if not video_path.exists():
        _whole(video_path, lambda partial: _encode(partial, clip.frames(None)))
    asked = clip.questions()
    turns = [t for qa in asked for t in (("human", f"<event>\n{qa.question}"), ("gpt", qa.answer))]
    return {
        "id": stem, "split": split, "event_data": f"{stem}.npz", "mp4_data": f"{stem}.mp4",
        "sensor_size": [SIZE, SIZE], "start_us": clip.start_us,
        "conversations": [{"from": who, "value": text} for who, text in turns],
        "questions": [qa.kind for qa in asked], "event_answers": [qa.event_answer for qa in asked],
        "facts": [qa.facts for qa in asked],
    }  # fmt: skip


def _encode(path: Path, frames: np.ndarray) -> None:
    """(F, H, W, 3) uint8 to H.264, near enough to lossless that small coloured things keep their colour."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.options = {"crf": "14", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
