"""Walk over real chat templates: is what a run trains on exactly what inference gives, for each of them?

Run it from anywhere: `python benchmarks/templates.py FOLDER`, with a folder of `.jinja` files. Each template gets a
small byte-level tokenizer with its control tokens, about thirty conversations go through snaketune's rendering and
masks, and the finished rows are judged by transformers alone (`templates_judge.py`). The table goes to standard error,
JSON lines with each outcome to `--out`. Outcomes: exact; refused (the record, with the sentence); counted (trained
without its reasoning, which the account names); stopped (a check of the run ends it); WRONG.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from templates_judge import Judge
from templates_records import PLAIN, records

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.templates.inference_check import ReferenceTokenizer, SampleConversation, check_inference
from snaketune.data.templates.templates import DEFAULT_DATE
from snaketune.data.tokens.chunk_tokenizing import ChunkTokenizer, Recipe
from snaketune.data.tokens.chunks import chunks_of

# Control tokens by their look; \uff5c is the bar that DeepSeek writes them with.
CONTROL = re.compile(
    "<sep>|<(?:AI|用户)>|<_(?:user|bot|end|start)>|<\\|[^|<>\n'\"\\s]{1,40}\\|>|<\uff5c[^<>\n]{1,40}\uff5c>|</?s>|<(?:start|end)_of_\\w+>|<\\|\\w+>|<\\w+\\|>"
    "|<(?:bos|eos|sop|unk)>|\\[gMASK\\]|</?SPECIAL_\\d+>|<[a-z]+:[A-Za-z_]+>|\\[e~\\[|\\]~b\\]|\\]~!b\\["
    "|\\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|ARGS|THINK|BOS|EOS|SEP)\\]"
    "|<extra_id_\\d>|<role>|</role>|<reserved_\\d+>|<unused\\d+>"
)
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QUESTION, ANSWER, RESULT = "Quinces", "Raspberries", "Sloes"


def base_tokenizer() -> Tokenizer:
    """Return a small byte-level tokenizer without control tokens."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    texts = [json.dumps(record, ensure_ascii=False) for record in records().values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [*texts, "assistant\n\n user\n\n"] * 3, trainers.BpeTrainer(vocab_size=800, initial_alphabet=alphabet)
    )
    return tokenizer


class Subject:
    """A template with a tokenizer that has its control tokens, and the tokens at which its models stop."""

    def __init__(self, source: str, base: Tokenizer, folder: Path):
        self.source, self.folder = source, folder
        self._base = base
        names = self._controls(["<pad>", "<s>", "</s>"])
        self.names = names
        self.stops = self._stops()
        self._write([*names], self.stops)

    def _controls(self, first: list[str]) -> list[str]:
        """Return control tokens of the source, and those that it puts together while rendering."""
        found = dict.fromkeys([*first, *(match.group() for match in CONTROL.finditer(self.source))])
        self._write(list(found), ["</s>"])
        for text in self._probes():
            found |= dict.fromkeys(match.group() for match in CONTROL.finditer(text))
        return [name for name in found if not re.match(r"</?(?:think|tool|answer)", name)]

    def _write(self, names: list[str], stops: list[str]) -> None:
        self.folder.mkdir(exist_ok=True, parents=True)
        tokenizer = Tokenizer.from_str(self._base.to_str())
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        tokenizer.save(str(self.folder / "tokenizer.json"))
        bos = "<s>" if "bos_token" in self.source else None
        config = {"bos_token": bos, "eos_token": stops[0], "pad_token": "<pad>"}
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        (self.folder / "tokenizer_config.json").write_text(json.dumps(config))
        self.stop_ids = {tokenizer.token_to_id(name) for name in stops}
        settings = {"eos_token_id": sorted(self.stop_ids)}
        (self.folder / "generation_config.json").write_text(json.dumps(settings))

    def _probes(self) -> Iterator[str]:
        ask, said = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
        call = records()["tools"]["messages"][1]
        result = {"role": "tool", "content": RESULT, "tool_call_id": call["tool_calls"][0]["id"], "name": "find_tree"}
        judge = Judge(self.folder, self.source, set())
        system = {"role": "system", "content": "Tansy"}
        tried: list[tuple[list[dict[str, Any]], bool]] = [
            ([ask, said], False), ([ask, said, ask], True), ([ask, call, result], True), ([ask, call], False),
            ([system, ask, said, ask], True),
        ]  # fmt: skip
        for messages, prompt in tried:
            try:
                yield judge.text(messages, None, prompt)
            except Exception:
                yield ""

    def _stops(self) -> list[str]:
        """Return the control token after an answer; where there is none, the eos and those that begin other turns."""
        control = re.compile("|".join(sorted(map(re.escape, self.names), key=len, reverse=True)))
        known = [name for name in ("<|END_OF_TURN_TOKEN|>", "<|return|>", "<|call|>") if name in self.names]
        single, again, result, called, _ = self._probes()
        if known and any(name in single.rpartition(ANSWER)[2] for name in known):
            return known
        stops = []
        for text, begin in ((single, ANSWER), (called, "Ivy")):
            after = text.rpartition(begin)[2] if begin in text else ""
            if begin in text and (found := control.findall(after)):
                # A call may be wrapped in marks of its own; the turn ends after them.
                stops.append(found[-1] if begin == "Ivy" else found[0])
        if single and not any(ANSWER in single and name in single.rpartition(ANSWER)[2] for name in stops):
            stops = ["</s>"]
            for text, begin, end in ((again, ANSWER, QUESTION), (result, "Ivy", RESULT)):
                between = text.rpartition(begin)[2].partition(end)[0] if begin in text else ""
                stops += control.findall(between)[:1]
        return list(dict.fromkeys(stops)) or ["</s>"]


