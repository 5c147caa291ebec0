"""Conversations that are written as one text in the markup of some chat template, parsed back into turns.

A text is parsed only if all of it is turns of one markup. What is between the marks is kept, except for the line ends
and spaces that the markup itself adds.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from snaketune.data.conversations.role_names import usual_role

MarkedTurns = list[tuple[str, str]]

# Text allowed around a conversation.
TEXT_START = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*")
END = re.compile(r"\s*+(?:(?:</s>|<eos>|<\|end_of_text\|>|<\|endoftext\|>)\s*+)?")


@dataclass(frozen=True, slots=True)
class Markup:
    """The syntax in which a template writes turns: ``turn`` matches one, with its role and its content.

    Attributes:
        marks: texts of which one is in every conversation of this markup, and that are not text otherwise.
        is_control: whether the marks are control tokens of models, so that they must not be trained as text.
        strips: whether white space at the end of a turn is the markup's.
    """

    turn: re.Pattern[str]
    marks: tuple[str, ...]
    is_control: bool = True
    strips: bool = False


# White space between a heading and its turn: line ends, or one space. Indentation belongs to the turn.
GAP = r"(?:(?: ?\n)++| )?"
STOPS = r"</s>|<\|endoftext\|>"


def _under_headings(before: str, roles: tuple[str, ...], after: str = ":") -> Markup:
    """Return the markup of turns under a heading that names the role; ``after`` is the pattern that ends it."""
    heading = rf"{before}(?:{'|'.join(roles)}){after}"
    named = rf"{before}(?P<role>{'|'.join(roles)}){after}"
    turn = rf"\s*{named}{GAP}(?P<content>(?:(?!\n{heading}|{STOPS}).)*)"
    return Markup(re.compile(turn, re.S), (f"{before}{roles[1]}",), is_control=False, strips=True)


LLAMA2 = "llama-2"
BY_BLANK_LINES = "Human/Assistant"
# The roles that may follow each role.
FOLLOWS = {"user": ("assistant",), "assistant": ("user", "tool"), "tool": ("tool", "assistant")}
MARKUPS = {
    "chatml": Markup(
        re.compile(
            r"<\|im_start\|>(?P<role>[\w ]+)\n(?P<content>(?:(?!<\|im_start\|>).)*?)(?:<\|im_end\|>\n*|\Z)", re.S
        ),
        ("<|im_start|>",),
    ),
    LLAMA2: Markup(
        re.compile(
            r"(?:<s>)?\s*\[INST\] ?(?:<<SYS>>\n?(?P<system>.*?)\n?<</SYS>>\s*)?"
            r"(?P<content>(?:(?!\[INST\]).)*?) ?\[/INST\]"
            r" ?(?P<answer>(?:(?!\[INST\]|<s>|</s>).)*)(?:</s>)?",
            re.S,
        ),
        ("[INST]",),
        strips=True,
    ),
    "llama-3": Markup(
        re.compile(
            r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\n\n"
            r"(?P<content>(?:(?!<\|start_header_id\|>).)*?)(?:<\|eot_id\|>\n*|\Z)",
            re.S,
        ),
        ("<|start_header_id|>",),
    ),
    "gemma": Markup(
        re.compile(
            r"<start_of_turn>(?P<role>\w+)\n(?P<content>(?:(?!<start_of_turn>).)*?)(?:<end_of_turn>\n*|\Z)", re.S
        ),
        ("<start_of_turn>",),
    ),
    "zephyr": Markup(
        re.compile(
            r"<\|(?P<role>system|user|assistant)\|>\n?(?P<content>(?:(?!<\|(?:user|assistant)\|>).)*?)\n?"
            r"(?:(?:<\|end\|>|</s>)\n*|\Z)",
            re.S,
        ),
        ("<|user|>",),
    ),
    BY_BLANK_LINES: Markup(
        re.compile(
            r"(?:\A|\n\n)(?P<role>Human|Assistant|System):(?: |\n|\Z)?"
            r"(?P<content>(?:(?!\n\n(?:Human|Assistant):).)*)",
            re.S,
        ),
        ("Human:",),
        is_control=False,
    ),
    "Human/Assistant by lines": Markup(
        re.compile(
            r"(?:\A|\n+)(?P<role>Human|Assistant|System): ?(?P<content>(?:(?!\n+(?:Human|Assistant):).)*)", re.S
        ),
        ("Human:",),
        is_control=False,
    ),
    "USER/ASSISTANT": Markup(
        re.compile(
            r"\s*(?P<role>SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE): ?"
            rf"(?P<content>(?:(?!\n(?:USER|ASSISTANT|FUNCTION RESPONSE):|{STOPS}).)*)(?:<\|endoftext\|>)?",
            re.S,
        ),
        ("USER:",),
        is_control=False,
        strips=True,
    ),
    "### Human/### Assistant": Markup(
        re.compile(r"### (?P<role>Human|Assistant): ?(?P<content>(?:(?!### (?:Human|Assistant):).)*)", re.S),
        ("### Human:",),
        is_control=False,
    ),
    "### User/### Assistant": _under_headings("### ", ("System", "User", "Assistant"), r"(?::|(?=\n))"),
    "User/Assistant": _under_headings("", ("System", "User", "Assistant")),
    "<human>/<bot>": _under_headings("", ("<system>", "<human>", "<bot>")),
    "vicuna": Markup(
        re.compile(
            r"(?P<system>(?:(?!USER:).)*)USER: ?(?P<content>(?:(?!USER:|ASSISTANT:).)*)"
            rf"ASSISTANT: ?(?P<answer>(?:(?!USER:|ASSISTANT:|{STOPS}).)*)(?:</s>)?",
            re.S,
        ),
        ("USER:",),
        is_control=False,
        strips=True,
    ),
    "alpaca": Markup(
        re.compile(
            rf"(?P<system>(?:(?!### ).)*)### Instruction:{GAP}(?P<content>(?:(?!### (?:Input|Response):).)*)"
            rf"(?:### Input:{GAP}(?P<input>(?:(?!### Response:).)*))?### Response:{GAP}"
            rf"(?P<answer>(?:(?!### (?:Instruction|Input|Response):|{STOPS}).)*)",
            re.S,
        ),
        ("### Instruction:",),
        is_control=False,
        strips=True,
    ),
}
# DeepSeek's mark, with full-width bars.
DEEPSEEK_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"
# Marks with which models end an answer; `data.strip` removes them from the end of a text.
END_MARKS = (
    *("<|endoftext|>", "<|im_end|>", "</s>", "<|eot_id|>", "<|end_of_text|>", "<eos>", "<|end|>", "<end_of_turn>"),
    *("<|endofmessage|>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", DEEPSEEK_END, "<|return|>", "[EOS]"),
    *("<|eos|>", "<|EOS|>", "<|end_of_sentence|>", "<|end_of_assistant|>", "<|eom_id|>"),
)
CONTROL_MARKS = (*(mark for markup in MARKUPS.values() if markup.is_control for mark in markup.marks), *END_MARKS)
# Marks that accompany these.
MARKS_BESIDE = (
    *("[/INST]", "<<SYS>>", "<</SYS>>", "<|end_header_id|>", "<|system|>", "<|assistant|>", "<|begin_of_text|>"),
    *("<s>", "<bos>"),
)


def turns_in(text: str, name: str) -> MarkedTurns | None:
    """Return the turns, as (role, content), of a text in the markup ``name``; None if the text is not only turns."""
    turn, at = MARKUPS[name].turn, _start(text, name)
    found: MarkedTurns = []
    while match := turn.match(text, at):
        if match.end() == at:
            break
        found += _of_match(match, MARKUPS[name].strips)
        at = match.end()
    if name == BY_BLANK_LINES and "\nAssistant:" in text and all(role != "assistant" for role, _ in found):
        return None  # the turns follow each other without a blank line
    is_whole = bool(END.fullmatch(text, at)) and all(role for role, _ in found)
    return found if is_whole and _alternates([role for role, _ in found]) else None


def _start(text: str, name: str) -> int:
    if not MARKUPS[name].is_control:  # these turns begin with the line ends
        return 0
    match = TEXT_START.match(text)
    return match.end() if match and not text.startswith("<s>[INST]") else 0


def _of_match(match: re.Match[str], strips: bool) -> MarkedTurns:
    groups = {key: (text or "").rstrip() if strips else text or "" for key, text in match.groupdict().items()}
    if "answer" not in groups:
        return [(usual_role(groups["role"].strip("<>"), {}) or "", groups["content"])]
    system = [("system", groups["system"])] if groups["system"] else []
    asked = "\n\n".join(part for part in (groups["content"], groups.get("input")) if part)
    answer = [("assistant", groups["answer"])] if groups["answer"] else []
    return [*system, ("user", asked), *answer]


def _alternates(roles: list[str]) -> bool:
    """Return whether user and assistant alternate after at most one system message, with tools between answers."""
    rest = roles[1:] if roles[:1] == ["system"] else roles
    return rest[:1] == ["user"] and all(after in FOLLOWS.get(before, ()) for before, after in pairwise(rest))


def markup_of(texts: Iterable[str]) -> str | None:
    """Return the markup in which all texts are whole conversations, or None."""
    given = list(texts)
    for name, markup in MARKUPS.items():
        if given and all(any(mark in text for mark in markup.marks) and turns_in(text, name) for text in given):
            return name
    return None


def is_marked(text: str, name: str) -> bool:
    """Return whether a text contains a mark that every conversation in the markup ``name`` has."""
    return any(mark in text for mark in MARKUPS[name].marks)


def awaits_answer(text: str, name: str) -> bool:
    """Return whether a conversation in the markup ``name`` ends in a question, or in an answer without text."""
    found = turns_in(text, name)
    return found is not None and (found[-1][0] != "assistant" or not found[-1][1].strip())


def mark_in(text: str) -> str | None:
    """Return the first control mark of any chat template in a text, or None."""
    return next((mark for mark in CONTROL_MARKS if mark in text), None)


def marks_in(text: str) -> list[str]:
    """Return all control marks of chat templates in a text, including those that only accompany others."""
    return [mark for mark in (*CONTROL_MARKS, *MARKS_BESIDE) if mark in text]


def end_mark_of(text: str) -> str | None:
    """Return the end mark at the end of a text, ignoring trailing white space, or None."""
    bare = text.rstrip()
    return next((mark for mark in END_MARKS if bare.endswith(mark)), None)


def without_marks(text: str, marks: Iterable[str]) -> str:
    """Return a text without the marks at its end; a text without such marks is unchanged."""
    given = tuple(mark for mark in marks if mark)
    while mark := next((mark for mark in given if text.rstrip().endswith(mark.rstrip() or mark)), None):
        text = text.rstrip()[: -len(mark.rstrip() or mark)]
    return text
