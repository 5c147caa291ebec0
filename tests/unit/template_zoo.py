"""Chat templates of the families that people fine-tune: from published formats, in our own words, or from TRL.

Those of ``tests/golden/templates`` write the published format of a family for system, user, assistant and, where the
format has them, tools.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from snaketune.data.templates.built_in_templates import BUILT_IN

FOLDER = Path(__file__).parents[1] / "golden" / "templates"
# Control tokens by their look; \uff5c is the bar that DeepSeek writes them with.
CONTROL = re.compile(
    "<\\|[^|<>\n'\\s]{1,40}\\|>|<\uff5c[^<>\n]{1,40}\uff5c>|</?s>|<(?:start|end)_of_(?:turn|role|utterance)>"
    "|<(?:bos|eos|sop|unk)>|\\[gMASK\\]|</?SPECIAL_\\d+>"
    "|\\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\\]"
)


@dataclass(frozen=True)
class Family:
    """A family's template, the tokens at which its models stop, and control tokens that the source does not spell."""

    source: str
    stops: tuple[str, ...]
    more: tuple[str, ...] = ()

    @property
    def control(self) -> list[str]:
        """The control tokens that the tokenizer of the family has."""
        found = [match.group() for match in CONTROL.finditer(self.source)]
        return list(dict.fromkeys(["<pad>", "<s>", *self.stops, *found, *self.more]))


ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
END = ("</s>",)
IM_END = ("<|im_end|>", "<|endoftext|>")
EOT = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
PHI = ("<|end|>", "<|endoftext|>")
DEEPSEEK = ("<\uff5cend▁of▁sentence\uff5c>",)
COHERE = ("<|END_OF_TURN_TOKEN|>",)
GEMMA = ("<end_of_turn>", "<eos>")
GLM = ("<|endoftext|>", "<|user|>", "<|observation|>")
GEMMA4 = ("<turn|>", "<eos>", "<|tool_response>")
GEMMA4_MORE = ("<|turn>", "<|tool_call>", "<tool_call|>", "<tool_response|>", "<|channel>", "<channel|>")
# Name: stop tokens, and control tokens that are put together in the template.
OWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "alpaca": (END, ()),
    "command_a": (COHERE, ("<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>")),
    "falcon": (("<|endoftext|>",), ()),
    "functionary_v3_2": (EOT, ()),
    "glm4": (GLM, ROLES),
    "granite3": (("<|end_of_text|>",), ()),
    "granite4": (("<|end_of_text|>",), ()),
    "hermes": (("<|im_end|>",), ()),
    "kimi_k2": (("<|im_end|>", "[EOS]"), ("<|im_system|>", "<|im_user|>", "<|im_assistant|>")),
    "llama2": (END, ()),
    "llama4": (("<|eot|>", "<|end_of_text|>"), ()),
    "minimax_m2": (("[e~[",), ("]~b]", "]~!b[", "[e~[")),
    "mistral_v1": (END, ()),
    "mistral_v3": (END, ()),
    "mistral_v7": (END, ()),
    "nemotron_nano2": (("<SPECIAL_12>",), ("<SPECIAL_10>", "<SPECIAL_11>")),
    "olmo2": (("<|endoftext|>",), ROLES),
    "phi4": (IM_END, ()),
    "phi4_mini": (PHI, ROLES),
    "qwen2": (IM_END, ()),
    "smollm3": (("<|im_end|>",), ()),
    "vicuna": (END, ()),
    "zephyr": (END, ROLES),
}
FROM_TRL = {
    "cohere": COHERE,
    "cohere2": COHERE,
    "deepseek_r1_distill": DEEPSEEK,
    "deepseekv3": DEEPSEEK,
    "gemma": GEMMA,
    "gemma3": GEMMA,
    "gemma4": GEMMA4,
    "glm4moe": GLM,
    "gptoss": ("<|return|>", "<|call|>", "<|endoftext|>"),
    "idefics3": ("<end_of_utterance>",),
    "lfm2": ("<|im_end|>",),
    "llama3": EOT,
    "llama3_1": EOT,
    "llama3_2": EOT,
    "nemotron_3_nano": ("<|im_end|>",),
    "phi3": PHI,
    "phi3_5": PHI,
    "phi3_5_training": PHI,
    "qwen2_5": IM_END,
    "qwen2_5_training": IM_END,
    "qwen3": IM_END,
    "qwen3_5_think": IM_END,
    "qwen3_instruct_2507": IM_END,
    "qwen3_training": IM_END,
}


def families() -> dict[str, Family]:
    """Return all families by name; those of TRL where it is installed."""
    own = {
        name: Family((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"), stops, more)
        for name, (stops, more) in OWN.items()
    }
    own |= {"chatml": Family(BUILT_IN["chatml"], ("<|endoftext|>",)), "plain": Family(BUILT_IN["plain"], END)}
    found = importlib.util.find_spec("trl")
    folder = Path(found.origin).parent / "chat_templates" if found and found.origin else Path("nowhere")
    texts = {name: folder / f"{name}.jinja" for name in FROM_TRL}
    return own | {
        name: Family(path.read_text(encoding="utf-8"), FROM_TRL[name], GEMMA4_MORE if name == "gemma4" else ())
        for name, path in texts.items()
        if path.is_file()
    }
