"""The packaged pair looks: a few held-out clips, pooled; docs/nano.md has the figures over many."""

import numpy as np
import pytest
import torch

from crossdraft.models import load_vlm
from crossdraft.models.nano import nano_dir
from crossdraft.training.nano.evaluate import fact_shares, held_out_clips

SEEN = {"target": ("colour", "kind", "direction", "count"), "event": ("direction", "speed")}


def pooled(figures: dict, names: tuple[str, ...], what: str) -> float:
    """Share over all facts of ``names``."""
    weights = [figures["facts"][name] for name in names]
    return float(np.average([figures[what][name] for name in names], weights=weights))


@pytest.mark.parametrize("role", ["target", "event"])
def test_it_states_what_its_camera_shows(role):
    model = load_vlm(nano_dir(role), dtype=torch.float32)
    clips = held_out_clips(6, clips_of_a_stream=2)
    figures = fact_shares(model, role, clips, kinds=("nearest", "count"))
    assert figures["answers"] == 12
    names = tuple(name for name in SEEN[role] if name in figures["facts"])
    right = pooled(figures, names, "right")
    assert right >= 0.7 and right > pooled(figures, names, "chance_constant") + 0.25


def test_with_its_frames_blanked_the_target_knows_nothing():
    model = load_vlm(nano_dir("target"), dtype=torch.float32)
    figures = fact_shares(model, "target", held_out_clips(2), blank=True, kinds=("nearest", "count"))
    names = tuple(name for name in SEEN["target"] if name in figures["facts"])
    assert pooled(figures, names, "right") <= pooled(figures, names, "chance_constant") + 0.1