def walk(source: str, base: Tokenizer, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each record with one template."""
    subject = Subject(source, base, folder / "model")
    try:
        worker = ChunkTokenizer(Recipe(str(subject.folder), source, True), "train")
    except (ConfigError, DataError) as error:
        yield {"record": "-", "outcome": "refused", "why": str(error)}
        return
    judge = Judge(subject.folder, source, subject.stop_ids)
    assert worker.template is not None
    reference = ReferenceTokenizer(subject.folder, worker.template, DEFAULT_DATE)
    for name, record in records().items():
        outcome = _outcome(record, folder / "train.jsonl", worker, judge)
        if outcome["outcome"] in ("exact", "counted"):
            outcome |= _checked(record, worker, reference)
        yield {"record": name, **outcome}


def _checked(record: dict[str, Any], worker: ChunkTokenizer, reference: ReferenceTokenizer) -> dict[str, Any]:
    """Run the check that a run makes on a sample; return the outcome where it stops."""
    line = {"source": 0, "line": 1, **record}
    documents = worker.encoder.separate(list(worker.renderer.render(0, line)))
    rows = list(zip(documents, worker.encoder.encode(documents), strict=True))
    [messages] = worker.renderer.conversations(line)
    try:
        check_inference([SampleConversation(messages, record.get("tools"), rows)], reference, worker.name_of)
    except DataError as error:
        return {"outcome": "stopped", "why": f"check: {error}"}
    return {}


def _outcome(record: dict[str, Any], path: Path, worker: ChunkTokenizer, judge: Judge) -> dict[str, Any]:
    path.write_bytes(orjson.dumps({"source": 0, "line": 1, **record}) + b"\n")
    [chunk] = chunks_of(path)
    try:
        result = worker(chunk)
    except (ConfigError, DataError) as error:
        # A system message that the template leaves out ends the run by intent: all records would lose theirs.
        refused = "leaves out the system message" in str(error)
        return {"outcome": "refused" if refused else "stopped", "why": str(error)}
    if result.dropped:
        return {"outcome": "refused", "why": result.dropped[0]["detail"], "own": _refuses(record, judge)}
    batch = result.batch.to_pydict()
    rows = [(ids, list(map(int, mask))) for ids, mask in zip(batch["input_ids"], batch["loss_mask"], strict=True)]
    lost = result.counts["answers_without_their_reasoning"]
    try:
        faults = judge.faults(record["messages"], record.get("tools"), rows, lost)
    except Exception as error:
        return {"outcome": "WRONG", "why": f"transformers refuses: {type(error).__name__}: {str(error)[:200]}"}
    if faults:
        return {"outcome": "WRONG", "why": faults[0]}
    return {"outcome": "counted" if lost else "exact", "rows": len(rows)}


def _refuses(record: dict[str, Any], judge: Judge) -> bool:
    """Tell whether transformers cannot render the conversation either."""
    try:
        judge.text(record["messages"], record.get("tools"))
    except Exception:
        return True
    return False


def _table(outcomes: list[dict[str, Any]]) -> str:
    lines = []
    for title, chosen in (
        ("plain conversations", [one for one in outcomes if one["record"] in PLAIN]),
        ("all conversations", outcomes),
    ):
        counts = Counter(one["outcome"] + (" by the template itself" if one.get("own") else "") for one in chosen)
        shares = ", ".join(f"{name} {count} ({count / len(chosen):.1%})" for name, count in counts.most_common())
        lines.append(f"{title}: {len(chosen)}; {shares}")
    return "\n".join(lines)


def main() -> None:
    """Walk over the folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of .jinja files")
    parser.add_argument("--out", type=Path, help="JSON lines with each outcome")
    parser.add_argument("--only", default="", help="templates whose name contains this")
    arguments = parser.parse_args()
    outcomes: list[dict[str, Any]] = []
    base = base_tokenizer()
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(arguments.folder.glob("*.jinja")):
            if arguments.only in path.stem:
                source = path.read_text(encoding="utf-8")
                found = walk(source, base, Path(scratch) / path.stem)
                outcomes += [{"template": path.stem, **one} for one in found]
    if arguments.out:
        arguments.out.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in outcomes))
    print(_table(outcomes), file=sys.stderr)


if __name__ == "__main__":
    main()
