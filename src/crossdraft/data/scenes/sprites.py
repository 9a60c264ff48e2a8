"""Objects drawn once as vectors: each kind from the side, the front and the back, in each colour, by day and night.

Windscreens and headlights are in front, tail lights and plates behind, so one picture tells where an object heads.
"""

from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SPRITE = 48
PAINT = {
    "red": (214, 38, 34),
    "green": (40, 176, 62),
    "blue": (44, 84, 226),
    "yellow": (244, 206, 36),
    "white": (240, 240, 240),
    "purple": (156, 54, 190),
}
NIGHT_OBJECT = 0.62
GLASS, RUBBER, SKIN, DARK = (150, 205, 235), (24, 24, 28), (226, 176, 140), (52, 46, 50)
LAMP, TAIL = (255, 246, 190), (255, 30, 20)

# Shapes in unit coordinates, drawn in this order: (form, (x0, y0, x1, y1) or polygon, ink). Ink "paint" is the
# object's own colour, "shade" a darker tone of it; "lamp" and "tail" shine at night.
_Shape = tuple[str, Any, str]
_SIDE: dict[str, list[_Shape]] = {
    "car": [
        ("poly", [(0.0, 0.82), (0.0, 0.5), (0.2, 0.42), (0.34, 0.08), (0.68, 0.08),
                 (0.8, 0.42), (1.0, 0.52), (1.0, 0.82)], "paint"),
        ("poly", [(0.56, 0.16), (0.66, 0.16), (0.76, 0.42), (0.56, 0.42)], "glass"),
        ("poly", [(0.37, 0.16), (0.52, 0.16), (0.52, 0.42), (0.28, 0.42)], "dark"),
        ("oval", (0.1, 0.62, 0.32, 1.0), "rubber"),
        ("oval", (0.68, 0.62, 0.9, 1.0), "rubber"),
        ("rect", (0.9, 0.5, 1.0, 0.66), "lamp"),
        ("rect", (0.0, 0.5, 0.07, 0.66), "tail"),
    ],
    "bus": [
        ("rect", (0.0, 0.02, 1.0, 0.86), "paint"),
        ("rect", (0.0, 0.6, 1.0, 0.68), "shade"),
        ("rect", (0.06, 0.14, 0.2, 0.44), "dark"),
        ("rect", (0.25, 0.14, 0.39, 0.44), "dark"),
        ("rect", (0.44, 0.14, 0.58, 0.44), "dark"),
        ("rect", (0.63, 0.14, 0.77, 0.44), "dark"),
        ("rect", (0.85, 0.1, 1.0, 0.56), "glass"),
        ("oval", (0.12, 0.72, 0.3, 1.0), "rubber"),
        ("oval", (0.7, 0.72, 0.88, 1.0), "rubber"),
        ("rect", (0.93, 0.68, 1.0, 0.8), "lamp"),
        ("rect", (0.0, 0.68, 0.05, 0.82), "tail"),
    ],
    "truck": [
        ("rect", (0.0, 0.68, 1.0, 0.84), "dark"),
        ("rect", (0.0, 0.0, 0.62, 0.7), "grey"),
        ("rect", (0.18, 0.0, 0.22, 0.7), "dark"),
        ("rect", (0.4, 0.0, 0.44, 0.7), "dark"),
        ("poly", [(0.66, 0.84), (0.66, 0.2), (0.88, 0.2), (1.0, 0.5), (1.0, 0.84)], "paint"),
        ("poly", [(0.78, 0.28), (0.87, 0.28), (0.95, 0.5), (0.78, 0.5)], "glass"),
        ("rect", (0.0, 0.0, 0.62, 0.1), "paint"),
        ("rect", (0.0, 0.56, 0.62, 0.7), "paint"),
        ("oval", (0.04, 0.7, 0.22, 1.0), "rubber"),
        ("oval", (0.26, 0.7, 0.44, 1.0), "rubber"),
        ("oval", (0.72, 0.7, 0.9, 1.0), "rubber"),
        ("rect", (0.94, 0.6, 1.0, 0.72), "lamp"),
        ("rect", (0.0, 0.7, 0.04, 0.8), "tail"),
    ],
    "person": [
        ("poly", [(0.4, 0.6), (0.6, 0.6), (0.34, 1.0), (0.12, 1.0)], "dark"),
        ("poly", [(0.42, 0.6), (0.66, 0.6), (0.94, 0.98), (0.74, 1.0)], "dark"),
        ("rect", (0.24, 0.24, 0.72, 0.64), "paint"),
        ("poly", [(0.55, 0.3), (0.7, 0.26), (0.98, 0.52), (0.86, 0.58)], "paint"),
        ("oval", (0.26, 0.0, 0.74, 0.23), "dark"),
        ("oval", (0.48, 0.03, 0.82, 0.22), "skin"),
    ],
    "cyclist": [
        ("ring", (0.0, 0.56, 0.42, 1.0), "rubber"),
        ("ring", (0.58, 0.56, 1.0, 1.0), "rubber"),
        ("poly", [(0.2, 0.74), (0.5, 0.62), (0.52, 0.7), (0.24, 0.82)], "grey"),
        ("poly", [(0.74, 0.4), (0.82, 0.4), (0.82, 0.78), (0.76, 0.78)], "grey"),
        ("poly", [(0.3, 0.54), (0.46, 0.54), (0.56, 0.84), (0.44, 0.86)], "dark"),
        ("poly", [(0.24, 0.58), (0.42, 0.18), (0.66, 0.22), (0.5, 0.6)], "paint"),
        ("poly", [(0.56, 0.24), (0.66, 0.24), (0.82, 0.42), (0.76, 0.46)], "paint"),
        ("oval", (0.48, 0.0, 0.76, 0.22), "skin"),
        ("poly", [(0.46, 0.1), (0.5, 0.0), (0.72, 0.0), (0.74, 0.08)], "paint"),
        ("rect", (0.84, 0.42, 0.92, 0.52), "lamp"),
    ],
    "dog": [
        ("rect", (0.14, 0.36, 0.74, 0.68), "paint"),
        ("poly", [(0.14, 0.44), (0.0, 0.1), (0.06, 0.06), (0.22, 0.36)], "paint"),
        ("rect", (0.16, 0.6, 0.25, 1.0), "paint"),
        ("rect", (0.3, 0.6, 0.38, 1.0), "shade"),
        ("rect", (0.54, 0.6, 0.62, 1.0), "shade"),
        ("rect", (0.66, 0.6, 0.75, 1.0), "paint"),
        ("poly", [(0.62, 0.4), (0.68, 0.08), (0.86, 0.08), (0.88, 0.22),
                 (1.0, 0.26), (1.0, 0.4), (0.8, 0.46), (0.74, 0.6)], "paint"),
        ("poly", [(0.66, 0.08), (0.74, 0.08), (0.7, 0.32), (0.62, 0.3)], "dark"),
        ("rect", (0.93, 0.24, 1.0, 0.32), "rubber"),
    ],
}  # fmt: skip
_FRONT: dict[str, list[_Shape]] = {
    "car": [
        ("rect", (0.04, 0.8, 0.24, 1.0), "rubber"),
        ("rect", (0.76, 0.8, 0.96, 1.0), "rubber"),
        ("poly", [(0.2, 0.06), (0.8, 0.06), (0.9, 0.44), (1.0, 0.5), (1.0, 0.88),
                 (0.0, 0.88), (0.0, 0.5), (0.1, 0.44)], "paint"),
        ("poly", [(0.25, 0.12), (0.75, 0.12), (0.84, 0.42), (0.16, 0.42)], "glass"),
        ("rect", (0.3, 0.68, 0.7, 0.8), "dark"),
        ("oval", (0.04, 0.52, 0.26, 0.74), "lamp"),
        ("oval", (0.74, 0.52, 0.96, 0.74), "lamp"),
    ],
    "bus": [
        ("rect", (0.06, 0.86, 0.26, 1.0), "rubber"),
        ("rect", (0.74, 0.86, 0.94, 1.0), "rubber"),
        ("rect", (0.0, 0.02, 1.0, 0.92), "paint"),
        ("rect", (0.2, 0.05, 0.8, 0.12), "lamp"),
        ("rect", (0.07, 0.16, 0.93, 0.52), "glass"),
        ("rect", (0.3, 0.66, 0.7, 0.74), "dark"),
        ("oval", (0.06, 0.66, 0.26, 0.84), "lamp"),
        ("oval", (0.74, 0.66, 0.94, 0.84), "lamp"),
    ],
    "truck": [
        ("rect", (0.06, 0.86, 0.28, 1.0), "rubber"),
        ("rect", (0.72, 0.86, 0.94, 1.0), "rubber"),
        ("rect", (0.0, 0.0, 1.0, 0.4), "grey"),
        ("rect", (0.0, 0.0, 1.0, 0.06), "paint"),
        ("rect", (0.1, 0.22, 0.9, 0.92), "paint"),
        ("rect", (0.18, 0.28, 0.82, 0.5), "glass"),
        ("rect", (0.3, 0.58, 0.7, 0.78), "grey"),
        ("rect", (0.12, 0.66, 0.27, 0.82), "lamp"),
        ("rect", (0.73, 0.66, 0.88, 0.82), "lamp"),
    ],
    "person": [
        ("rect", (0.27, 0.6, 0.46, 1.0), "dark"),
        ("rect", (0.54, 0.6, 0.73, 1.0), "dark"),
        ("rect", (0.22, 0.24, 0.78, 0.64), "paint"),
        ("rect", (0.04, 0.26, 0.2, 0.58), "paint"),
        ("rect", (0.8, 0.26, 0.96, 0.58), "paint"),
        ("oval", (0.28, 0.0, 0.72, 0.23), "dark"),
        ("oval", (0.31, 0.05, 0.69, 0.23), "skin"),
    ],
    "cyclist": [
        ("rect", (0.42, 0.6, 0.58, 1.0), "rubber"),
        ("rect", (0.24, 0.55, 0.4, 0.82), "dark"),
        ("rect", (0.6, 0.55, 0.76, 0.82), "dark"),
        ("poly", [(0.22, 0.2), (0.78, 0.2), (0.72, 0.58), (0.28, 0.58)], "paint"),
        ("rect", (0.0, 0.42, 1.0, 0.48), "grey"),
        ("oval", (0.3, 0.0, 0.7, 0.21), "skin"),
        ("poly", [(0.3, 0.09), (0.36, 0.0), (0.64, 0.0), (0.7, 0.09)], "paint"),
        ("oval", (0.38, 0.48, 0.62, 0.62), "lamp"),
    ],
    "dog": [
        ("rect", (0.2, 0.6, 0.4, 1.0), "paint"),
        ("rect", (0.6, 0.6, 0.8, 1.0), "paint"),
        ("oval", (0.14, 0.3, 0.86, 0.86), "shade"),
        ("oval", (0.18, 0.04, 0.82, 0.6), "paint"),
        ("poly", [(0.06, 0.1), (0.26, 0.02), (0.26, 0.42), (0.08, 0.4)], "dark"),
        ("poly", [(0.94, 0.1), (0.74, 0.02), (0.74, 0.42), (0.92, 0.4)], "dark"),
        ("oval", (0.36, 0.34, 0.64, 0.58), "skin"),
        ("rect", (0.44, 0.38, 0.56, 0.48), "rubber"),
    ],
}  # fmt: skip
_BACK: dict[str, list[_Shape]] = {
    "car": [
        ("rect", (0.04, 0.8, 0.24, 1.0), "rubber"),
        ("rect", (0.76, 0.8, 0.96, 1.0), "rubber"),
        ("poly", [(0.2, 0.06), (0.8, 0.06), (0.9, 0.4), (1.0, 0.46), (1.0, 0.88),
                 (0.0, 0.88), (0.0, 0.46), (0.1, 0.4)], "paint"),
        ("poly", [(0.29, 0.14), (0.71, 0.14), (0.78, 0.34), (0.22, 0.34)], "dark"),
        ("rect", (0.36, 0.64, 0.64, 0.76), "white"),
        ("rect", (0.0, 0.48, 0.24, 0.66), "tail"),
        ("rect", (0.76, 0.48, 1.0, 0.66), "tail"),
    ],
    "bus": [
        ("rect", (0.06, 0.86, 0.26, 1.0), "rubber"),
        ("rect", (0.74, 0.86, 0.94, 1.0), "rubber"),
        ("rect", (0.0, 0.02, 1.0, 0.92), "paint"),
        ("rect", (0.24, 0.12, 0.76, 0.32), "dark"),
        ("rect", (0.16, 0.5, 0.84, 0.56), "shade"),
        ("rect", (0.16, 0.62, 0.84, 0.68), "shade"),
        ("rect", (0.0, 0.7, 0.2, 0.86), "tail"),
        ("rect", (0.8, 0.7, 1.0, 0.86), "tail"),
    ],
    "truck": [
        ("rect", (0.06, 0.84, 0.28, 1.0), "rubber"),
        ("rect", (0.72, 0.84, 0.94, 1.0), "rubber"),
        ("rect", (0.0, 0.0, 1.0, 0.74), "paint"),
        ("rect", (0.1, 0.08, 0.47, 0.68), "grey"),
        ("rect", (0.53, 0.08, 0.9, 0.68), "grey"),
        ("rect", (0.0, 0.74, 1.0, 0.86), "dark"),
        ("rect", (0.0, 0.74, 0.18, 0.86), "tail"),
        ("rect", (0.82, 0.74, 1.0, 0.86), "tail"),
    ],
    "person": [
        ("rect", (0.27, 0.6, 0.46, 1.0), "dark"),
        ("rect", (0.54, 0.6, 0.73, 1.0), "dark"),
        ("rect", (0.22, 0.24, 0.78, 0.64), "paint"),
        ("rect", (0.04, 0.26, 0.2, 0.58), "paint"),
        ("rect", (0.8, 0.26, 0.96, 0.58), "paint"),
        ("rect", (0.32, 0.28, 0.68, 0.54), "shade"),
        ("oval", (0.28, 0.0, 0.72, 0.23), "dark"),
    ],
    "cyclist": [
        ("rect", (0.42, 0.6, 0.58, 1.0), "rubber"),
        ("rect", (0.24, 0.55, 0.4, 0.82), "dark"),
        ("rect", (0.6, 0.55, 0.76, 0.82), "dark"),
        ("poly", [(0.22, 0.2), (0.78, 0.2), (0.72, 0.6), (0.28, 0.6)], "paint"),
        ("rect", (0.36, 0.28, 0.64, 0.46), "shade"),
        ("oval", (0.3, 0.0, 0.7, 0.21), "paint"),
        ("rect", (0.4, 0.6, 0.6, 0.7), "tail"),
    ],
    "dog": [
        ("rect", (0.2, 0.6, 0.4, 1.0), "shade"),
        ("rect", (0.6, 0.6, 0.8, 1.0), "shade"),
        ("oval", (0.2, 0.02, 0.8, 0.44), "shade"),
        ("oval", (0.12, 0.22, 0.88, 0.86), "paint"),
        ("poly", [(0.46, 0.5), (0.54, 0.5), (0.66, 0.06), (0.56, 0.02)], "dark"),
    ],
}  # fmt: skip


