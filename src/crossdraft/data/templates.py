"""Prompt formats per model family, as data. ``<media>`` stands where the pictures or events are spliced in.

Sources: LLaVA (Liu et al., 2023) and Vicuna v1 conversation format; Video-LLaVA (Lin et al., 2023) model card;
EventGPT (CVPR 2025) inference format.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from crossdraft.core.errors import DataError

MEDIA = "<media>"

_VICUNA = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


@dataclass(frozen=True)
class Template:
    """How a question and the turns before it become one text.

    first, later: a user's turn with ``{question}``; ``{media}`` only in the first. answer: an earlier ``{answer}``.
    """

    first: str
    later: str
    answer: str

    def render(self, question: str, history: Sequence[tuple[str, str]] = (), media: str = "") -> str:
        """The text up to the point where the model answers.

        media: what stands for the pictures, usually ``MEDIA``; empty for a text-only prompt.
        Raises DataError when a turn itself contains a media mark.
        """
        turns = [*history, (question, "")]
        for text in (t for turn in turns for t in turn):
            if any(mark in text for mark in (MEDIA, "<image>", "<video>", "<event>")):
                raise DataError(
                    "the prompt contains <image>, <video> or <event>; leave these marks out, they are set for you"
                )
        text = ""
        for i, (asked, answered) in enumerate(turns):
            text += (self.later if i else self.first).format(media=media, question=asked)
            if i < len(history):
                text += self.answer.format(answer=answered)
        return text


TEMPLATES = {
    "video_llava": Template("USER: {media}{question} ASSISTANT:", "USER: {question} ASSISTANT:", " {answer}</s>"),
    "llava": Template("USER: {media}{question} ASSISTANT:", "USER: {question} ASSISTANT:", " {answer}</s>"),
    "llava_next": Template(
        _VICUNA + " USER: {media}{question} ASSISTANT:", "USER: {question} ASSISTANT:", " {answer}</s>"
    ),
    "llava_next_mistral": Template(
        "[INST] {media}{question} [/INST]", " [INST] {question} [/INST]", " {answer}</s>"
    ),
    "eventgpt": Template(
        _VICUNA + " USER: {media}{question} ASSISTANT:", "USER: {question} ASSISTANT:", " {answer}</s>"
    ),
    "plain": Template("{media}{question}\n", "{question}\n", "{answer}\n"),
}
