"""What exists in a scene and where it is at a time: a pure function of (seed, time), so any clip stands alone.

A world is a list of tracks (objects that enter, pass and leave) and a list of eras (place, daylight, camera pan).
Every track is a closed formula of time; nothing is integrated, so nothing has to be played back from the start.

Picture coordinates: 96 x 96 px, x to the right, y down, horizon at y = 36. Objects move in picture coordinates:
``left``/``right`` cross the picture in a lane, ``towards`` grows and moves down, ``away`` shrinks and moves up.
"""

from dataclasses import dataclass

import numpy as np

from crossdraft.core.seeds import seed_for

SIZE = 96
HORIZON = 36
KINDS = ("car", "bus", "truck", "person", "cyclist", "dog")
COLOURS = ("red", "green", "blue", "yellow", "white", "purple")
HEADINGS = ("left", "right", "towards", "away")
SPEEDS = ("slow", "quick")
PLACES = ("city", "park", "field")
DAYLIGHTS = ("day", "night")
SIGNALS = ("stop", "go", "none")

# width and height of a kind, in units of its scale, seen from the side and from the front or back
SIDE_SHAPE = {
    "car": (1.35, 0.72),
    "bus": (1.6, 0.95),
    "truck": (1.5, 0.9),
    "person": (0.55, 1.15),
    "cyclist": (1.0, 1.05),
    "dog": (1.0, 0.72),
}
FRONT_SHAPE = {
    "car": (0.95, 0.82),
    "bus": (0.85, 1.15),
    "truck": (0.95, 1.1),
    "person": (0.6, 1.15),
    "cyclist": (0.55, 1.1),
    "dog": (0.6, 0.8),
}
# picture speeds: px/s in a lane, and share of the way from the horizon to the camera per second
LANE_SPEED = {"slow": (9.0, 14.0), "quick": (44.0, 58.0)}
DEPTH_SPEED = {"slow": (0.11, 0.15), "quick": (0.42, 0.52)}
# bottom edge and scale of the three lanes
LANES = ((55.0, 15.0), (71.0, 20.0), (91.0, 25.0))
FAR_U, NEAR_U = -0.05, 1.13
# behind CLOSE_U the way goes by CLOSE_RUSH times as fast: what is about to pass the camera passes quickly, so that
# half an object is a rare sight
CLOSE_U, CLOSE_RUSH = 1.0, 3.0
TRIES = 12
FADE_S = 0.4
STRIDE_S = 0.5  # clips begin every half second, and their middles lie at multiples of it
WARM_UP_S = 16.0
WANTED = (0.33, 0.18, 0.19, 0.3)  # how often 1, 2, 3, 4 objects are wanted; what is seen is then nearly even
MIN_HEIGHT_PX = 8.5


@dataclass(frozen=True)
class ObjectState:
    """One object at one time. Boxes are in px of the 96 x 96 picture and may reach over its edge.

    visible: share of the object's box that is inside the picture and under no nearer object's box, 0-1.
    order: 0 is the nearest object (the lowest bottom edge), then outwards.
    """

    kind: str
    colour: str
    heading: str
    speed: str
    cx: float
    cy: float
    w: float
    h: float
    visible: float
    order: int
    track: int

    @property
    def bottom(self) -> float:
        """The lower edge of the box; the greater, the nearer."""
        return self.cy + self.h / 2


@dataclass(frozen=True)
class Track:
    """One object's whole life. ``place``: lane objects: x at ``begin_s``; depth objects: x at the horizon.

    rate: px/s in a lane (signed), share of the depth path per second (signed) otherwise.
    """

    number: int
    kind: str
    colour: str
    heading: str
    speed: str
    begin_s: float
    end_s: float
    start: float
    rate: float
    bottom: float
    scale: float
    spread: float

    @property
    def in_lane(self) -> bool:
        """Whether the object crosses the picture rather than moves along the line of sight."""
        return self.heading in ("left", "right")

    def boxes(self, times_s: np.ndarray) -> np.ndarray:
        """(T, 5) float64: left, top, width, height, opacity (0 outside the object's life)."""
        times_s = np.asarray(times_s, np.float64)
        age = times_s - self.begin_s
        w: np.ndarray
        h: np.ndarray
        if self.in_lane:
            w, h = (np.full_like(age, v * self.scale) for v in SIDE_SHAPE[self.kind])
            cx = self.start + self.rate * age
            bottom = np.full_like(age, self.bottom)
            fade = np.ones_like(age)
        else:
            u = (FAR_U if self.rate > 0 else NEAR_U) + self.rate * age
            away_from_horizon = (u - FAR_U) / abs(self.rate)
            u = np.where(u > CLOSE_U, CLOSE_U + CLOSE_RUSH * (u - CLOSE_U), u)
            scale = 11.0 + 21.0 * u
            w, h = (v * scale for v in FRONT_SHAPE[self.kind])
            cx = self.start + self.spread * u
            bottom = 45.0 + 60.0 * u
            fade = np.clip(away_from_horizon / FADE_S, 0, 1)
        alive = (times_s >= self.begin_s) & (times_s <= self.end_s)
        return np.stack([cx - w / 2, bottom - h, w, h, fade * alive], 1)


