"""Make a corpus of instruction records with duplicates that are known: `python benchmarks/corpus.py --records 100000`.

Lengths are lognormal (81 words in the median, 140 on average), the languages eight. Most records are originals; the
others are exact copies, copies with other white space, edited copies, and relatives that share a long preamble without
being duplicates. Every line follows from the seed and its number alone, so a longer corpus begins with the shorter
one, and memory does not grow. Words are invented: the corpus resembles real data in its sizes, not in its sense.
"""

import argparse
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson

MEDIAN_WORDS, SPREAD = 81, 1.05
LONGEST_WORDS = 20_000
VOCABULARY = 30_000
# Share of lines of each kind; the rest are originals.
KINDS = {"exact": 0.04, "normalised": 0.02, "edited": 0.07, "relative": 0.03}
FAMILIES = 50
LANGUAGES = {
    "en": (0.60, "b c d f g h l m n p r s t v w th st", "a e i o u ea", " "),
    "de": (0.08, "b d f g h k l m n r s t w z sch", "a e i o u ä ö ü ei", " "),
    "es": (0.08, "b c d f g l m n p r s t v", "a e i o u ó í", " "),
    "ru": (0.06, "б в г д ж з к л м н п р с т", "а е и о у я ы", " "),  # noqa: RUF001
    "ar": (0.03, "ب ت ج د ر س ع ق ل م ن", "ا و ي", " "),  # noqa: RUF001
    "zh": (0.07, 0x4E00, 3000, ""),
    "ja": (0.05, 0x4E00, 1500, ""),
    "ko": (0.03, 0xAC00, 2000, " "),
}
BOILERPLATE = (
    "Certainly! Here is the answer to your question:",
    "I hope this helps. Let me know if anything is unclear.",
)
FORMATS = ("messages", "prompt_completion", "instruction", "text")
SINGLE = re.compile("([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])")


@dataclass(frozen=True, slots=True)
class Line:
    """A record and what it is a copy of: ``of`` is a line number from 1, 0 for an original."""

    line: int
    kind: str
    of: int
    language: str
    prompt: list[str]
    answer: list[str]

    @property
    def joiner(self) -> str:
        """What stands between two tokens."""
        return LANGUAGES[self.language][3]

    def texts(self) -> tuple[str, str]:
        """Return prompt and answer as text."""
        prompt, answer = (self.joiner.join(tokens) for tokens in (self.prompt, self.answer))
        if self.kind == "normalised":
            return f" {prompt}\r\n", answer.replace(" ", "\u00a0 " if self.line % 2 else "  ") + "\n\n"
        return prompt, answer


