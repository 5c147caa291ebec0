"""The page of `inspect` and its output in the terminal: pure functions of its facts."""

from collections.abc import Mapping, Sequence
from typing import Any

from snaketune.data.records.accounting import summary_of
from snaketune.report import units
from snaketune.report.filling import fill
from snaketune.report.run.example_texts import ShownExample, example_of
from snaketune.report.run.funnel import reason_words
from snaketune.report.text import visible

InspectionFacts = Mapping[str, Any]
TERMINAL_CHARACTERS = 600
RECORDS_IN_TERMINAL = 3
BOLD, RESET = "\x1b[1;32m", "\x1b[0m"


def render_inspection(groups: Sequence[InspectionFacts]) -> str:
    """Return the inspection as one self-contained HTML page."""
    return fill("inspect.html.j2", groups=[_group(group) for group in groups])


def _group(group: InspectionFacts) -> dict[str, Any]:
    return {
        "runs": ", ".join(group["runs"]),
        "model": model_line(group["model"]),
        "more": group["not_looked_at"],
        "sources": [
            {
                "path": visible(source["path"]),
                "error": visible(source["error"]),
                "lines": [visible(line) for line in source_lines(source, group["model"])],
                "examples": _examples(source),
            }
            for source in group["sources"]
        ],
    }


def _examples(source: InspectionFacts) -> list[ShownExample]:
    views, answers = source["view"]["examples"], ("tokens", "rejected")
    return [example_of(one, answer, "Record {}") for one in views for answer in answers if answer in one]


def model_line(model: InspectionFacts) -> str:
    """Return a line about the model whose tokenizer and template are used."""
    if model["error"]:
        return f"Not rendered for {model['name']}: {model['error']}"
    context = model["context_length"]
    told = f", context {units.count(context, 'token')}" if context else ""
    return f"Rendered for {model['name']}{told}. {model['note']}".rstrip()


def source_lines(source: InspectionFacts, model: InspectionFacts) -> list[str]:
    """Return the lines about one source, one for each fact."""
    if source["error"]:
        return []
    beginning = f"The beginning of {units.count(source['bytes'])} bytes was read."
    lines = [line.strip() for line in summary_of({"sources": [source["account"]]})]
    lines = [f"{line[:1].upper()}{line[1:]}" for line in lines]
    lines.append("All of it was read." if source["is_all"] else beginning)
    if source["refused"]:
        lines.append(f"Refused: {_counts(source['refused'])}; the first is {source['first']}.")
    return lines + _view_lines(source["view"], model)


def _view_lines(view: InspectionFacts, model: InspectionFacts) -> list[str]:
    lines = [f"Cannot be tokenised: {view['error']}"] if view["error"] else []
    if view["left_out"]:
        lines.append(f"Left out: {_counts(view['left_out'])}; the first is {view['first_left_out']}.")
    if lengths := sorted(view["lengths"]):
        middle, context = lengths[len(lengths) // 2], model["context_length"]
        longer = sum(length > context for length in lengths) if context else 0
        told = f"; {units.count(longer)} longer than the context" if longer else ""
        lines.append(f"Lengths: {lengths[0]:,} to {lengths[-1]:,} tokens, median {middle:,}{told}.")
    return lines


def _counts(reasons: Mapping[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason_words(reason)}" for reason, count in ordered)


def told(group: InspectionFacts, colours: bool = False) -> list[str]:
    """Return the lines for the terminal; trained text is in 【brackets】, or in colour."""
    lines = [f"Runs: {', '.join(group['runs'])}", model_line(group["model"])]
    for source in group["sources"]:
        lines += ["", source["path"]]
        lines += [f"  Refused: {source['error']}"] if source["error"] else []
        lines += [f"  {line}" for line in source_lines(source, group["model"])]
        for number, example in enumerate(_examples(source)[:RECORDS_IN_TERMINAL], 1):
            lines += [f"  Record {number} as the model sees it, trained text in brackets:", *_shown(example, colours)]
    if group["not_looked_at"]:
        lines += ["", f"{group['not_looked_at']:,} more sources were not inspected."]
    return lines


def _shown(example: ShownExample, colours: bool) -> list[str]:
    marks = (BOLD, RESET) if colours else ("【", "】")
    text, left = "", TERMINAL_CHARACTERS
    for stretch in example.stretches:
        part = stretch.text[:left]
        text += f"{marks[0]}{part}{marks[1]}" if stretch.trained and part else part
        left -= len(part)
    return [f"    {line}" for line in (text + ("…" if left <= 0 else "")).split("\n")]
