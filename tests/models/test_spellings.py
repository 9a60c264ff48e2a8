"""Vocabularies of both kinds spell their tokens in bytes that are those of the text."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from crossdraft.models.tokenizer import TextTokenizer

WORDS = ["The", " car", " drives", "\n", " naïve", "é", "\t", " ", "x"]


def byte_level(folder: Path) -> TextTokenizer:
    """GPT-2's kind: one letter for each byte."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    written = ["".join(piece for piece, _ in split.pre_tokenize_str(word)) for word in WORDS]
    vocab = {token: i for i, token in enumerate(["<s>", *written, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocab)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = split, decoders.ByteLevel()
    return save(inner, folder)


def pieces(folder: Path) -> TextTokenizer:
    """SentencePiece's kind: a bar for a space, and tokens for single bytes."""
    names = ["<s>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), *(w.replace(" ", "\u2581") for w in WORDS)]
    inner = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(names)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return save(inner, folder)


def save(inner: Tokenizer, folder: Path) -> TextTokenizer:
    folder.mkdir()
    inner.add_special_tokens(["<s>"])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    return TextTokenizer(folder)


def test_bytes_are_those_of_the_text(tmp_path: Path) -> None:
    for make in (byte_level, pieces):
        tokenizer = make(tmp_path / make.__name__)
        spelled = tokenizer.spellings()
        assert {word.encode() for word in WORDS} <= set(spelled)
        assert {bytes([b]) for b in range(256)} <= set(spelled)
        assert b"<s>" not in spelled
        for word in WORDS:
            assert tokenizer.decode([spelled[b"x"], spelled[word.encode()]]) == "x" + word