@functools.cache
def vocabulary(language: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of a language and their cumulative frequencies (Zipf)."""
    _, first, second, _ = LANGUAGES[language]
    if isinstance(first, int):
        tokens = [chr(first + 5 * index) for index in range(int(second))]
        tokens += [chr(0x3042 + index) for index in range(60)] if language == "ja" else []
    else:
        heads, tails = first.split(), str(second).split()
        rng = np.random.default_rng(sum(map(ord, language)))
        parts = rng.integers(0, len(heads) * len(tails), (2 * VOCABULARY, 4))
        lengths = rng.integers(1, 5, 2 * VOCABULARY)
        syllable = [head + tail for head in heads for tail in tails]
        made = ("".join(syllable[part] for part in row[:length]) for row, length in zip(parts, lengths, strict=True))
        tokens = list(dict.fromkeys(made))[:VOCABULARY]
    order = np.random.default_rng(1).permutation(len(tokens))
    weights = 1 / (np.arange(len(tokens)) + 5.0)
    return np.array(tokens, object)[order], np.cumsum(weights / weights.sum())


def tokens_of(language: str, count: int, rng: np.random.Generator) -> list[str]:
    """Return ``count`` random tokens in sentences of about 12, with a line end here and there."""
    tokens, frequencies = vocabulary(language)
    found = tokens[np.minimum(np.searchsorted(frequencies, rng.random(count)), len(tokens) - 1)].tolist()
    stop = "。" if LANGUAGES[language][3] == "" else "."
    for end in np.cumsum(rng.integers(5, 20, count // 12 + 1)).tolist():
        if end < count:
            found[end] += stop + ("\n" if end % 7 == 0 else "")
    return found


@functools.lru_cache(maxsize=4096)
def original(seed: int, number: int) -> Line:
    """Return the original on line ``number``."""
    rng = np.random.default_rng((seed, 0, number))
    shares = np.cumsum([share for share, *_ in LANGUAGES.values()])
    language = list(LANGUAGES)[min(int(np.searchsorted(shares, rng.random())), len(LANGUAGES) - 1)]
    count = int(np.clip(rng.lognormal(np.log(MEDIAN_WORDS), SPREAD), 4, LONGEST_WORDS))
    asked = max(2, int(count * rng.uniform(0.1, 0.5)))
    tokens = tokens_of(language, count, rng)
    return Line(number, "original", 0, language, tokens[:asked], tokens[asked:])


def kind_of(seed: int, number: int) -> tuple[str, np.random.Generator]:
    """Return the kind of a line and the generator that decides the rest of it."""
    rng = np.random.default_rng((seed, 1, number))
    draw = rng.random()
    for kind, share in KINDS.items():
        if draw < share and number > 1:
            return kind, rng
        draw -= share
    return "original", rng


def line_at(seed: int, number: int) -> Line:
    """Return line ``number``, from 1."""
    kind, rng = kind_of(seed, number)
    if kind == "original":
        return original(seed, number)
    if kind == "relative":
        return _relative(seed, number, rng)
    of = int(rng.integers(1, number))
    while kind_of(seed, of)[0] != "original":
        of -= 1
    first = original(seed, of)
    if kind != "edited":
        return Line(number, kind, of, first.language, first.prompt, first.answer)
    return Line(number, kind, of, first.language, *_edited(first, rng))


def _relative(seed: int, number: int, rng: np.random.Generator) -> Line:
    """Return a record that begins with the preamble of its family: similar, rarely similar enough."""
    family = np.random.default_rng((seed, 2, int(rng.integers(FAMILIES))))
    preamble = tokens_of("en", int(family.integers(60, 300)), family)
    own = tokens_of("en", max(8, int(len(preamble) * rng.uniform(0.1, 0.5))), rng)
    return Line(number, "relative", 0, "en", preamble + own[: len(own) // 3], own[len(own) // 3 :])


def _edited(first: Line, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    prompt, answer = list(first.prompt), list(first.answer)
    match int(rng.integers(4)):
        case 0:
            count = 1 + int(len(answer) * rng.uniform(0, 0.05))
            for place in rng.integers(0, max(1, len(answer)), count).tolist():
                answer[place : place + 1] = tokens_of(first.language, 1, rng)
        case 1:
            answer = answer[: 1 + int(len(answer) * rng.uniform(0.6, 1))]
        case 2:
            answer = [BOILERPLATE[0], *answer] if rng.random() < 0.5 else [*answer, BOILERPLATE[1]]
        case _:
            start = int(rng.integers(0, max(1, len(answer) - 10)))
            del answer[start : start + int(rng.integers(1, 15))]
    return prompt, answer


def record_of(line: Line, form: str) -> dict:
    """Return the line as a record in one of the formats."""
    prompt, answer = line.texts()
    if form == "messages":
        return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
    if form == "prompt_completion":
        return {"prompt": prompt, "completion": answer}
    if form == "instruction":
        return {"instruction": prompt, "input": "", "output": answer}
    return {"text": f"{prompt}\n{answer}"}


def word_sets(line: Line) -> set[tuple[str, ...]]:
    """Return the word 5-grams of a line the plain way: characters of Chinese, Japanese and Korean are words."""
    words = SINGLE.sub(r" \1 ", "\n".join(line.texts()).replace("\u00a0", " ").lower()).split()
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def truth_of(seed: int, line: Line) -> dict:
    """Return what is known of a copy: its original and their Jaccard similarity over word 5-grams."""
    one, other = word_sets(line), word_sets(original(seed, line.of))
    known = {key: value for key, value in asdict(line).items() if key in ("line", "of", "kind", "language")}
    return {**known, "similarity": len(one & other) / len(one | other)}


def lines(records: int, seed: int) -> Iterator[Line]:
    """Yield the lines of the corpus."""
    return (line_at(seed, number) for number in range(1, records + 1))


def write_corpus(output: Path, truth: Path | None, records: int, seed: int = 0, form: str = "messages") -> None:
    """Write the corpus and, if wanted, one line of truth for each copy in it."""
    with open(output, "wb") as file, open(truth or "/dev/null", "wb") as known:
        for line in lines(records, seed):
            file.write(orjson.dumps(record_of(line, form), option=orjson.OPT_APPEND_NEWLINE))
            if truth and line.of:
                known.write(orjson.dumps(truth_of(seed, line), option=orjson.OPT_APPEND_NEWLINE))


def main() -> None:
    """Write a corpus as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=FORMATS, default="messages")
    parser.add_argument("--output", type=Path, default=Path("corpus.jsonl"))
    parser.add_argument("--truth", type=Path, help="where to list the copies; nowhere if not given")
    arguments = parser.parse_args()
    write_corpus(arguments.output, arguments.truth, arguments.records, arguments.seed, arguments.format)
    print(f"{arguments.output}: {arguments.records} records, {arguments.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
