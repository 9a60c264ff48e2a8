"""Image preprocessing of CLIP and LLaVA, on PIL and numpy alone.

Written to give the very numbers of transformers' PIL image processors (a parity test holds them together), without
torchvision. PIL's bicubic filter works on uint8, so resizing happens before any conversion to float.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from crossdraft.core.errors import SettingError

# OpenAI's CLIP (Radford et al., 2021); LLaVA, Video-LLaVA and EventGPT use the same
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_preprocess(
    frames: UInt8[np.ndarray, "N H W 3"] | Sequence[UInt8[np.ndarray, "H W 3"]],
    size: int = 224,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> Float[Tensor, "N 3 size size"]:
    """Shortest edge to ``size`` (bicubic), centre crop, x 1/255, mean, std.

    Args:
        frames: uint8 RGB pictures; a sequence may hold different sizes.
        size: edge in pixels of the square that comes out.
        mean, std: per channel, of values in 0..1.

    Returns:
        float32 (N, 3, size, size), equal to transformers' CLIP image processor with its PIL backend.
    """
    return torch.stack([_normalise(centre_crop(resize_shortest_edge(f, size), size), mean, std) for f in frames])


def resize_shortest_edge(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "h w 3"]:
    """Bicubic resize so that the shorter edge is ``size``; the longer one is cut to a whole pixel, as published."""
    height, width = image.shape[:2]
    longer = int(size * max(height, width) / min(height, width))
    return resize(image, (size, longer) if height <= width else (longer, size))


def resize(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Bicubic resize to size = (height, width)."""
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def centre_crop(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The middle ``size`` x ``size`` pixels; a smaller picture is laid on black."""
    height, width = image.shape[:2]
    if height < size or width < size:
        padded = np.zeros((max(height, size), max(width, size), 3), np.uint8)
        top, left = math.ceil((padded.shape[0] - height) / 2), math.ceil((padded.shape[1] - width) / 2)
        padded[top : top + height, left : left + width] = image
        # the crop is placed by the picture's own middle, so odd margins round as in transformers
        row, column = (height - size) // 2 + top, (width - size) // 2 + left
        return padded[max(0, row) : row + size, max(0, column) : column + size]
    row, column = (height - size) // 2, (width - size) // 2
    return image[row : row + size, column : column + size]


def _normalise(
    image: UInt8[np.ndarray, "H W 3"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "3 H W"]:
    # 1/255 in float64, then float32: the order of roundings that transformers has
    scaled = (image.transpose(2, 0, 1).astype(np.float64) * (1 / 255)).astype(np.float32)
    shift, spread = np.array(mean, np.float32)[:, None, None], np.array(std, np.float32)[:, None, None]
    return torch.from_numpy((scaled - shift) / spread)


def pad_to_square(
    image: UInt8[np.ndarray, "H W 3"], colour: tuple[int, int, int] | None = None
) -> UInt8[np.ndarray, "S S 3"]:
    """The picture in the middle of a square of its longer edge, as LLaVA-1.5 was trained ("pad").

    colour: of the margins; None: CLIP's mean colour, which normalises to about zero.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    if colour is None:
        colour = (int(CLIP_MEAN[0] * 255), int(CLIP_MEAN[1] * 255), int(CLIP_MEAN[2] * 255))
    square = np.empty((side, side, 3), np.uint8)
    square[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def select_resolution(size: tuple[int, int], candidates: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The candidate (height, width) that keeps most of the picture's pixels, and among those wastes fewest.

    Source: LLaVA-NeXT (Liu et al., 2024), any resolution. Raises SettingError if there is no candidate.
    """
    height, width = size
    best, best_rank = None, (-1, 0)
    for rows, columns in candidates:
        scale = min(columns / width, rows / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        rank = kept, -(rows * columns - kept)
        if rank > best_rank:
            best, best_rank = (int(rows), int(columns)), rank
    if best is None:
        raise SettingError("the list of tile grids is empty; the checkpoint's image_grid_pinpoints must name some")
    return best


def anyres_tiles(
    image: UInt8[np.ndarray, "H W 3"], grid_pinpoints: Sequence[Sequence[int]], tile_size: int
) -> UInt8[np.ndarray, "N tile tile 3"]:
    """LLaVA-NeXT's any-resolution tiles: the whole picture squeezed into one tile, then its grid, row by row.

    The picture is scaled into the best of ``grid_pinpoints`` ((height, width) each, multiples of ``tile_size``)
    without changing its proportions, laid in the middle of black, and cut. ``clip_preprocess(tiles, tile_size)``
    then gives what transformers' LlavaNextImageProcessor gives.

    Raises:
        SettingError: no grids, or one that is no multiple of the tile.
    """
    height, width = image.shape[:2]
    rows, columns = select_resolution((height, width), grid_pinpoints)
    if rows % tile_size or columns % tile_size:
        raise SettingError(
            f"a grid of {rows}x{columns} is no multiple of the tile {tile_size}; check the checkpoint"
        )
    scale_w, scale_h = columns / width, rows / height
    if scale_w < scale_h:
        fitted = min(math.ceil(height * scale_w), rows), columns
    else:
        fitted = rows, min(math.ceil(width * scale_h), columns)
    canvas = np.zeros((rows, columns, 3), np.uint8)
    top, left = (rows - fitted[0]) // 2, (columns - fitted[1]) // 2
    canvas[top : top + fitted[0], left : left + fitted[1]] = resize(image, fitted)
    tiles = canvas.reshape(rows // tile_size, tile_size, columns // tile_size, tile_size, 3).swapaxes(1, 2)
    base = resize(image, (tile_size, tile_size))[None]
    return np.concatenate([base, tiles.reshape(-1, tile_size, tile_size, 3)])