def _ink(name: str, paint: tuple[int, int, int], night: bool) -> tuple[int, ...]:
    fixed = {
        "glass": GLASS, "rubber": RUBBER, "skin": SKIN, "dark": DARK,
        "grey": (168, 168, 172), "white": (230, 230, 230),
        "paint": paint, "shade": tuple(int(v * 0.62) for v in paint),
    }  # fmt: skip
    if name == "lamp":
        return LAMP if night else (250, 244, 214)
    if name == "tail":
        return TAIL if night else (168, 20, 16)
    return tuple(int(v * NIGHT_OBJECT) for v in fixed[name]) if night else fixed[name]


@cache
def sprite(kind: str, colour: str, heading: str, night: bool) -> np.ndarray:
    """(SPRITE, SPRITE, 4) float32: premultiplied RGB 0-255 and opacity 0-1."""
    shapes = {"towards": _FRONT, "away": _BACK}.get(heading, _SIDE)[kind]
    big = SPRITE * 4
    image = Image.new("RGBA", (big, big), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    for form, where, name in shapes:
        ink = (*_ink(name, PAINT[colour], night), 255)
        if form == "poly":
            draw.polygon([(x * big, y * big) for x, y in where], fill=ink)
            continue
        x0, y0, x1, y1 = (v * (big - 1) for v in where)
        if form == "rect":
            draw.rectangle((x0, y0, x1, y1), fill=ink)
        elif form == "oval":
            draw.ellipse((x0, y0, x1, y1), fill=ink)
        else:
            draw.ellipse((x0, y0, x1, y1), outline=ink, width=big // 11)
    if heading == "left":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    data = np.asarray(image, np.float32).reshape(SPRITE, 4, SPRITE, 4, 4)
    opacity = data[..., 3:] / 255
    return np.concatenate([data[..., :3] * opacity, opacity], -1).mean((1, 3))
