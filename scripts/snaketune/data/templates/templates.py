"""A chat template compiled for a run, and the rendering of conversations with it."""

from collections.abc import Sequence
from typing import Any

import jinja2

from snaketune.core.errors import DataError
from snaketune.data.templates.jinja_sandbox import LONGEST_OUTPUT, Notes, block_tags, compile_template, looks_inside

Message = dict[str, Any]
CharacterSpan = tuple[int, int]

# The date for templates if the configuration gives none: fixed, so results do not depend on the day of the run.
DEFAULT_DATE = "2026-01-01"


class ChatTemplate:
    """A compiled chat template with the special tokens of its tokenizer.

    Args:
        source: the Jinja text.
        special_tokens: ``bos_token`` and so on, available to the template as variables.
        date: the date that ``strftime_now`` writes, as YYYY-MM-DD.

    Attributes:
        marks_generation: whether it has ``{% generation %}`` blocks.
        looks_inside: whether its output may depend on the characters of a content.
        in_parts: whether contents are passed as lists of parts, because the template writes no plain strings.

    Raises:
        ConfigError: if the source is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: dict[str, str], date: str = DEFAULT_DATE):
        self.source = source
        self._template = compile_template(source, date)
        environment = self._template.environment
        self._notes: Notes = environment.notes  # type: ignore[attr-defined]
        # Everything constant in one plain dict: jinja2 would merge its layers of globals for every record.
        self._constants = {**self._template.globals, **special_tokens, "documents": None}
        self.marks_generation = "generation" in block_tags(environment, source)
        self.looks_inside = looks_inside(environment, source)
        self.in_parts = False
        self.in_parts = self._wants_parts()

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool = False, tools: list[Message] | None = None
    ) -> str:
        """Return the text of a conversation, with ``tools`` on offer.

        Raises:
            DataError: if the template refuses the conversation (with its own message) or fails on it.
        """
        template, notes = self._template, self._notes
        notes.blocks, notes.spans, notes.size = [], [], 0
        blocks = notes.blocks
        variables = {
            **self._constants,
            "messages": with_parts(messages) if self.in_parts else messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        # The root render function is called directly: ``Template.render`` builds its context layer by layer and joins
        # all blocks at once, whereas here the generation marks and the size limit follow block by block.
        context = template.environment.context_class(template.environment, variables, template.name, template.blocks)
        size = 0
        try:
            for block in template.root_render_func(context):
                blocks.append(block)
                notes.size = size = size + len(block)
                if size > LONGEST_OUTPUT:
                    raise DataError(f"the chat template writes more than {LONGEST_OUTPUT:,} characters: correct it")
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template rejects this conversation: {error}") from None
        except Exception as error:  # the template is foreign code: any failure becomes a message, not a traceback
            if isinstance(error, DataError):
                raise
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            raise DataError(f"the chat template fails on this conversation ({reason})") from None
        return "".join(blocks)

    def marked(self) -> list[CharacterSpan]:
        """Return the spans of the ``{% generation %}`` blocks of the last rendering."""
        return list(self._notes.spans)

    def _wants_parts(self) -> bool:
        """Return whether the template writes text only from lists of parts, as those of some image models do."""
        probe = [{"role": "user", "content": "\U000f0000"}]
        for parts in (False, True):
            self.in_parts = parts
            try:
                if "\U000f0000" in self.render(probe):
                    return parts
            except DataError:
                continue
        return False


def with_parts(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with each text wrapped in a list of one part."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]
