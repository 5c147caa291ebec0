"""Building of canonical records from the fields of a record, for each format, once the columns are known.

``Given`` maps each secondary field (system, tools, history, input, reasoning) to the columns of this record that hold
it.
"""

from collections.abc import Mapping
from typing import Any

from snaketune.core.canonical import Json
from snaketune.data.conversations.conversations import Note, ReadTurn, TurnReader, check_order, offered_in
from snaketune.data.conversations.tool_use import tools_of
from snaketune.data.records.field_paths import ABSENT, value_at
from snaketune.data.records.fields import refuse_value, text_of
from snaketune.data.records.preference_records import PartReader, completed, has_preference, preference, ranked
from snaketune.data.records.quarantine import RefusedLine
from snaketune.data.records.reading_policy import Ranking, SourceReading

Given = Mapping[str, list[str]]


class Builder:
    """Builds canonical records according to one reading; ``pairs`` keeps both answers of a preference."""

    def __init__(self, reading: SourceReading, turns: TurnReader, pairs: bool, wins: frozenset[str], note: Note):
        """Set the reading; ``wins`` are fields whose column takes precedence over the turns."""
        self._reading, self._turns, self._pairs, self._wins, self._note = reading, turns, pairs, wins, note
        self._parts = PartReader(turns, reading.rendered, reading.calls)
        self._names = dict(reading.fields)

    def messages(self, record: Json, given: Given) -> Json:
        """Return the canonical record of a conversation."""
        column = self._names["messages"]
        raw = record.get(column)
        # The common case: there is nothing to merge into the turns, so the record is read without being copied.
        if not given and type(raw) is list and not self._reading.rendered and not offered_in(raw):
            return {"messages": self._turns.conversation(raw, record, column)}
        record = picked(record, column)
        raw = record.get(column)
        if type(raw) is dict and type(raw.get("messages")) is list:
            raw = self._unwrapped(raw, column)
        if self._reading.rendered and type(raw) is str:
            turns = self._parts.conversation_in(raw, column)
        else:
            turns = self._turns.read_turns(raw, record, column)
        turns = self._with_context(record, given, turns)
        turns = self._with_system(record, given, [*self._history(record, given), *turns])
        check_order(turns, column)
        return self._with_tools({"messages": turns}, record, given, raw)

    def _unwrapped(self, value: Json, column: str) -> list[Any]:
        """Return the messages of an object, counting its other members as unused."""
        for key, item in value.items():
            if key != "messages":
                self._note(f"{column}.{key}", item)
        found: list[Any] = value["messages"]
        return found

    def pair(self, record: Json, given: Given) -> Json:
        """Return the canonical record of a question and its answer."""
        prompt, completion = self._names["prompt"], self._names["completion"]
        for name in self._reading.single:
            # Choosing one of several answers would drop data unseen; which one to use is the user's decision.
            if type(record.get(name)) is list and len(record[name]) > 1:
                raise RefusedLine(
                    "several_answers", f"{name!r} has {len(record[name])} items, but only one would be used"
                )
        record = picked(record, prompt, completion)
        turns = self._written_together(record, given, prompt, completion)
        self._add_reasoning(record, given, turns)
        return self._with_tools({"messages": turns}, record, given, record.get(prompt))

    def _written_together(self, record: Json, given: Given, prompt: str, completion: str) -> list[ReadTurn]:
        """Return the turns of a pair, which may be the two halves of one rendered conversation."""
        asked, answer = record.get(prompt), record.get(completion)
        if not self._reading.rendered or type(asked) is not str or type(answer) is not str:
            return completed(self._parts, record, self._asked(record, given, prompt), completion)
        turns = self._parts.conversation_in(asked + answer, f"{prompt} + {completion}")
        # The prompt column may hold earlier answers. Only the completion is what the data offer as a target, so those
        # are context with weight 0.
        turns = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns[:-1]] + turns[-1:]
        turns = self._with_system(record, given, turns)
        check_order(turns, completion)
        return turns

    def preference(self, record: Json, given: Given) -> Json:
        """Return the canonical record of a preference, or the conversation with its chosen answer."""
        made = self._preference(record, given)
        if self._pairs:
            return made
        if name := self._names.get("rejected"):
            self._note(name, record.get(name))
        # Supervised training on pairs uses the chosen answer; the rejected one was counted as unused above.
        rest = {key: value for key, value in made.items() if key not in ("chosen", "rejected")}
        return {**rest, "messages": made["messages"] + made["chosen"]}

    def text(self, record: Json, given: Given) -> Json:
        """Return the canonical record of plain text, all of which is trained."""
        name = self._names["text"]
        return {"text": text_of(picked(record, name), name, "empty_text")}

    def _preference(self, record: Json, given: Given) -> Json:
        prompt = self._names.get("messages") or self._names.get("prompt") or "prompt"
        if ranking := self._reading.ranking:
            name = self._names["completion"]
            record = picked(record, prompt, name)
            best, worst = ranked(record, name, ranking)
            self._note_unranked(record[name], name, ranking, best, worst)
            if not has_preference(record, name, ranking):
                if self._pairs:
                    # Equal scores give no order. A pair made of them would teach the order of the file.
                    raise RefusedLine("no_preference", f"all answers in {name!r} have the same {ranking.score!r}")
                turns = completed(self._parts, {**record, name: best}, self._asked(record, given, prompt), name)
                return self._with_tools({"messages": turns[:-1], "chosen": turns[-1:]}, record, given, None)
            chosen, rejected = f"the best of {name}", f"the worst of {name}"
            record = {**record, chosen: best, rejected: worst}
        else:
            chosen, rejected = self._names["chosen"], self._names["rejected"]
            record = picked(record, prompt, chosen, rejected)
        asked = self._asked(record, given, prompt) if has_prompt(record.get(prompt), given) else []
        made = preference(self._parts, record, asked, (prompt, chosen, rejected))
        if not asked:
            made["messages"] = self._with_system(record, given, made["messages"])
        return self._with_tools(made, record, given, record.get(prompt))

    def _note_unranked(self, answers: list[Any], name: str, ranking: Ranking, best: Any, worst: Any) -> None:
        if ranking.text is None:
            if not self._pairs:
                self._note(f"{name}[1]", worst)
            return
        for answer in answers:
            for key, value in answer.items():
                if key not in (ranking.text, ranking.score):
                    self._note(f"{name}[].{key}", value)
        # Answers between best and worst are not trained, which the account of the source says with their share of the
        # text.
        kept, words = ((best, worst), "neither best nor worst") if self._pairs else ((best,), "all but the best")
        if rest := [answer[ranking.text] for answer in answers if answer[ranking.text] not in kept]:
            self._note(f"{name}[].{ranking.text} ({words})", rest)

    def _asked(self, record: Json, given: Given, prompt: str) -> list[ReadTurn]:
        """Return the turns before the answer: system, history, and the question with its context."""
        extra = self._context(record, given)
        value = record.get(prompt)
        if type(value) is str and not value.strip() and extra:
            asked: list[ReadTurn] = [{"role": "user", "content": extra}]
        else:
            if type(value) is dict and type(value.get("messages")) is list:
                record = {**record, prompt: self._unwrapped(value, prompt)}
            asked = self._parts.asked(record, prompt)
            if extra:
                asked = _with_extra(asked, extra)
        return self._with_system(record, given, [*self._history(record, given), *asked])

    def _with_context(self, record: Json, given: Given, turns: list[ReadTurn]) -> list[ReadTurn]:
        extra = self._context(record, given)
        return _with_extra(turns, extra) if extra else turns

    def _context(self, record: Json, given: Given) -> str:
        name = _only(record, given, "input")
        if name is None:
            return ""
        value = value_at(record, name)
        if type(value) is list and value and all(type(item) is str for item in value):
            return "\n\n".join(value)
        if type(value) is not str:
            raise refuse_value({name: value}, name, "text")
        return value

    def _history(self, record: Json, given: Given) -> list[ReadTurn]:
        name = _only(record, given, "history")
        if name is None:
            return []
        value = value_at(record, name)
        # The history of Alpaca-style data is a list of [question, answer] pairs.
        if type(value) is list and all(type(item) is list and len(item) == 2 for item in value):
            value = [text for item in value for text in item]
        turns = self._turns.read_turns(value, {name: value}, name)
        return [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns]

    def _with_system(self, record: Json, given: Given, turns: list[ReadTurn]) -> list[ReadTurn]:
        name = _only(record, given, "system")
        if name is None:
            return turns
        value = value_at(record, name)
        if type(value) in (list, dict):
            parts = value.get("parts", [value]) if type(value) is dict else value
            [made] = self._turns.read_turns([{"role": "system", "content": parts}], record, name)
            value = made["content"]
        if type(value) is not str:
            raise refuse_value({name: value}, name, "text")
        if not turns or turns[0]["role"] != "system":
            return [{"role": "system", "content": value}, *turns]
        own = turns[0]["content"]
        if own != value and own and "system" not in self._wins:
            raise RefusedLine(
                "two_systems", f"the column {name!r} is {value[:60]!r} and the conversation's own is {own[:60]!r}"
            )
        return [{**turns[0], "content": value}, *turns[1:]]

    def _add_reasoning(self, record: Json, given: Given, turns: list[ReadTurn]) -> None:
        name = _only(record, given, "reasoning")
        if name is None:
            return
        value = value_at(record, name)
        if type(value) is not str:
            raise refuse_value({name: value}, name, "text")
        if turns[-1].get("reasoning_content", value) != value:
            raise RefusedLine("two_reasonings", f"{name!r} and the answer's own reasoning differ: keep one of them")
        turns[-1]["reasoning_content"] = value

    def _with_tools(self, made: Json, record: Json, given: Given, turns: Any) -> Json:
        name = _only(record, given, "tools")
        own = offered_in(turns)
        value = value_at(record, name) if name else own
        tools = tools_of(value, name or "tools of the system message") if value else None
        if name and own and tools_of(own, "tools of the system message") != tools:
            raise RefusedLine("two_tools", f"{name!r} and the tools of the system message differ: keep one of them")
        return {**made, "tools": tools} if tools else made


