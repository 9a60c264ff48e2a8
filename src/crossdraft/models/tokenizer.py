"""The tokenizer of a checkpoint, through transformers, cut down to what decoding needs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.weights import read_json
from crossdraft.data.templates import TEMPLATES

# byte-level vocabularies write a byte as itself where that can be printed, else as a letter from 256 on, in order
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = {chr(b): b for b in _PRINTED}
_BYTES |= {chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in _PRINTED)}
_ONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_level(token: str) -> bytes:
    """Bytes of a token of GPT-2's kind; an added one, which is plain text, may hold other letters."""
    return bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()


def _pieces(token: str) -> bytes:
    """Bytes of a token of SentencePiece's kind."""
    if found := _ONE_BYTE.fullmatch(token):
        return bytes.fromhex(found[1])
    return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


class TextTokenizer:
    """Ids of text and text of ids; implements ``core.protocols.Tokenizer``.

    bos: what prompts begin with, one id or none. Raises CheckpointError when the folder has no tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import PreTrainedTokenizerFast
        from transformers.utils import logging

        logging.set_verbosity_error()
        self.folder = folder
        if (folder / "tokenizer.json").is_file():
            kind: Any = PreTrainedTokenizerFast
        elif (folder / "tokenizer.model").is_file():
            from transformers import LlamaTokenizer

            kind = LlamaTokenizer
        else:
            raise CheckpointError(
                f"{folder} has no tokenizer.json and no tokenizer.model; copy the model's own there"
            )
        try:
            self._inner = kind.from_pretrained(str(folder))
        except Exception as error:  # the library raises whatever its parser of the day raises
            first = str(error).partition("\n")[0]
            raise CheckpointError(f"the tokenizer in {folder} cannot be read: {first}") from error
        settings = read_json(folder / "tokenizer_config.json", needed=False)
        bos_id: int | None = self._inner.bos_token_id
        self.bos: list[int] = [] if bos_id is None else [bos_id]
        self._adds_bos = settings.get("add_bos_token")

    def __len__(self) -> int:
        return len(self._inner)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` alone: no BOS is added; marks such as </s> inside the text become their ids."""
        return list(self._inner.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens``, special tokens left out."""
        return str(self._inner.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def id_of(self, token: str) -> int | None:
        """Id of a token of the vocabulary, or None."""
        found = self._inner.get_vocab().get(token)
        return None if found is None else int(found)

    def spellings(self) -> dict[bytes, int]:
        """Bytes of every ordinary token -> its id, however the vocabulary writes spaces and bytes.

        Marks such as </s> are left out; of tokens that spell the same, the last counts.
        """
        vocab: dict[str, int] = self._inner.get_vocab()
        marks = {i for i, token in self._inner.added_tokens_decoder.items() if token.special}
        spell = _byte_level if chr(256 + ord(" ")) in vocab else _pieces
        return {spell(token): i for token, i in sorted(vocab.items(), key=lambda entry: entry[1]) if i not in marks}

    @property
    def chat_template(self) -> bool:
        """Whether the checkpoint brings a chat template."""
        return bool(self._inner.chat_template)

    def chat(self, turns: Sequence[tuple[str, str]], question: str) -> list[int]:
        """Ids of a conversation by the checkpoint's own chat template, ready for the next answer."""
        messages = [
            {"role": role, "content": text}
            for asked, answered in turns
            for role, text in (("user", asked), ("assistant", answered))
        ]
        messages.append({"role": "user", "content": question})
        text = self._inner.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.encode(str(text))

    def opening(self) -> list[int]:
        """Ids of the chat template up to where the user's first words stand. SettingError without a template, and
        for one that does not hold the words as they are."""
        mark = "first words"
        text = ""
        if self.chat_template:
            text = str(self._inner.apply_chat_template([{"role": "user", "content": mark}], tokenize=False))
        if mark not in text:
            raise SettingError(
                "the checkpoint has no chat template that says where a user's words begin, so it cannot ask "
                "itself; give it prompts"
            )
        return self.encode(text[: text.index(mark)])

    def dialogue(self, question: str, turns: Sequence[tuple[str, str]]) -> list[int]:
        """Ids of a text-only prompt: by the chat template where there is one, else line by line."""
        if self.chat_template:
            return self.chat(turns, question)
        return self.plain(TEMPLATES["plain"].render(question, turns) if turns else question)

    def plain(self, text: str) -> list[int]:
        """Ids of a prompt without a template, with the BOS the tokenizer itself would add."""
        return list(self._inner.encode(text, add_special_tokens=self._adds_bos is not False))
