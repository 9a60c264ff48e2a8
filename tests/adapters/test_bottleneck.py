import pytest
import torch

from crossdraft.adapters import build_adapter

WIDTH = 32


@pytest.mark.parametrize("name", ["l1", "l2", "l3", "l3_2block"])
def test_it_starts_as_the_input_normed(name: str) -> None:
    adapter = build_adapter(name, width_in=WIDTH, width_out=WIDTH).double()
    x = 3 * torch.randn(2, 4, WIDTH, dtype=torch.float64) + 1
    normed = torch.layer_norm(x, (WIDTH,))
    if name.startswith("l3"):
        normed = torch.layer_norm(normed, (WIDTH,))
    # also with dropout on: there is nothing yet to drop
    torch.testing.assert_close(adapter(x), normed, atol=1e-12, rtol=0)
    scales = [float(v.detach()) for k, v in adapter.named_parameters() if k.endswith("scale")]
    assert scales == pytest.approx([0.1] * len(adapter.blocks))


def test_settings_change_the_level() -> None:
    slim = build_adapter("l1", width_in=WIDTH, width_out=WIDTH)
    wide = build_adapter("l1", width_in=WIDTH, width_out=WIDTH, hidden_ratio=2, num_blocks=2)
    assert slim.blocks[0].down.out_features == 2
    assert len(wide.blocks) == 2 and wide.blocks[0].down.out_features == 16
