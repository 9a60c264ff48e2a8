"""From a world to pictures: sprites drawn once as vectors, resampled with exact area filters, painted far to near.

Boxes only scale and shift, so resampling is separable: two small matrices per object and time. The same code gives
the RGB frames (20 a second) and the high-rate luminance from which events are simulated.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from crossdraft.data.scenes.sprites import SPRITE, sprite
from crossdraft.data.scenes.world import HORIZON, SIZE, Era, Track, World

PATCH = 50  # largest box side that is painted, px
NIGHT_GROUND = 0.30
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def _area_weights(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each sprite cell falls into each pixel of a PATCH-wide strip.

    start, length: (T,) px. Returns first pixel of the strip (T,) int and weights (T, PATCH, SPRITE) float32.
    """
    first = np.floor(start).astype(int)
    cell = length / SPRITE
    edges = (start - first)[:, None] + cell[:, None] * np.arange(SPRITE + 1)
    pixels = np.arange(PATCH)[None, :, None]
    low = np.maximum(edges[:, None, :-1], pixels)
    high = np.minimum(edges[:, None, 1:], pixels + 1)
    return first, np.clip(high - low, 0, None).astype(np.float32)


def _paint(canvas: np.ndarray, track: Track, times_s: np.ndarray, image: np.ndarray) -> None:
    """Put one object into (T, 96, 96, C) in place; image (SPRITE, SPRITE, C + 1), opacity last."""
    boxes = track.boxes(times_s)
    seen = (boxes[:, 4] > 0) & (boxes[:, 0] < SIZE) & (boxes[:, 0] + boxes[:, 2] > 0) & (boxes[:, 1] < SIZE)
    if not seen.any():
        return
    boxes, index = boxes[seen], np.flatnonzero(seen)
    left, across = _area_weights(boxes[:, 0], boxes[:, 2])
    top, down = _area_weights(boxes[:, 1], boxes[:, 3])
    channels = image.shape[-1]
    rows = down.reshape(-1, SPRITE) @ image.reshape(SPRITE, -1)
    rows = rows.reshape(len(index), PATCH, SPRITE, channels).swapaxes(1, 2).reshape(len(index), SPRITE, -1)
    patch = (across @ rows).reshape(len(index), PATCH, PATCH, channels).swapaxes(1, 2)  # (T, y, x, C + 1)
    patch *= boxes[:, 4].astype(np.float32)[:, None, None, None]
    for k, i in enumerate(index):
        x0, y0 = max(left[k], 0), max(top[k], 0)
        x1, y1 = min(left[k] + PATCH, SIZE), min(top[k] + PATCH, SIZE)
        if x1 <= x0 or y1 <= y0:
            continue
        part = patch[k, y0 - top[k] : y1 - top[k], x0 - left[k] : x1 - left[k]]
        target = canvas[i, y0:y1, x0:x1]
        target *= 1 - part[..., -1:]
        target += part[..., :-1]


TEXTURE_WIDTH = 512


