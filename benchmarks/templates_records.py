"""Conversations for the walk over chat templates: each word of theirs stands in one turn only."""

from typing import Any

Turn = dict[str, Any]
Record = dict[str, Any]

CALL_ID, OTHER_ID = "c00000001", "c00000002"


def _turn(role: str, content: str | None, **more: Any) -> Turn:
    return {"role": role, "content": content, **more}


def _call(name: str, identity: str = CALL_ID, **arguments: Any) -> Turn:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(name: str) -> Turn:
    described = {"type": "string", "description": "A place."}
    parameters = {"type": "object", "properties": {"place": described}, "required": ["place"]}
    return {"type": "function", "function": {"name": name, "description": "Looks up.", "parameters": parameters}}


ASK, AGAIN, THIRD = _turn("user", "Apples grow where"), _turn("user", "Bananas too"), _turn("user", "Cherries last")
SYSTEM = _turn("system", "Damsons are secret.")
ONE, TWO, THREE = _turn("assistant", "Elder trees."), _turn("assistant", "Figs, no."), _turn("assistant", "Grapes yes.")
RESULT = _turn("tool", "hazel 21", tool_call_id=CALL_ID, name="find_tree")
CALLING = _turn("assistant", None, tool_calls=[_call("find_tree", place="Ivy")])
TOOLS = [_tool("find_tree"), _tool("count_leaves")]
THOUGHT, THOUGHT_TWO = {"reasoning_content": "Juniper first"}, {"reasoning_content": "Kiwi then"}


def _with(turn: Turn, **more: Any) -> Turn:
    return {**turn, **more}


def records() -> dict[str, Record]:
    """Return the records by name: canonical, as the reading stage writes them."""
    parallel = _turn(
        "assistant", None, tool_calls=[_call("find_tree", place="Ivy"), _call("count_leaves", OTHER_ID, place="Lime")]
    )
    results = [RESULT, _turn("tool", "mango 7", tool_call_id=OTHER_ID, name="count_leaves")]
    thinking = _turn("assistant", "<think>\nJuniper first\n</think>\n\nElder trees.")
    chats: dict[str, list[Turn]] = {
        "single": [ASK, ONE],
        "system": [SYSTEM, ASK, ONE],
        "multi": [ASK, ONE, AGAIN, TWO],
        "three": [ASK, ONE, AGAIN, TWO, THIRD, THREE],
        "system_multi": [SYSTEM, ASK, ONE, AGAIN, TWO],
        "untrained": [ASK, _with(ONE, weight=0), AGAIN, TWO],
        "last_untrained": [ASK, ONE, AGAIN, _with(TWO, weight=0)],
        "space_before": [ASK, _turn("assistant", " Elder trees.")],
        "lines_before": [ASK, _turn("assistant", "\n\nElder trees."), AGAIN, TWO],
        "space_after": [ASK, _turn("assistant", "Elder trees. \n"), AGAIN, TWO],
        "code": [ASK, _turn("assistant", "```py\ndef elder(tree):\n    return tree\n```"), AGAIN, TWO],
        "unicode": [ASK, _turn("assistant", "Öl, 日本, e\u0301 👩‍👧."), AGAIN, TWO],
        "same_answers": [ASK, ONE, AGAIN, ONE],
        "question_is_answer": [_turn("user", "Elder trees."), ONE],
        "named": [_with(ASK, name="Nora"), ONE],
        "reasoning": [ASK, _with(ONE, **THOUGHT)],
        "reasoning_multi": [ASK, _with(ONE, **THOUGHT), AGAIN, _with(TWO, **THOUGHT_TWO)],
        "reasoning_some": [ASK, _with(ONE, **THOUGHT), AGAIN, TWO],
        "reasoning_system": [SYSTEM, ASK, _with(ONE, **THOUGHT)],
        "think": [ASK, thinking],
        "think_multi": [ASK, thinking, AGAIN, TWO],
    }
    tools: dict[str, list[Turn]] = {
        "tools": [ASK, CALLING, RESULT, ONE],
        "tools_system": [SYSTEM, ASK, CALLING, RESULT, ONE],
        "tools_unused": [ASK, ONE],
        "tools_last": [ASK, CALLING],
        "tools_text": [ASK, _with(CALLING, content="Olives now."), RESULT, ONE],
        "tools_empty": [ASK, _with(CALLING, content=""), RESULT, ONE],
        "tools_parallel": [ASK, parallel, *results, ONE],
        "tools_multi": [ASK, CALLING, RESULT, ONE, AGAIN, TWO],
        "tools_reasoning": [ASK, _with(CALLING, **THOUGHT), RESULT, _with(ONE, **THOUGHT_TWO)],
    }
    found: dict[str, Record] = {name: {"messages": turns} for name, turns in chats.items()}
    return found | {name: {"messages": turns, "tools": TOOLS} for name, turns in tools.items()}


PLAIN = frozenset(
    {"single", "system", "multi", "three", "system_multi", "untrained", "last_untrained", "space_before"}
    | {"lines_before", "space_after", "code", "unicode", "same_answers", "question_is_answer"}
)
