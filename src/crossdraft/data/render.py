"""Events to pictures, as EventGPT was trained to see them.

Source: the public EventGPT repository (XduSyL/EventGPT, CVPR 2025), preprocessing of events; the ``study`` variant
is how a later fork rendered the same clips. Both are red and blue dots on white, they differ in who wins a shared
pixel.
"""

from typing import Literal

import numpy as np
from jaxtyping import UInt8

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import EventStream

RenderVariant = Literal["official", "study"]

WHITE = 255
BLUE = (0, 0, 255)  # darker, p = 0
RED = (255, 0, 0)  # brighter, p = 1


def render_event_images(
    events: EventStream,
    num_images: int = 5,
    variant: RenderVariant = "official",
    canvas: tuple[int, int] | Literal["sensor"] | None = None,
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Split a recording by event count and draw each part.

    The N events are cut, in their order, into ``num_images`` parts of floor(N / num_images) events; the last part
    takes the remainder. Brighter events are red, darker ones blue, on white.

    Args:
        events: the recording.
        num_images: how many parts; EventGPT's published preprocessing uses 5.
        variant: "official": the last event at a pixel wins. "study": darker events are drawn over brighter ones, so
            blue wins wherever both fell.
        canvas: None: a part's picture is (max y + 1, max x + 1) *of that part*, as published. "sensor": the sensor
            size, or an explicit (width, height).

    Returns:
        ``num_images`` uint8 pictures (H, W, 3); sizes differ between parts unless a canvas is given.

    Raises:
        DataError: fewer events than parts. SettingError: unknown variant, or a canvas that the events leave.
    """
    if variant not in ("official", "study"):
        raise SettingError(f"rendering variant '{variant}' is unknown; use 'official' or 'study'")
    if num_images < 1:
        raise SettingError(f"num_images is {num_images}, must be 1 or more")
    if len(events) < num_images:
        raise DataError(f"{events.name}: {len(events)} events cannot fill {num_images} images; take a longer span")
    size = len(events) // num_images
    starts = [i * size for i in range(num_images)]
    stops = [*starts[1:], len(events)]
    return [_render(events, start, stop, variant, canvas) for start, stop in zip(starts, stops, strict=True)]


def _render(
    events: EventStream,
    start: int,
    stop: int,
    variant: RenderVariant,
    canvas: tuple[int, int] | Literal["sensor"] | None,
) -> UInt8[np.ndarray, "H W 3"]:
    x, y, p = events.x[start:stop], events.y[start:stop], events.p[start:stop]
    needed = int(x.max()) + 1, int(y.max()) + 1
    width, height = needed if canvas is None else events.sensor_size if canvas == "sensor" else canvas
    if width < needed[0] or height < needed[1]:
        raise SettingError(f"a canvas of {width}x{height} does not hold events that reach {needed[0]}x{needed[1]}")
    # one index per pixel: 0 untouched, 1 darker, 2 brighter. numpy assigns repeated indices in order, so the last
    # event at a pixel stays, which is the published rule
    codes = np.zeros(height * width, np.uint8)
    pixels = y.astype(np.int64) * width + x
    if variant == "official":
        codes[pixels] = p + 1
    else:
        codes[pixels[p == 1]] = 2
        codes[pixels[p == 0]] = 1
    palette = np.array([(WHITE, WHITE, WHITE), BLUE, RED], np.uint8)
    return palette[codes].reshape(height, width, 3)
