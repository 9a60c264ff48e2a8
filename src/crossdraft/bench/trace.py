"""One request in pictures and words: what both cameras saw, who drafted what, what was kept, what ran when."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, Drafter, DraftSession, Needs, Tokenizer, Window
from crossdraft.core.tree import path_to
from crossdraft.core.types import Draft, Generation
from crossdraft.data.render import render_event_images
from crossdraft.decode.wrapped import WrappedSession

LANES = {"begin": "drafter", "draft": "drafter"}
"""Who did what; everything else is the target's work."""

NOTHING = Draft.chain([])

_SHOWN = {"first": "prefill"}
_NUM_FRAMES, _NUM_EVENT_IMAGES, _PIXELS = 4, 5, 160


class _WatchedSession(WrappedSession):
    def __init__(self, inner: DraftSession, drafts: list[Draft]) -> None:
        super().__init__(inner)
        self.drafts = drafts

    def propose(self, room: int) -> Draft:
        draft = self.inner.propose(room)
        self.drafts.append(draft)
        return draft


class Watched:
    """A drafter whose drafts are written down: ``drafts`` holds those of the last request, one list a round."""

    def __init__(self, inner: Drafter) -> None:
        self.inner = inner
        self.name: str = inner.name
        self.needs: Needs = inner.needs
        self.drafts: list[Draft] = []

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> DraftSession:
        """The inner drafter's session, watched."""
        self.drafts = []
        return _WatchedSession(self.inner.begin(prompt, target, window), self.drafts)


def trace_of(
    name: str, answer: Generation, drafts: Sequence[Draft], tokenizer: Tokenizer, drafter: str
) -> dict[str, Any]:
    """One method's side of a trace, ready for JSON: the pieces of text of every round, and the timeline in ms.

    drafts: what was proposed in each round; the last one is missing where nothing was left to draft. Of a tree the
    accepted path comes first, then its other nodes in their order.
    drafter: what the lane of the drafter is called.
    """
    said = list(answer.tokens[: len(answer.tokens) - sum(r.emitted for r in answer.rounds)])
    first = _pieces(tokenizer, [], said)
    proposals = iter(drafts)
    rounds = []
    for r in answer.rounds:
        draft = next(proposals, NOTHING)
        kept = list(answer.tokens[len(said) : len(said) + r.emitted])
        rounds.append(
            {
                "source": r.source,
                "drafted": _drafted(tokenizer, said, draft, kept[: r.accepted]),
                "accepted": r.accepted,
                "bonus": "".join(_pieces(tokenizer, said + kept[: r.accepted], kept[r.accepted :])),
            }
        )
        said += kept
    timeline = [
        {
            "lane": drafter if LANES.get(what) == "drafter" else "target",
            "what": _SHOWN.get(what, what), "start_ms": start, "end_ms": end,
        }
        for what, start, end in sorted(answer.timeline, key=lambda span: span[1])
    ]  # fmt: skip
    return {
        "name": name, "total_ms": answer.total_ms, "rounds": rounds, "first": "".join(first), "timeline": timeline,
    }  # fmt: skip


def _drafted(tokenizer: Tokenizer, said: Sequence[int], draft: Draft, accepted: Sequence[int]) -> list[str]:
    """The text of every drafted token; of a tree each node's after its own path."""
    tokens, parents = draft.tokens.tolist(), draft.parents.tolist()
    if draft.is_chain:
        return _pieces(tokenizer, said, tokens)
    node, path = -1, []
    for token in accepted:
        node = next(child for child in draft.children(node) if tokens[child] == token)
        path.append(node)
    texts = []
    for node in [*path, *(n for n in range(len(tokens)) if n not in path)]:
        before = [tokens[n] for n in path_to(parents, node)]
        texts += _pieces(tokenizer, [*said, *before[:-1]], before[-1:])
    return texts


def _pieces(tokenizer: Tokenizer, before: Sequence[int], tokens: Sequence[int]) -> list[str]:
    """The text that each token adds; a token may add none (an end token, half a character)."""
    pieces, ids = [], list(before)
    whole = tokenizer.decode(ids)
    for token in tokens:
        ids.append(token)
        longer = tokenizer.decode(ids)
        pieces.append(longer[len(whole) :] if longer.startswith(whole) else tokenizer.decode([token]))
        whole = longer
    return pieces


def pictures_of(prompt: Prompt) -> dict[str, list[str]]:
    """A few frames and rendered event images of a clip, as JPEG data URIs."""
    frames: list[str] = []
    if prompt.video is not None:
        count = len(prompt.video)
        chosen = np.unique(np.linspace(0, count - 1, min(_NUM_FRAMES, count)).round().astype(int))
        frames = [_data_uri(prompt.video.frames[i]) for i in chosen]
    events: list[str] = []
    if prompt.events is not None:
        try:
            events = [
                _data_uri(image) for image in render_event_images(prompt.events, _NUM_EVENT_IMAGES, canvas="sensor")
            ]
        except DataError:
            events = []  # fewer events than pictures: there is nothing to show
    return {"frames": frames, "events": events}


def _data_uri(image: UInt8[np.ndarray, "H W 3"]) -> str:
    picture = Image.fromarray(np.ascontiguousarray(image))
    if max(picture.size) > _PIXELS:
        picture.thumbnail((_PIXELS, _PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
