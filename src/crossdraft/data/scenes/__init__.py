"""Procedural scenes: streams of one-second clips with RGB frames, events, labels, questions and answers.

    stream = make_stream(seed, num_clips, kind="drive")     # or "cut": every clip another scene
    clip = stream.clip(3)                                    # any clip alone; a pure function of (seed, time)
    clip.frames(8)                                           # (8, 96, 96, 3) uint8, sampled as Video-LLaVA samples
    clip.frames(times_us=...)                                # at any times of the stream's clock
    clip.events()                                            # EventStream, sensor 96 x 96
    clip.objects_at(t_us)                                    # list[ObjectState], nearest first
    clip.visible_objects(), clip.era.daylight, clip.era.place, clip.signal
    clip.questions()                                         # list[QA]
    grade(qa, text, role="target")                           # {fact category: bool} of a free answer
    write_streams(out_dir, num_streams, num_clips, seed)     # to disk, in EventGPT's instruction layout
    calibrate(streams)                                       # how predictable the answers are from their past

Vocabulary of the facts: KINDS, COLOURS, HEADINGS, SPEEDS, PLACES, DAYLIGHTS, SIGNALS in ``world``.
"""

from crossdraft.data.scenes.answers import QUESTIONS
from crossdraft.data.scenes.calibrate import Calibration, calibrate
from crossdraft.data.scenes.grammar import QA, grade
from crossdraft.data.scenes.stream import SceneClip, Stream, make_stream
from crossdraft.data.scenes.world import (
    COLOURS,
    DAYLIGHTS,
    HEADINGS,
    KINDS,
    PLACES,
    SIGNALS,
    SIZE,
    SPEEDS,
    ObjectState,
)
from crossdraft.data.scenes.writer import split_of, streams_of, write_streams

__all__ = [
    "COLOURS",
    "DAYLIGHTS",
    "HEADINGS",
    "KINDS",
    "PLACES",
    "QA",
    "QUESTIONS",
    "SIGNALS",
    "SIZE",
    "SPEEDS",
    "Calibration",
    "ObjectState",
    "SceneClip",
    "Stream",
    "calibrate",
    "grade",
    "make_stream",
    "split_of",
    "streams_of",
    "write_streams",
]
