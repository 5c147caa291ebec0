"""Tokenizers, templates and conversations that the tests of tokenising share."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as before

SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]
ANSWERS = [
    "Hello!",
    " two words ",
    "\n\nLines\n",
    "    return x",
    "naïve \u0301 日本語 👩‍👩‍👧",
    "1",
    "</s> [INST] {{ x }}",
    "\u00a0x",
]
CHATS = [
    CHAT,
    *([{"role": "user", "content": answer[::-1]}, {"role": "assistant", "content": answer}] for answer in ANSWERS),
    [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello!"}, *CHAT[3:]],
]

QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
LLAMA3 = (
    "{% for message in messages %}"
    "{% set content = '<|im_start|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|im_end|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n\\n' }}{% endif %}"
)
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content.strip() + eos_token }}{% endgeneration %}{% else %}{{ m.content.strip() + '\\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PREFIXED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ASSISTANT: ' + m.content + eos_token }}"
    "{% elif m.role == 'user' %}{{ 'USER: ' + m.content }}{% else %}{{ m.content + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
THINKING = """{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- if '</think>' in content and not loop.last %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.last and '</think>' not in content %}
            {{- '<think>\\n\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
MARKED_WITHOUT_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_folder(path: Path, kind: str = "bytes", special: Sequence[str] = SPECIAL, pattern: str = PATTERN) -> Path:
    """Make a tokenizer folder of a family: bytes, nfc, nfkc, deleting, framing, metaspace, legacy, …"""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE())
    if kind == "legacy":  # SentencePiece as transformers converted it before: a space before each stretch of text
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        spaces = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder, alphabet = decoders.Sequence(spaces), []
    elif kind in ("metaspace", "unigram"):
        tokenizer.pre_tokenizer, tokenizer.decoder = before.Metaspace(prepend_scheme="first"), decoders.Metaspace()
        alphabet = []
    else:
        split = before.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = before.Sequence([split, before.ByteLevel(add_prefix_space=False, use_regex=False)])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = before.ByteLevel.alphabet()
    texts = [message["content"] for chat in CHATS for message in chat] * 3 + ["\n\n\n\n x", "assistant\n\n", " \n"] * 3
    tokenizer.train_from_iterator(texts, _trainer(kind, alphabet, special))
    if kind in ("nfc", "nfkc"):
        tokenizer.normalizer = normalizers.NFC() if kind == "nfc" else normalizers.NFKC()
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=kind == "nfkc") for name in SPECIAL])
    if kind == "deleting":
        tokenizer.normalizer = normalizers.Replace("\u200b", "")
    if kind == "framing":
        ids = [(name, tokenizer.token_to_id(name)) for name in ("<|bos|>", "<|eos|>")]
        tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A <|eos|>", special_tokens=ids)
    tokenizer.save(str(path / "tokenizer.json"))
    names = {
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": {"content": "<|pad|>", "__type": "AddedToken"},
    }
    (path / "tokenizer_config.json").write_text(json.dumps(names | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return path


def _trainer(kind: str, alphabet: list[str], special: Sequence[str]):
    if kind == "unigram":
        return trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>", *special], unk_token="<unk>", show_progress=False
        )
    return trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