@cache
def backdrop(place: str, night: bool, texture: int) -> np.ndarray:
    """(96, 512, 3) float32 panorama, periodic in x: sky, skyline and textured ground."""
    rng = np.random.default_rng([sum(map(ord, place)), texture])
    sky = np.array([126, 170, 222] if not night else [12, 16, 40], np.float32)
    out = np.empty((SIZE, TEXTURE_WIDTH, 3), np.float32)
    out[:HORIZON] = sky + np.linspace(0, 40 if not night else 14, HORIZON)[:, None, None].astype(np.float32)
    dim = NIGHT_GROUND if night else 1.0
    base = {"city": (112, 110, 112), "park": (104, 128, 84), "field": (150, 132, 98)}[place]
    grain = rng.normal(0, 1, (SIZE - HORIZON, TEXTURE_WIDTH)).astype(np.float32)
    smooth = (grain + np.roll(grain, 1, 1) + np.roll(grain, 2, 1) + np.roll(grain, 1, 0)) / 2
    near = np.linspace(0.82, 1.1, SIZE - HORIZON, dtype=np.float32)[:, None]
    out[HORIZON:] = (np.array(base, np.float32) * near[..., None] + 7 * smooth[..., None]) * dim
    picture = Image.fromarray(np.clip(out, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    x = 0
    while x < TEXTURE_WIDTH:
        wide = int(rng.integers(14, 34))
        tone = float(rng.uniform(0.7, 1.1)) * (0.34 if night else 1.0)
        if place == "city":
            top = int(rng.integers(6, 24))
            draw.rectangle((x, top, x + wide - 2, HORIZON), fill=tuple(int(v * tone) for v in (134, 118, 112)))
            for wx in range(x + 3, x + wide - 5, 6):
                for wy in range(top + 3, HORIZON - 3, 7):
                    lit = night and rng.random() < 0.4
                    window = (208, 180, 96) if lit else tuple(int(v * tone) for v in (86, 92, 108))
                    draw.rectangle((wx, wy, wx + 2, wy + 3), fill=window)
        elif place == "park":
            top = int(rng.integers(12, 22))
            draw.rectangle((x + wide // 2 - 1, top + 8, x + wide // 2 + 1, HORIZON),
                           fill=tuple(int(v * tone) for v in (92, 66, 46)))  # fmt: skip
            draw.ellipse((x, top - 6, x + wide - 3, top + 14), fill=tuple(int(v * tone) for v in (58, 112, 56)))
        else:
            top = int(rng.integers(26, 33))
            draw.polygon([(x - 6, HORIZON), (x + wide // 2, top), (x + wide + 6, HORIZON)],
                         fill=tuple(int(v * tone) for v in (118, 126, 104)))  # fmt: skip
        x += wide
    for x in range(0, TEXTURE_WIDTH, 64):  # dashed line on the ground
        draw.rectangle((x, 80, x + 22, 81), fill=tuple(int(v * dim) for v in (186, 184, 174)))
    return np.asarray(picture, np.float32)


def _background(panorama: np.ndarray, era: Era, times_s: np.ndarray) -> np.ndarray:
    """(T, 96, 96, C): the panorama at the camera's pan; the skyline drifts half as fast as the ground."""
    frames = np.empty((len(times_s), SIZE, SIZE, panorama.shape[-1]), np.float32)
    wrapped = np.concatenate([panorama, panorama[:, : SIZE + 2]], 1)
    for i, t in enumerate(times_s):
        for rows, factor in ((slice(0, HORIZON), 0.5), (slice(HORIZON, SIZE), 1.0)):
            shift = (era.pan_offset + era.pan_px_s * factor * t) % TEXTURE_WIDTH
            whole = int(shift)
            part = np.float32(shift - whole)
            left = wrapped[rows, whole : whole + SIZE + 1]
            frames[i, rows] = left[:, :-1] * (1 - part) + left[:, 1:] * part
    return frames


def _paint_signal(
    canvas: np.ndarray, era: Era, world: World, times_s: np.ndarray, weights: np.ndarray | None
) -> None:
    """A traffic light that hangs into the picture; ``weights`` turns its colours into luminance."""
    if era.signal_side == "none":
        return
    x = 8 if era.signal_side == "left" else SIZE - 17
    for i, t in enumerate(times_s):
        lit = world.signal_at(float(t))
        inks = ((0, 18, (40, 40, 44)), (2, 9, (255, 40, 30) if lit == "stop" else (60, 16, 14)),
                (10, 17, (40, 255, 80) if lit == "go" else (14, 52, 20)))  # fmt: skip
        for k, (y0, y1, ink) in enumerate(inks):
            value = np.array(ink, np.float32)
            box = canvas[i, 2 + y0 : 2 + y1, x + (k > 0) : x + 9 - (k > 0)]
            box[:] = value if weights is None else value @ weights


def render(world: World, times_s: np.ndarray, luminance: bool = False) -> np.ndarray:
    """Pictures of the world at ``times_s`` (T,), without sensor noise.

    Returns (T, 96, 96, 3) float32 RGB 0-255, or (T, 96, 96) luminance.
    """
    times_s = np.asarray(times_s, np.float64)
    eras = [world.era_at(float(t)) for t in times_s]
    canvas = np.empty((len(times_s), SIZE, SIZE, 1 if luminance else 3), np.float32)
    for era in dict.fromkeys(eras):
        index = np.array([i for i, e in enumerate(eras) if e is era])
        canvas[index] = _render_era(world, era, times_s[index], luminance)
    return canvas[..., 0] if luminance else canvas


def _render_era(world: World, era: Era, times_s: np.ndarray, luminance: bool) -> np.ndarray:
    night = era.daylight == "night"
    panorama = backdrop(era.place, night, era.texture)
    canvas = _background(panorama @ LUMINANCE[:, None] if luminance else panorama, era, times_s)
    _paint_signal(canvas, era, world, times_s, LUMINANCE if luminance else None)
    middle = float(times_s.mean())
    tracks = world.tracks_between(float(times_s.min()), float(times_s.max()))
    for track in sorted(tracks, key=lambda k: (float(k.boxes(np.array([middle]))[0, [1, 3]].sum()), -k.number)):
        image = sprite(track.kind, track.colour, track.heading, night)
        if luminance:
            image = np.concatenate([image[..., :3] @ LUMINANCE[:, None], image[..., 3:]], -1)
        _paint(canvas, track, times_s, image)
    return canvas


@cache
def _grain() -> np.ndarray:
    return np.random.default_rng(20).normal(0, 2.0, (3 * SIZE, 3 * SIZE, 3)).astype(np.float32)


def camera_frames(world: World, times_s: np.ndarray) -> np.ndarray:
    """(T, 96, 96, 3) uint8: ``render`` plus a camera's noise (sigma 2), which depends on seed and time alone."""
    frames = render(world, times_s)
    grain = _grain()
    for frame, t in zip(frames, times_s, strict=True):
        stamp = hash((world.seed, round(float(t) * 1e6)))
        y, x = stamp % (2 * SIZE), (stamp // 1009) % (2 * SIZE)
        frame += grain[y : y + SIZE, x : x + SIZE]
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)
