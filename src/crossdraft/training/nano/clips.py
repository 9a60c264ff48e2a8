"""Training clips of the built-in pair: pictures, labels for the eyes, questions and answers; cached on disk.

Splits are by stream: every split draws its stream seeds from a range of its own, far from the small seeds that
people type, so that neither a demo nor a benchmark ever shows a training stream.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crossdraft.core.seeds import seed_for
from crossdraft.data.events import render_event_images
from crossdraft.data.scenes import (
    COLOURS,
    DAYLIGHTS,
    HEADINGS,
    KINDS,
    PLACES,
    SIGNALS,
    SIZE,
    SPEEDS,
    ObjectState,
    SceneClip,
    make_stream,
)
from crossdraft.data.scenes.stream import MIN_HEIGHT_PX, VISIBLE_SHARE

SPLIT_SEEDS = {"train": 41_000_000, "validation": 42_000_000, "test": 43_000_000}
CLIPS_OF_A_STREAM = 20
CLIP_STEP = 3  # clips overlap by half; every third one shares no picture with the next
GRID = 6
NUM_FRAMES = 8
NUM_EVENT_IMAGES = 5
MAX_COUNT = 7
LABEL_SHARE = 0.3  # an object must be at least this visible to be asked of a patch

# columns of a patch's label; classes are 0 = none, i + 1 = entry i of the scene's vocabulary
KIND, COLOUR, HEADING, SPEED, DX, DY, WIDTH, HEIGHT, RANK = range(9)
# columns of a picture's label
COUNT, DAYLIGHT, PLACE, SIGNAL, NEAR_KIND, NEAR_COLOUR, NEAR_HEADING, NEAR_SPEED = range(8)


@dataclass(frozen=True)
class ClipKey:
    """Which clip of which stream."""

    seed: int
    index: int
    kind: str = "drive"

    def clip(self) -> SceneClip:
        """Make the clip."""
        return make_stream(self.seed, CLIPS_OF_A_STREAM * CLIP_STEP, self.kind).clip(self.index)


def split_keys(split: str, num_clips: int) -> list[ClipKey]:
    """The first ``num_clips`` clips of a split, stream by stream."""
    base = SPLIT_SEEDS[split]
    return [ClipKey(base + i // CLIPS_OF_A_STREAM, i % CLIPS_OF_A_STREAM * CLIP_STEP) for i in range(num_clips)]


def label_picture(clip: SceneClip, t_us: int) -> tuple[np.ndarray, np.ndarray]:
    """What a picture at ``t_us`` shows: (36, 9) float32 per patch and (8,) int64 for the whole picture.

    A patch is labelled with the nearest object whose box centre it holds; centres outside the picture count for the
    patch at the edge.
    """
    patches = np.zeros((GRID * GRID, 9), np.float32)
    counted = 0
    nearest: ObjectState | None = None
    for state in clip.objects_at(t_us):
        if state.visible < LABEL_SHARE:
            continue
        rank = 0
        if state.visible >= VISIBLE_SHARE and state.h >= MIN_HEIGHT_PX:
            counted += 1
            rank = counted
            nearest = nearest or state
        cell = SIZE // GRID
        column = int(np.clip(state.cx // cell, 0, GRID - 1))
        row = int(np.clip(state.cy // cell, 0, GRID - 1))
        patch = patches[row * GRID + column]
        if patch[KIND]:
            continue
        patch[:] = (
            KINDS.index(state.kind) + 1, COLOURS.index(state.colour) + 1, HEADINGS.index(state.heading) + 1,
            SPEEDS.index(state.speed) + 1, state.cx / cell - column - 0.5, state.cy / cell - row - 0.5,
            state.w / 48, state.h / 48, min(rank, MAX_COUNT),
        )  # fmt: skip
    era = clip.world.era_at(t_us * 1e-6)
    whole = np.array(
        [min(counted, MAX_COUNT), DAYLIGHTS.index(era.daylight), PLACES.index(era.place),
         SIGNALS.index(clip.world.signal_at(t_us * 1e-6)),
         KINDS.index(nearest.kind) + 1 if nearest else 0, COLOURS.index(nearest.colour) + 1 if nearest else 0,
         HEADINGS.index(nearest.heading) + 1 if nearest else 0, SPEEDS.index(nearest.speed) + 1 if nearest else 0],
        np.int64,
    )  # fmt: skip
    return patches, whole


def _video_of(key: ClipKey) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    clip = key.clip()
    frames = clip.frames(NUM_FRAMES)
    labels = [label_picture(clip, int(t)) for t in clip.frame_times_us(NUM_FRAMES)]
    return frames, np.stack([p for p, _ in labels]), np.stack([w for _, w in labels])


def _events_of(key: ClipKey) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    clip = key.clip()
    events = clip.events()
    images = render_event_images(events, NUM_EVENT_IMAGES)
    part = len(events) // NUM_EVENT_IMAGES
    labels = []
    for i in range(NUM_EVENT_IMAGES):
        last = len(events) - 1 if i == NUM_EVENT_IMAGES - 1 else (i + 1) * part - 1
        labels.append(label_picture(clip, int((events.t_us[i * part] + events.t_us[last]) // 2)))
    square = np.stack([_square(image) for image in images])
    return square, np.stack([p for p, _ in labels]), np.stack([w for _, w in labels])


def _square(image: np.ndarray) -> np.ndarray:
    """The picture as CLIP preprocessing would size it, still uint8 (a part with an empty rim is smaller)."""
    if image.shape[:2] == (SIZE, SIZE):
        return image
    from crossdraft.data.images import centre_crop, resize_shortest_edge

    return centre_crop(resize_shortest_edge(image, SIZE), SIZE)


def roughen(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames (F, 96, 96, 3) uint8 as they come back from lossy video: 4:2:0 JPEG at a drawn quality."""
    from io import BytesIO

    quality = int(rng.integers(35, 95))
    out = np.empty_like(frames)
    for i, frame in enumerate(frames):
        buffer = BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=2)
        out[i] = np.asarray(Image.open(buffer))
    return out


