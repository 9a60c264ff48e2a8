"""Training prompts, composed from templates and our own word lists by a seed: as many as one asks for.

They are of the kinds of the league's prompts and never one of those: the league's are written by hand.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from crossdraft.core.errors import SettingError
from crossdraft.core.seeds import seed_for
from crossdraft.data.prompts.passages import SCENES
from crossdraft.data.prompts.reader import KINDS, PromptRecord
from crossdraft.data.prompts.snippets import GENERAL, NAMES, PYTHON, SNIPPETS, Snippet
from crossdraft.data.prompts.words import WORDS

_SLOT = re.compile(r"\{([A-Za-z]+?)(\d?)\}")
_CODE_SLOT = re.compile(r"<(items|item|func|field|n|cls)>")
# the number of a list's item ends no sentence
_SENTENCE = re.compile(r".+?(?<!\d)[.!?][\"')*]*(?=\s|$)\s*", re.DOTALL)
_ABOUT_TEXTS = ("summarise", "rewrite", "question-answering")
_WORDS_OF_A_PASSAGE, _FEW_WORDS = 120, 25
# how often in a row a prompt may come out as an earlier one before we say that there are no more
_PATIENCE = 200

_SUMMARISE = (
    "Summarise the following text in {few} sentences or less:\n\n",
    "Summarize this text in one sentence.\n\n",
    "What are the main points of this text?\n\n",
    "Give me a short summary of the passage below.\n\n",
    "Please write a summary for {audience}:\n\n",
    "Write a headline and a two-sentence summary for this text:\n\n",
    "Sum up the following passage in plain words.\n\n",
    "List the key facts of this text as bullet points.\n\n",
    "Read the text and tell me in a few words what it is about.\n\n",
)
_REWRITE = (
    "Rewrite the following text so that it sounds more formal:\n\n",
    "Rewrite this text in simpler words:\n\n",
    "Make this text friendlier:\n\n",
    "Make the following text shorter without losing a fact:\n\n",
    "Rewrite this passage for {audience}:\n\n",
    "Correct the mistakes in this text and make it easier to read:\n\n",
    "Rewrite the text in the past tense:\n\n",
    "Turn the following text into a polite e-mail:\n\n",
    "Rewrite this text from the point of view of {person}:\n\n",
    "Say the same in a {tone} style:\n\n",
    "Turn this passage into a short news report:\n\n",
)
_QUESTIONS = (
    "What is {topic}?",
    "How does one explain {topic} to {audience}?",
    "Explain {topic} in simple terms.",
    "Explain {topic} in {count} sentences.",
    "Why is it important to know about {topic}?",
    "What is the difference between {versus}?",
    "How can I tell {versus} apart?",
    "Why {why}?",
    "Why {why}? Keep the answer short.",
    "How do I {skill}?",
    "What is the best way to {skill}?",
    "I want to {skill}. What should I do first, and what should I avoid?",
    "{fact}",
    "{fact} Answer in a full sentence.",
    "What do {animals} eat, and where do they live?",
    "How do {animals} find their food?",
    "How does {plant} grow?",
    "What can students learn from {subject}, even if they will never need it at work?",
    "How are {topic} and {topic2} related, if at all?",
    "Is {hobby} a good hobby for {audience}? Why or why not?",
    "What should a visitor know before travelling to {country} in {season}?",
    "How has {topic} changed the way people live?",
    "{name} has {small} apples and gives away half of them. How would you work out what is left?",
    "What would happen if there were no {animals} any more?",
)
_ABOUT = (
    "According to the text, who is mentioned and what do they want?",
    "What will happen next, according to this text?",
    "Which numbers does the text give, and what do they mean?",
    "Why did this happen? Answer from the text only.",
    "Where and when does this take place?",
)
_STORIES = (
    "Write a short story about {person} who {happens} {where}.",
    "Write a {tone} {genre} about {person} {where}.",
    "Tell me a {genre} about {animal} that {happens}.",
    "Write the first paragraph of a {genre} in which {person} {happens}.",
    "Write a {genre} about {animal} and {animal2} who learn about {lesson}.",
    "Write a {tone} story that begins with {person} and {object}.",
    "Tell a story in which {object} is found {where}. Use {count} short paragraphs.",
    "Write a dialogue between {person} and {person2} {where}.",
    "Write a {tone} poem about {object}.",
    "Describe {where} in {season} as if it were the beginning of a {genre}.",
    "Invent a {genre} for children that teaches {lesson}. The hero is {animal}.",
    "Write a story about {name}, {person}, who {happens}. End it with a surprise.",
    'Continue this story: {name} opened the door and saw {object}. "That was not here yesterday," said {name2}.',
    "Write a letter from {person} to {person2}, sent {where}.",
    "Write a {tone} scene {where}. It is {season}, and {person} {happens}.",
)
_CODE = ("Here is some {language} code:", "Look at this {language} code:", "I wrote this in {language}:",
         "Change the following {language} code.", "This {language} code works on my computer:",
         "Please edit this piece of {language}:")  # fmt: skip
_LANGUAGES = {
    "python": "Python",
    "javascript": "JavaScript",
    "sql": "SQL",
    "html": "HTML",
    "java": "Java",
    "c": "C",
}


def write_prompts(count: int, seed: int = 0) -> list[PromptRecord]:
    """``count`` distinct prompts, the kinds in turn; a longer list of the same seed begins with the shorter one.

    The group of a prompt is its template, scene or snippet, so that whole templates can be held out.
    SettingError when there are not so many.
    """
    rng = np.random.default_rng(seed_for(seed, "prompts"))

    def write(number: int, tried: int) -> tuple[str, str, str]:
        kind = KINDS[number % len(KINDS)]
        return kind, *_ask(kind, rng)

    return _distinct(f"written-{seed}", count, write)


def _distinct(name: str, count: int, write: Callable[[int, int], tuple[str, str, str]]) -> list[PromptRecord]:
    """``count`` training prompts of different questions. write: (made, tried so far) -> kind, group, question."""
    if count < 1:
        raise SettingError(f"the number of prompts is {count}, must be 1 or more")
    made: dict[str, PromptRecord] = {}
    tried = failed = 0
    while len(made) < count:
        kind, group, question = write(len(made), tried)
        tried += 1
        failed = failed + 1 if question in made else 0
        if failed > _PATIENCE:
            raise SettingError(f"only {len(made)} different prompts can be written, {count} are asked for")
        made.setdefault(question, PromptRecord(f"{name}-{len(made):05d}", kind, question, "training", group))
    return list(made.values())


def write_prompts_about(texts: Sequence[tuple[str, str]], count: int, seed: int = 0) -> list[PromptRecord]:
    """``count`` distinct prompts to summarise, to rewrite or to ask about some of ``texts``: (group, text) each.

    Texts and tasks are taken in turn; of a text no more than its first ``_WORDS_OF_A_PASSAGE`` words, to
    the end of a sentence. Texts of fewer than ``_FEW_WORDS`` words, and such as hold code, are left out.
    SettingError when there are not so many prompts.
    """
    passages = [(group, cut) for group, text in texts if (cut := _cut(text)) is not None]
    if not passages:
        raise SettingError(f"none of the {len(texts)} texts is long enough for a prompt about it")
    rng = np.random.default_rng(seed_for(seed, "prompts about"))
    order = rng.permutation(len(passages))

    def write(number: int, tried: int) -> tuple[str, str, str]:
        turn, place = divmod(tried, len(passages))
        group, passage = passages[order[place]]
        kind = _ABOUT_TEXTS[(place + turn) % len(_ABOUT_TEXTS)]
        return kind, group, _about(kind, passage, _Filler(rng))

    return _distinct(f"about-{seed}", count, write)


def _cut(text: str) -> str | None:
    """Whole sentences from the beginning of ``text``; None where it is no passage."""
    if "```" in text:
        return None
    kept = ""
    for sentence in _SENTENCE.findall(text.strip()):
        if len((kept + sentence).split()) > _WORDS_OF_A_PASSAGE:
            break
        kept += sentence
    return kept.strip() if len(kept.split()) >= _FEW_WORDS else None


def _about(kind: str, passage: str, filler: "_Filler") -> str:
    asked = {"summarise": _SUMMARISE, "rewrite": _REWRITE}.get(kind, _ABOUT)
    order = filler.fill(filler.one(asked))
    # half of the questions about a text come behind it
    return order + passage if order.endswith("\n\n") else f"{passage}\n\n{order}"


def _ask(kind: str, rng: np.random.Generator) -> tuple[str, str]:
    """Group and question of one prompt."""
    filler = _Filler(rng)
    if kind == "code-edit":
        return _code(filler)
    if kind in ("summarise", "rewrite") or (kind == "question-answering" and rng.random() < 0.2):
        scene, passage = _passage(filler)
        return f"{kind}/{scene}", _about(kind, passage, filler)
    lists = {"question-answering": _QUESTIONS, "story": _STORIES, "list": WORDS["listing"]}[kind]
    number = int(rng.integers(len(lists)))
    template = lists[number].replace("%", "{count}") if kind == "list" else lists[number]
    return f"{kind}/{number}", filler.fill(template)


def _passage(filler: "_Filler") -> tuple[str, str]:
    scene = filler.one(list(SCENES))
    chosen = [filler.one(variants) for variants in SCENES[scene]]
    # a sentence in the middle may be missing, so that lengths differ
    if len(chosen) > 4 and filler.rng.random() < 0.5:
        del chosen[int(filler.rng.integers(1, len(chosen) - 1))]
    return scene, filler.fill(" ".join(chosen))


def _code(filler: "_Filler") -> tuple[str, str]:
    number = int(filler.rng.integers(len(SNIPPETS)))
    snippet: Snippet = SNIPPETS[number]
    general = GENERAL + (PYTHON if snippet.language == "python" else ())
    ask = filler.one(snippet.asks if filler.rng.random() < 0.6 else general)
    named = {slot: filler.one(words) for slot, words in NAMES.items()}
    code, ask = (_CODE_SLOT.sub(lambda m: named[m[1]], text) for text in (snippet.code, ask))
    opening = filler.one(_CODE).replace("{language}", _LANGUAGES[snippet.language])
    block = f"```{snippet.language}\n{code}\n```"
    text = f"{ask}\n\n{block}" if filler.rng.random() < 0.4 else f"{opening}\n\n{block}\n\n{ask}"
    return f"code-edit/{number}", text


class _Filler:
    """Fills the slots of one prompt: the same slot with the same word, numbered slots with different ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.known: dict[str, str] = {}

    def one(self, choices: Sequence[str]) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def fill(self, template: str) -> str:
        return _SLOT.sub(self._slot, template)

    def _slot(self, match: re.Match[str]) -> str:
        name, number = match[1].lower(), match[2]
        key = name + number
        if key not in self.known:
            taken = {word for slot, word in self.known.items() if slot.rstrip("0123456789") == name}
            word = self.one([word for word in WORDS[name] if word not in taken])
            self.known[key] = self._inside(name, word)
        word = self.known[key]
        return word if match[1].islower() else word[0].upper() + word[1:]

    def _inside(self, name: str, word: str) -> str:
        # the words of two lists have a slot of their own
        if name == "fact" and "%country" in word:
            return word.replace("%country", self.fill("{country}"))
        if name == "happens" and "%" in word:
            return word.replace("%", self.fill("{object}"))
        return word