def picked(record: Json, *paths: str) -> Json:
    """Return a record with the value at each path as an additional field of that name."""
    inner = {path: value for path in paths if path not in record and (value := value_at(record, path)) is not ABSENT}
    return {**record, **inner} if inner else record


def has_prompt(value: Any, given: Given) -> bool:
    """Return whether the prompt column or its context has a prompt."""
    return value is not None or bool(given.get("input"))


def _only(record: Json, given: Given, field: str) -> str | None:
    """Return the column that holds a field in this record; several must have the same value."""
    names = [name for name in given.get(field, ()) if _is_filled(value_at(record, name))]
    if len(names) > 1 and any(value_at(record, name) != value_at(record, names[0]) for name in names[1:]):
        raise RefusedLine("two_columns", f"{names[0]!r} and {names[1]!r} both contain its {field}: keep one of them")
    return names[0] if names else None


def _is_filled(value: Any) -> bool:
    if type(value) is str:
        return bool(value.strip())
    return value is not ABSENT and value is not None and value not in ([], {})


def _with_extra(turns: list[ReadTurn], extra: str) -> list[ReadTurn]:
    """Return turns with a text appended to the last question, after a blank line."""
    for index in range(len(turns) - 1, -1, -1):
        if turns[index]["role"] == "user":
            asked = {**turns[index], "content": f"{turns[index]['content']}\n\n{extra}"}
            return [*turns[:index], asked, *turns[index + 1 :]]
    raise RefusedLine("no_question", "there is a context without a question")
