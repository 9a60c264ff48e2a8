from typing import Any

from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Limits
from crossdraft.decode.loop import generate
from crossdraft.drafters.none import NoDraft
from crossdraft.verify.greedy import Greedy


def test_plain_decoding_is_the_targets_argmax_one_by_one(tiny: Any, prompt: Prompt) -> None:
    out = generate(tiny.target, NoDraft(), prompt, rule=Greedy(), limits=Limits(max_new_tokens=12))
    session = tiny.target.prefill(tiny.target.encode(prompt))
    text = list(session.prompt.tokens)
    for token in out.tokens:
        assert token == int(tiny.target.unembed(tiny.target.state(text)[None]).argmax())
        text.append(token)
    assert out.tau == 1.0 and out.num_drafted == 0 and len(out.rounds) == 11
    assert set(tiny.target.sessions[0].widths) == {1}
