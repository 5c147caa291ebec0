"""The tokenizer of the tiny model: byte-level BPE trained on the corpus, with special tokens for chat roles."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snaketune.core.errors import ConfigError
from snaketune.settings.model_section import TinyModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")

SAMPLE_CHARACTERS = 16_000_000  # more text costs memory and time but hardly changes the merges
SMALLEST_VOCABULARY = 3 + len(ROLE_TOKENS) + 256

# The generation blocks cover the assistant's text and the end of its turn, so that training on the assistant alone also
# teaches the model to stop. Tools are offered in the system turn, and a tool's result is written as a user turn.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- if tools -%}
    {{- '<|system|>' -}}
    {%- if messages[0]['role'] == 'system' -%}{{- messages[0]['content'] + '\\n\\n' -}}{%- endif -%}
    {{- 'Tools:' -}}
    {%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}
        {{- '<|assistant|>' -}}
        {%- if 'tool_calls' in message and message['tool_calls'] -%}
            {%- set gap = namespace(text=message['content'] + '\\n' if message['content'] else '') -%}
            {%- generation -%}
            {%- for call in message['tool_calls'] -%}
                {%- set called = call['function'] or call -%}
                {%- set given = called['arguments'] -%}
                {{- gap.text + 'Call: {"name": ' + called['name'] | tojson + ', "arguments": ' -}}
                {{- (given if given is string else given | tojson) + '}' -}}
                {%- set gap.text = '\\n' -%}
            {%- endfor -%}
            {{- eos_token -}}
            {%- endgeneration -%}
        {%- else -%}
            {%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}
        {%- endif -%}
    {%- elif message['role'] == 'tool' -%}
        {{- '<|user|>Result: ' + message['content'] -}}
    {%- elif message['role'] == 'user' -%}
        {{- '<|user|>' + message['content'] -}}
    {%- elif message['role'] != 'system' -%}
        {{- raise_exception('the tiny model knows system, user, assistant and tool, not ' + message['role']) -}}
    {%- elif not tools -%}
        {{- '<|system|>' + message['content'] -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""


def make_tokenizer(cfg: TinyModelSection, texts: Iterable[str], folder: Path) -> dict[str, Any]:
    """Train the tokenizer of ``cfg`` (the ``model.tiny`` section), save it into ``folder`` and return its sizes.

    Raises:
        ConfigError: if the vocabulary is too small.
    """
    if cfg["vocab_size"] < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"model.tiny.vocab_size {cfg['vocab_size']} is too small: bytes and special tokens need "
            f"{SMALLEST_VOCABULARY}; give at least that."
        )
    tokenizer = train_tokenizer(_sample(texts), cfg["vocab_size"], cfg["max_position_embeddings"])
    tokenizer.save_pretrained(folder)
    return {"vocab_size": len(tokenizer), "context_length": cfg["max_position_embeddings"]}


def _sample(texts: Iterable[str]) -> Iterator[str]:
    """Yield the first documents, up to a number of characters that suffices to train a tokenizer."""
    left = SAMPLE_CHARACTERS
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> "PreTrainedTokenizerFast":
    """Train the tokenizer on ``texts``, which are read once and not kept in memory.

    All 256 bytes are in the vocabulary, so that any text can be encoded and decoded without loss. A run of digits is
    split from the text before it: a number is then the same token after a space and after a colon, and a small model
    can copy it. The vocabulary is smaller than ``vocab_size`` if the texts have too few distinct words.

    Args:
        texts: documents without chat markers.
        vocab_size: number of tokens including the six special ones; at least 262.
        context_length: context length of the model in tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS, *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(ROLE_TOKENS),
        chat_template=CHAT_TEMPLATE,
        model_max_length=context_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