@dataclass(frozen=True)
class Era:
    """A stretch of time in one place. pan_px_s: how fast the background drifts (positive: to the left)."""

    begin_s: float
    place: str
    daylight: str
    pan_px_s: float
    pan_offset: float
    signal_side: str
    signal_phase_s: float
    signal_period_s: float
    texture: int


class World:
    """Tracks and eras of ``duration_s`` seconds; everything follows from ``seed``."""

    def __init__(self, seed: int, duration_s: float):
        self.seed = seed
        self.duration_s = duration_s
        self.eras = _make_eras(np.random.default_rng(seed_for(seed, "eras")), duration_s)
        self.tracks = _make_tracks(np.random.default_rng(seed_for(seed, "tracks")), duration_s)

    def era_at(self, t_s: float) -> Era:
        """The era that ``t_s`` lies in."""
        return [e for e in self.eras if e.begin_s <= t_s or e is self.eras[0]][-1]

    def signal_at(self, t_s: float) -> str:
        """What the traffic light says: ``stop``, ``go``, or ``none`` where there is none."""
        era = self.era_at(t_s)
        if era.signal_side == "none":
            return "none"
        return "stop" if (t_s + era.signal_phase_s) % era.signal_period_s < era.signal_period_s / 2 else "go"

    def tracks_between(self, begin_s: float, end_s: float) -> list[Track]:
        """Tracks that live at some time of the span, in the order of their birth."""
        return [t for t in self.tracks if t.begin_s <= end_s and t.end_s >= begin_s]

    def objects_at(self, t_s: float) -> list[ObjectState]:
        """Every object with any part in the picture, nearest first."""
        found = []
        for track in self.tracks_between(t_s, t_s):
            x, y, w, h, opacity = track.boxes(np.array([t_s]))[0].tolist()
            if opacity > 0 and x < SIZE and x + w > 0 and y < SIZE:
                found.append((y + h, track, x, y, w, h, opacity))
        found.sort(key=lambda f: (-f[0], f[1].number))
        states = []
        covered = np.zeros((SIZE, SIZE), bool)
        for order, (_, track, x, y, w, h, opacity) in enumerate(found):
            xs, ys = np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5
            box = ((ys >= y) & (ys < y + h))[:, None] & ((xs >= x) & (xs < x + w))[None]
            visible = float((box & ~covered).sum() / max(w * h, 1.0) * opacity)
            covered |= box
            states.append(
                ObjectState(
                    track.kind, track.colour, track.heading, track.speed, x + w / 2, y + h / 2, w, h,
                    min(1.0, visible), order, track.number,
                )
            )  # fmt: skip
        return states


def _make_eras(rng: np.random.Generator, duration_s: float) -> list[Era]:
    """Place and light change every 12-30 s; the first era begins before the warm-up."""
    eras: list[Era] = []
    t = -WARM_UP_S
    daylight = str(rng.choice(DAYLIGHTS))
    while t < duration_s:
        side = str(rng.choice(("left", "right", "none")))
        pan = float(rng.uniform(4, 10) * rng.choice((-1, 1)))
        eras.append(
            Era(t, str(rng.choice(PLACES)), daylight, pan, float(rng.uniform(0, 512)), side,
                float(rng.uniform(0, 9)), float(rng.uniform(5, 9)), int(rng.integers(4)))
        )  # fmt: skip
        t += float(rng.uniform(12, 30)) + (WARM_UP_S if t < 0 else 0)
        if rng.random() < 0.6:
            daylight = "night" if daylight == "day" else "day"
    return eras


