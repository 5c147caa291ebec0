"""The built-in chat templates, and the choice of the template of a run."""

from pathlib import Path

from snaketune.core.errors import ConfigError

# The longest templates of models have some 30,000 bytes.
LONGEST_FILE = 1 << 20
# The wording with which Qwen 2.5 and Hermes offer tools: models tuned from either know it already.
OFFER = (
    "{{ '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with"
    " function signatures within <tools></tools> XML tags:\\n<tools>\\n' }}"
    "{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}"
    "{{ '</tools>\\n\\nFor each function call, return a json object with function name and arguments within"
    ' <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}'
    "\\n</tool_call>' }}"
)


def _said(end: str, before: str, after: str = "''") -> str:
    """Return the part of a template that writes an answer, or tool calls with or without text before them.

    Arguments may be an object or, as in OpenAI's format, JSON text. ``gap`` holds the separator before the next call:
    the variable ``loop`` would make rendering slower for every conversation.
    """
    return (
        "{% if 'tool_calls' in message and message['tool_calls'] %}"
        "{% set gap = namespace(text=message['content'] + '\\n' if message['content'] else '') %}{% generation %}"
        "{% for call in message['tool_calls'] %}{% set called = call['function'] or call %}"
        f"{{{{ gap.text + {before} + '{{\"name\": ' + called['name'] | tojson + ', \"arguments\": ' }}}}"
        "{{ called['arguments'] if called['arguments'] is string else called['arguments'] | tojson }}"
        f"{{{{ '}}' + {after} }}}}{{% set gap.text = '\\n' %}}{{% endfor %}}{{{{ {end} }}}}{{% endgeneration %}}"
        f"{{% else %}}{{% generation %}}{{{{ message['content'] + {end} }}}}{{% endgeneration %}}{{% endif %}}"
    )


BUILT_IN = {
    "chatml": (
        "{% if tools %}{{ '<|im_start|>system\\n' }}"
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
        + OFFER
        + "{{ '<|im_end|>\\n' }}{% endif %}"
        "{% for message in messages %}{% if not tools or message['role'] != 'system' %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
        + _said("'<|im_end|>'", "'<tool_call>\\n'", "'\\n</tool_call>'")
        + "{{ '\\n' }}{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token }}"
        "{% if tools %}{{ '### Tools:\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}"
        "{{ '\\n' }}{% endif %}{% for message in messages %}{{ '### ' + message['role'] | capitalize + ':\\n' }}"
        "{% if message['role'] == 'assistant' %}"
        + _said("eos_token", "'Call: '")
        + "{{ '\\n\\n' }}{% else %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
    ),
}


def read_template(path: Path) -> str:
    """Return the content of a template file, without the byte order mark that some editors write.

    Raises:
        ConfigError: if it is too long for a template, not UTF-8, or cannot be read.
    """
    try:
        if path.stat().st_size <= LONGEST_FILE:
            return path.read_bytes().decode("utf-8-sig")
        reason, cure = f"{path.stat().st_size:,} bytes, over {LONGEST_FILE:,}", "give a chat template"
    except UnicodeDecodeError as error:
        reason, cure = f"byte {error.start} is not UTF-8", "save it as UTF-8"
    except OSError as error:
        reason, cure = str(error.strerror), "check its permissions"
    raise ConfigError(f"tokens.chat_template: {path} cannot be used ({reason}): {cure}.")


def choose_template(setting: str | None, own: str | None) -> str | None:
    """Return the source of the chat template to use.

    Args:
        setting: ``tokens.chat_template``: null, a built-in name, a path or a template.
        own: the tokenizer's own template.

    Raises:
        ConfigError: if the setting is none of these.
    """
    if setting is None:
        return own
    if setting in BUILT_IN:
        return BUILT_IN[setting]
    if "{{" in setting or "{%" in setting:
        return setting
    path = Path(setting).expanduser()
    if path.suffix == ".jinja" and path.is_file():
        return read_template(path)
    raise ConfigError(
        f"tokens.chat_template: {setting!r} is neither a .jinja file nor one of {', '.join(sorted(BUILT_IN))}:"
        " check the spelling or the path."
    )
