"""The reference that measurements run beside says what our decoder says."""

import pytest
import torch

from crossdraft.bench.twin import transformers_twin
from crossdraft.nn.decoder import Decoder, DecoderConfig


@pytest.mark.parametrize("tied", [False, True])
def test_the_twin_gives_our_logits(tied):
    torch.manual_seed(0)
    decoder = Decoder(
        DecoderConfig(
            vocab_size=97, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2,
            head_dim=8, max_positions=64, tie_embeddings=tied,
        )
    ).eval()  # fmt: skip
    ids = torch.randint(97, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = decoder.unembed(decoder(decoder.embed_tokens(ids))[0])
        theirs = transformers_twin(decoder, "cpu", torch.float32)(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
