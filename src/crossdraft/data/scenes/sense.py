"""Events as an event camera would report them for a world: a log-intensity threshold model.

Each pixel remembers the log intensity at its last event and reports a change by more than its threshold; times are
interpolated between pictures of a 160 fps rendering. Thresholds differ from pixel to pixel (one sensor, so always
alike); shot noise adds a few unrelated events. Model: Gallego et al., "Event-based Vision: A Survey", TPAMI
2022, section 2.4; the noise follows Hu et al., "v2e", CVPRW 2021, in its simplest form.
"""

from functools import cache

import numpy as np

from crossdraft.core.seeds import seed_for
from crossdraft.data.scenes.render import render
from crossdraft.data.scenes.world import SIZE, World

FPS = 160
THRESHOLD = 0.22
MISMATCH = 0.03
NOISE_HZ = 0.08
LOG_OFFSET = 12.0  # luminance added before the logarithm: the dark end of the sensor is linear


@cache
def _thresholds() -> tuple[np.ndarray, np.ndarray]:
    """(on, off) thresholds of the one sensor, (9216,) float32 each."""
    rng = np.random.default_rng(96)
    both = np.clip(rng.normal(THRESHOLD, MISMATCH, (2, SIZE * SIZE)), 0.1, 0.4).astype(np.float32)
    return both[0], both[1]


def sense(world: World, begin_us: int, end_us: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Events of [begin_us, end_us), sorted by time: x uint16, y uint16, t int64 (us), p uint8.

    The memory of each pixel starts at the first picture, shifted within its threshold by the seed, as if the
    recording had begun earlier.
    """
    num_steps = max(2, round((end_us - begin_us) * 1e-6 * FPS))
    times_us = np.linspace(begin_us, end_us, num_steps + 1)
    grey = render(world, times_us * 1e-6, luminance=True).reshape(num_steps + 1, -1)
    log: np.ndarray = np.log(grey + LOG_OFFSET)
    on, off = _thresholds()
    rng = np.random.default_rng([seed_for(world.seed, "events"), begin_us + 10**9])
    phase = rng.uniform(-1, 1, (SIZE * SIZE,))
    memory = log[0] + phase.astype(np.float32) * 0.5 * np.minimum(on, off)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for step in range(1, num_steps + 1):
        now, before = log[step], log[step - 1]
        for sign, threshold in ((1, on), (-1, off)):
            pixels = np.flatnonzero(sign * (now - memory) >= threshold)
            while len(pixels):
                level = memory[pixels] + sign * threshold[pixels]
                memory[pixels] = level
                share = np.clip((level - before[pixels]) / (now[pixels] - before[pixels] + 1e-12 * sign), 0, 1)
                when = times_us[step - 1] + share * (times_us[step] - times_us[step - 1])
                found.append((pixels, when, np.full(len(pixels), sign > 0, np.uint8)))
                pixels = pixels[sign * (now[pixels] - level) >= threshold[pixels]]
    num_noise = int(rng.poisson(NOISE_HZ * SIZE * SIZE * (end_us - begin_us) * 1e-6))
    found.append((rng.integers(0, SIZE * SIZE, num_noise), rng.uniform(begin_us, end_us, num_noise),
                  rng.integers(0, 2, num_noise).astype(np.uint8)))  # fmt: skip
    pixels, when, polarity = (np.concatenate(column) for column in zip(*found, strict=True))
    t_us = np.clip(when.astype(np.int64), begin_us, end_us - 1)
    order = np.argsort(t_us, kind="stable")
    return ((pixels % SIZE)[order].astype(np.uint16), (pixels // SIZE)[order].astype(np.uint16), t_us[order],
            polarity[order])  # fmt: skip