def _make_tracks(rng: np.random.Generator, duration_s: float) -> list[Track]:
    """Fill the picture with as many objects as wanted; how many are wanted changes every 2-6 s."""
    tracks: list[Track] = []
    wanted, wanted_until = 2, 0.0
    t = -WARM_UP_S
    while t < duration_s:
        if t >= wanted_until:
            wanted, wanted_until = int(rng.choice(4, p=WANTED)) + 1, t + float(rng.uniform(2, 6))
        alive = [k for k in tracks if k.end_s > t]
        if sum(_stays(k, t) for k in alive) < wanted:
            tracks.append(_make_track(rng, len(tracks), t, alive))
        t += 0.25
    return tracks


def _stays(track: Track, t: float) -> bool:
    """Whether the object will still count as seen in half a second (it may be about to enter)."""
    x, y, w, h, _ = track.boxes(np.array([t + 0.5]))[0]
    return bool(track.end_s > t + 0.5 and (t - track.begin_s < 1.0 or (0 < x + w / 2 < SIZE and y + h / 2 < SIZE)))


def _make_track(rng: np.random.Generator, number: int, t: float, alive: list[Track]) -> Track:
    """The first proposal that will hardly hide another object, else the one of ``TRIES`` that hides least."""
    best: tuple[float, Track] | None = None
    for _ in range(TRIES):
        track = _propose(rng, number, t)
        times = np.arange(t, track.end_s, 0.25)
        hidden = max((_overlap(track.boxes(times), other.boxes(times)) for other in alive), default=0.0)
        hidden += 0.2 * sum(o.kind == track.kind for o in alive)
        hidden += 0.1 * sum(o.colour == track.colour for o in alive)
        if best is None or hidden < best[0]:
            best = (hidden, track)
        if hidden < 0.06:
            break
    assert best is not None
    return best[1]


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over time of the intersection of two box lists as a share of the smaller box."""
    width = np.minimum(a[:, 0] + a[:, 2], b[:, 0] + b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 1] + a[:, 3], b[:, 1] + b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    area = np.clip(width, 0, None) * np.clip(height, 0, None) * (b[:, 4] > 0)
    return float((area / np.minimum(a[:, 2] * a[:, 3], b[:, 2] * b[:, 3])).mean()) if len(a) else 0.0


def _propose(rng: np.random.Generator, number: int, t: float) -> Track:
    """One object, its ways of moving weighted so that each is seen equally long."""
    ways = [(h, s) for h in HEADINGS for s in SPEEDS]
    seen_s = {("lane", "slow"): 11.5, ("lane", "quick"): 2.2, ("depth", "slow"): 13.5, ("depth", "quick"): 3.0}
    weights = np.array([1 / seen_s["lane" if h in ("left", "right") else "depth", s] for h, s in ways])
    heading, speed = ways[int(rng.choice(len(ways), p=weights / weights.sum()))]
    kind, colour = str(rng.choice(KINDS)), str(rng.choice(COLOURS))
    if heading in ("left", "right"):
        bottom, scale = LANES[int(rng.integers(3))]
        jitter = float(rng.uniform(-3, 3))
        crossing_s = SIZE / float(rng.uniform(*LANE_SPEED[speed]))
        if speed == "slow":
            crossing_s = round(crossing_s / STRIDE_S) * STRIDE_S
        rate = SIZE / crossing_s * (1 if heading == "right" else -1)
        half = SIDE_SHAPE[kind][0] * scale / 2
        start = -half if rate > 0 else SIZE + half
        life = (SIZE + 2 * half) / abs(rate)
        # its centre crosses the rim half-way between the middles of two clips: whether an object counts is then
        # never a matter of a pixel
        t += (STRIDE_S / 2 - t - half / abs(rate)) % STRIDE_S
        return Track(number, kind, colour, heading, speed, t, t + life, start, rate, bottom + jitter,
                     scale + jitter / 3, 0.0)  # fmt: skip
    rate = float(rng.uniform(*DEPTH_SPEED[speed])) * (1 if heading == "towards" else -1)
    start = float(rng.uniform(26, 70))
    spread = (start - SIZE / 2) * float(rng.uniform(0.3, 0.8))
    life = (NEAR_U - FAR_U) / abs(rate)
    return Track(number, kind, colour, heading, speed, t, t + life, start, rate, 0.0, 0.0, spread)
