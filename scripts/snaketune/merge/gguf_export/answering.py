"""What a merged model's folder says about answering: its template in Ollama's words, and what ends an answer."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from snaketune.core.canonical import read_json
from snaketune.data.templates.templates import ChatTemplate
from snaketune.merge.gguf_export.modelfile import ollama_template
from snaketune.model.stop_tokens import as_list


def template_and_stops(model: Path) -> tuple[str | None, list[str]]:
    """Return both; no template where there is none or Ollama has no words for it."""
    tokenizer: Any = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    generation = model / "generation_config.json"
    ends = read_json(generation).get("eos_token_id") if generation.is_file() else tokenizer.eos_token_id
    stops = [tokenizer.convert_ids_to_tokens(number) for number in as_list(ends)]
    path = model / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not source:
        return None, stops
    template = ChatTemplate(source, tokenizer.special_tokens_map)
    first = tokenizer.bos_token or ""
    written = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id] if first else False
    return ollama_template(
        lambda turns, answers: template.render(turns, answers, None), first if written else ""
    ), stops
