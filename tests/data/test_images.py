import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.data.images import anyres_tiles, clip_preprocess, pad_to_square, select_resolution

GRIDS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([14, 28, 33]))
def test_clip_preprocessing_equals_transformers(height, width, size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = picture(height, width, height * 91 + width)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})(
        [image], return_tensors="pt", input_data_format="channels_last"
    )["pixel_values"]
    mine = clip_preprocess([image], size)
    assert mine.dtype == torch.float32 and mine.shape == (1, 3, size, size)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_llava_padding_equals_transformers():
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    processor = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    for height, width in ((40, 61), (61, 40), (30, 30), (33, 32)):
        image = picture(height, width)
        theirs = processor([image], return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        torch.testing.assert_close(clip_preprocess([pad_to_square(image)], 28), theirs, rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 150), st.integers(4, 150))
def test_any_resolution_tiles_equal_transformers(height, width):
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    image = picture(height, width, height * 151 + width)
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=GRIDS
    )
    theirs = processor([image], return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]
    mine = clip_preprocess(anyres_tiles(image, GRIDS, 32), 32)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
)
def test_the_chosen_grid_equals_transformers(height, width, cells):
    from transformers.image_processing_utils import select_best_resolution

    grids = [(336 * rows, 336 * columns) for rows, columns in cells]
    assert select_resolution((height, width), grids) == select_best_resolution((height, width), grids)


def test_grids_that_cannot_work():
    with pytest.raises(SettingError, match="empty"):
        anyres_tiles(picture(10, 10), [], 32)
    with pytest.raises(SettingError, match="no multiple"):
        anyres_tiles(picture(10, 10), [[33, 64]], 32)


def test_pictures_of_different_sizes_go_together():
    batch = clip_preprocess([picture(30, 50), picture(64, 64)], 28)
    torch.testing.assert_close(batch[1:], clip_preprocess(picture(64, 64)[None], 28), rtol=0, atol=0)
