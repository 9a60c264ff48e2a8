"""Streams of clips: one second each, every half second, as in DSEC; ``cut`` makes each clip another scene."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import EventStream
from crossdraft.core.seeds import seed_for
from crossdraft.data.events import make_stream as make_event_stream
from crossdraft.data.scenes.grammar import QA, questions
from crossdraft.data.scenes.phrases import View
from crossdraft.data.scenes.render import camera_frames
from crossdraft.data.scenes.sense import sense
from crossdraft.data.scenes.world import SIZE, STRIDE_S, Era, ObjectState, World

CLIP_US, STRIDE_US, FPS = 1_000_000, round(STRIDE_S * 1_000_000), 20
VISIBLE_SHARE, MIN_HEIGHT_PX = 0.5, 9.0


@dataclass(frozen=True)
class SceneClip:
    """One second of a stream; pictures, events and facts are made when asked for.

    Times given to its methods are microseconds on the stream's clock, start_us <= t < end_us.
    """

    world: World = field(repr=False)
    index: int
    start_us: int
    end_us: int
    name: str

    @property
    def middle_us(self) -> int:
        """The time at which the clip's facts hold."""
        return (self.start_us + self.end_us) // 2

    def frame_times_us(self, num: int | None = None) -> np.ndarray:
        """Times of the 20 frames of the clip's video, or of ``num`` of them as Video-LLaVA samples them."""
        every = self.start_us + np.arange(FPS) * (1_000_000 // FPS)
        return every if num is None else every[np.linspace(0, FPS - 1, num).astype(int)]

    def frames(self, num: int | None = 8, times_us: np.ndarray | None = None) -> np.ndarray:
        """(F, 96, 96, 3) uint8 RGB; all 20 of the video for ``num=None``, or at ``times_us`` if given."""
        times_us = self.frame_times_us(num) if times_us is None else np.asarray(times_us)
        return camera_frames(self.world, times_us * 1e-6)

    def events(self) -> EventStream:
        """What the event camera saw of the clip."""
        x, y, t_us, p = sense(self.world, self.start_us, self.end_us)
        return make_event_stream(x, y, t_us, p, (SIZE, SIZE), self.name)

    def objects_at(self, t_us: int) -> list[ObjectState]:
        """Every object with any part in the picture at ``t_us``, nearest first (labels for training eyes)."""
        return self.world.objects_at(t_us * 1e-6)

    def visible_objects(self) -> list[ObjectState]:
        """The objects the clip's facts are about, nearest first.

        An object counts if, at the middle of the clip, at least half of its box is inside the picture and under no
        nearer box, and it is at least 9 px high.
        """
        return [o for o in self.objects_at(self.middle_us) if o.visible >= VISIBLE_SHARE and o.h >= MIN_HEIGHT_PX]

    def view(self) -> View:
        """What questions are asked about."""
        era = self.era
        return View(tuple(self.visible_objects()), era.daylight, era.place, self.signal, era.pan_px_s)

    def questions(self) -> list[QA]:
        """Twelve questions with the target's and the event model's answers."""
        return questions(self.view())

    @property
    def era(self) -> Era:
        """Place, daylight and camera motion at the middle of the clip."""
        return self.world.era_at(self.middle_us * 1e-6)

    @property
    def signal(self) -> str:
        """The traffic light at the middle of the clip: stop, go or none."""
        return self.world.signal_at(self.middle_us * 1e-6)


@dataclass(frozen=True)
class Stream:
    """``num_clips`` clips of one recording (``drive``) or of as many unrelated scenes (``cut``)."""

    seed: int
    num_clips: int
    kind: str
    name: str

    def __len__(self) -> int:
        return self.num_clips

    def clip(self, index: int) -> SceneClip:
        """Clip ``index``; any clip can be made without the others."""
        if not 0 <= index < self.num_clips:
            raise SettingError(f"clip {index} of stream {self.name}: it has clips 0 to {self.num_clips - 1}")
        start = index * STRIDE_US
        if self.kind == "cut":
            world = _world(seed_for(self.seed, f"cut/{index}"), start * 1e-6 + 2.0)
        else:
            world = _world(self.seed, self.num_clips * 0.5 + 1.0)
        return SceneClip(world, index, start, start + CLIP_US, f"{self.name}/{index:06d}")


@lru_cache(maxsize=64)
def _world(seed: int, duration_s: float) -> World:
    return World(seed_for(seed, "world"), duration_s)


def make_stream(seed: int, num_clips: int, kind: str = "drive") -> Stream:
    """A stream of ``num_clips`` clips; different seeds are unrelated streams.

    Raises:
        SettingError: an unknown kind or no clips.
    """
    if kind not in ("drive", "cut"):
        raise SettingError(f"stream kind is {kind!r}, must be drive or cut")
    if num_clips < 1:
        raise SettingError(f"a stream of {num_clips} clips, must have 1 or more")
    return Stream(seed, num_clips, kind, f"{kind}_{seed:06d}")
