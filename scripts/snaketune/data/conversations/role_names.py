"""Names of roles and keys of a turn in various data sets, and turns written without a role."""

from typing import Any

from snaketune.data.formats.columns import MODALITIES, plain_name

ROLES = ("system", "user", "assistant", "tool")
# The usual names of roles, in lower case; `data.roles` adds others.
USUAL_ROLES: dict[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "chatbot", "bot", "model", "ai", "bing", "bard", "claude"), "assistant"
    ),
    **dict.fromkeys(
        ("tool", "function", "observation", "function_response", "tool_response", "tool_result", "ipython"), "tool"
    ),
}
# Roles that an answer follows: a list that ends in one has its answer in another column.
SPEAKING = frozenset(name for name, role in USUAL_ROLES.items() if role != "assistant")
# A turn with one of these roles is a call as JSON text.
CALL_ROLES = ("function_call", "tool_call")
ROLE_KEYS = ("role", "from", "speaker", "sender")
CONTENT_KEYS = ("content", "value", "text", "utterance", "parts")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
LOSS_KEYS = ("weight", "loss", "loss_weight", "train", "train_on_turn", "trainable")
OFFERED_KEYS = ("tools", "functions")
PART_KEYS = ("text", "value", "content")
THOUGHT_PARTS = ("thinking", "reasoning")
# Sides of a turn that holds a question with its answer.
ROLE_OF_SIDE = {"input": "user", "output": "assistant", "question": "user", "answer": "assistant", "moss": "assistant"}
# Every meaningful key of a turn; a line with one of them twice in an object is refused.
TURN_KEYS = (
    *(*ROLE_KEYS, *CONTENT_KEYS, *REASONING_KEYS, *LOSS_KEYS, *OFFERED_KEYS),
    *("tool_calls", "tool_call_id", "function_call", "name", "arguments", "tool_plan", "parts", "type"),
)


def usual_role(name: str, roles: dict[str, str]) -> str | None:
    """Return the canonical role of a name, ignoring case, or None if it is unknown."""
    return roles.get(name) or USUAL_ROLES.get(name.strip().lower().replace(" ", "_"))


def side_of(key: str, roles: dict[str, str]) -> str | None:
    """Return the role of the text under ``key`` in a turn without a role."""
    return usual_role(key, roles) or ROLE_OF_SIDE.get(plain_name(key))


def split_turn(turn: dict[str, Any], roles: dict[str, str]) -> list[dict[str, Any]] | None:
    """Return the turns of an object such as ``{human: …, assistant: …}``, or None for any other object."""
    if any(key in turn for key in ROLE_KEYS):
        return None
    sides = {key: side for key, value in turn.items() if (side := side_of(key, roles)) and type(value) is str}
    if not sides or len(set(sides.values())) < len(sides):
        return None
    rest = {key: value for key, value in turn.items() if key not in sides}
    ordered = sorted(sides, key=lambda key: ROLES.index(sides[key]))
    found = [{"role": sides[key], "content": turn[key]} for key in ordered if turn[key] or sides[key] != "system"]
    return [*found[:-1], {**found[-1], **rest}] if found else None


def modality_of(part: Any) -> str | None:
    """Return ``image``, ``video`` or ``audio`` if a part of a content is one, else None."""
    if type(part) is not dict:
        return None
    for name in (str(part.get("type", "")), *part):
        for known, modality in MODALITIES.items():
            if name.removeprefix("input_") in (known, f"{known}_file"):
                return modality
    return None


def alternating(texts: list[str]) -> list[dict[str, Any]]:
    """Return the turns of a list of texts, alternating between user and assistant, the user first."""
    return [{"role": ROLES[1 + index % 2], "content": text} for index, text in enumerate(texts)]
