"""Video-LLaVA: 8 frames through a video tower, 257 positions a frame (CLS kept); pictures through an image tower.

Source: Lin et al., "Video-LLaVA", arXiv 2311.10122; layout of the published checkpoint (towers in CLIP form).
"""

import numpy as np
from torch import Tensor

from crossdraft.models.llava import LlavaParts, LlavaTarget


class VideoLlavaParts(LlavaParts):
    """Two towers of the same shape, projector, decoder."""

    family = "video_llava"
    towers = ("video_tower", "image_tower")


class VideoLlavaTarget(LlavaTarget):
    """The RGB-video target. One frame alone is taken as a picture: image tower, CLS dropped, ``<image>``."""

    parts_class = VideoLlavaParts

    def look(self, frames: list[np.ndarray]) -> tuple[list[Tensor], str]:
        """All frames as one block (F * T, D) of the video tower; a single picture through the image tower."""
        pixels = self.preprocess(frames)
        if len(frames) == 1:
            return list(self.project("image_tower", pixels, self.keeps_cls)), "<image>"
        return [self.project("video_tower", pixels, True).flatten(0, 1)], "<video>"