def _questions_of(key: ClipKey) -> str:
    return json.dumps([asdict(qa) for qa in key.clip().questions()], default=sorted)


def _workers(function: Callable[[ClipKey], Any], keys: list[ClipKey], workers: int) -> Iterator[Any]:
    if workers < 2:
        yield from map(function, keys)
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap(function, keys, chunksize=CLIPS_OF_A_STREAM)


@dataclass(frozen=True)
class ClipSet:
    """Cached clips. pictures: (N, F, 96, 96, 3) uint8; patches: (N, F, 36, 9) float32; wholes: (N, F, 8) int64."""

    keys: list[ClipKey]
    pictures: np.ndarray
    patches: np.ndarray
    wholes: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def load_clips(
    folder: Path, split: str, sense: str, num_clips: int, *, workers: int = 2, rough_share: float = 0.3
) -> ClipSet:
    """Clips of a split seen by the ``video`` or by the ``events`` camera, made once and kept under ``folder``."""
    keys = split_keys(split, num_clips)
    stem = folder / f"{split}_{sense}_{num_clips}"
    names = {part: stem.with_name(f"{stem.name}_{part}.npy") for part in ("pictures", "patches", "wholes")}
    if not all(path.exists() for path in names.values()):
        folder.mkdir(parents=True, exist_ok=True)
        num = NUM_FRAMES if sense == "video" else NUM_EVENT_IMAGES
        pictures = np.empty((num_clips, num, SIZE, SIZE, 3), np.uint8)
        patches = np.empty((num_clips, num, GRID * GRID, 9), np.float32)
        wholes = np.empty((num_clips, num, 8), np.int64)
        made = _workers(_video_of if sense == "video" else _events_of, keys, workers)
        for i, (picture, patch, whole) in enumerate(made):
            rng = np.random.default_rng(seed_for(i, f"rough/{split}"))
            pictures[i] = roughen(picture, rng) if sense == "video" and rng.random() < rough_share else picture
            patches[i], wholes[i] = patch, whole
        for part, array in (("pictures", pictures), ("patches", patches), ("wholes", wholes)):
            np.save(names[part], array)
    arrays = {part: np.load(path, mmap_mode="r", allow_pickle=False) for part, path in names.items()}
    return ClipSet(keys, arrays["pictures"], arrays["patches"], arrays["wholes"])


def load_questions(folder: Path, split: str, num_clips: int, *, workers: int = 2) -> list[list[dict]]:
    """Questions and both models' answers for the first ``num_clips`` clips of a split, as plain mappings."""
    path = folder / f"{split}_questions_{num_clips}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = list(_workers(_questions_of, split_keys(split, num_clips), workers))
        partial = path.with_suffix(".part")
        partial.write_text("\n".join(lines) + "\n")
        partial.rename(path)
    with path.open() as file:
        return [json.loads(line) for line in file]
