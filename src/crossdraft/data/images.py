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
