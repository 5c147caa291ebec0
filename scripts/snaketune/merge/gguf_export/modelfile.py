"""A Modelfile for Ollama next to a GGUF file: the chat template in Ollama's syntax, and stop texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from snaketune.core.atomic import write_bytes
from snaketune.core.canonical import read_json
from snaketune.core.errors import DataError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.data.templates.templates import ChatTemplate
from snaketune.facts.merge_facts import EXPORTED, MERGED
from snaketune.merge.gguf_export.exporting import Export, check, export
from snaketune.merge.outcome import accepted
from snaketune.model.stop_tokens import ids_as_list
from snaketune.settings.merge_slices import ExportSettings, ExportSlice

TemplateTurn = dict[str, str]
RenderMessages = Callable[[list[TemplateTurn], bool], str]
# A snowman in front: no template contains these texts, so each is found exactly where a content was written.
_SYSTEM, _USER, _ANSWER, _SECOND = "\u2603system", "\u2603user", "\u2603answer", "\u2603second"


def modelfile(name: str, template: str | None, system: str | None, stops: Sequence[str]) -> str:
    """Return the text of a Modelfile.

    Args:
        name: of the GGUF file beside it.
        template: in Ollama's syntax; None leaves it to the chat template in the file.
        system: the system prompt that was trained with.
        stops: texts that end an answer.
    """
    lines = [f"FROM ./{name}"]
    lines += [f'TEMPLATE """{template}"""'] if template else []
    # A Modelfile has no escapes inside triple quotes, so a text that contains them cannot be written.
    lines += [f'SYSTEM """{system}"""'] if system and '"""' not in system else []
    lines += [f'PARAMETER stop "{text}"' for text in stops if text.isprintable() and '"' not in text]
    return "\n".join([*lines, ""])


def ollama_template(render: RenderMessages, first: str = "") -> str | None:
    """Return a chat template in Ollama's syntax, found by rendering conversations; None if that cannot express it.

    Args:
        render: writes a conversation, with or without the beginning of an answer.
        first: the token that the tokenizer itself adds at the beginning, which the template must then omit.
    """
    user, answer, second = ({"role": role, "content": text} for role, text in _TURNS)
    try:
        alone = render([user], True).removeprefix(first)
        before, _, after = alone.partition(_USER)
        longer = render([user, answer, second], True).removeprefix(first)
        between = longer.partition(_ANSWER)[2].partition(_SECOND)[0]
        # Ollama repeats one turn's template, so a second turn has to be written exactly like the first.
        if not after or longer != f"{before}{_USER}{after}{_ANSWER}{between}{_SECOND}{after}":
            return None
        with_system = render([{"role": "system", "content": _SYSTEM}, user], True).removeprefix(first)
    except DataError as error:
        print(f"The Modelfile leaves the template to the GGUF file: the template rejects a conversation ({error}).")
        return None
    if not between.endswith(before):
        return None
    opening, has_system, rest = with_system.partition(_SYSTEM)
    head, _, tail = rest.partition(_USER)
    if not has_system or tail != after or not head.endswith(before):
        return None
    end = between.removesuffix(before)
    texts = (opening, head.removesuffix(before), before, after, end)
    # Such a text would be read as an action of Ollama's template language.
    if any("{{" in text for text in texts):
        return None
    system = f"{{{{ if .System }}}}{opening}{{{{ .System }}}}{texts[1]}{{{{ end }}}}"
    return f"{system}{before}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}{end}"


_TURNS = (("user", _USER), ("assistant", _ANSWER), ("user", _SECOND))


def template_and_stops(model: Path) -> tuple[str | None, list[str]]:
    """Return both; no template if there is none or Ollama's syntax cannot express it."""
    tokenizer: Any = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    generation = model / "generation_config.json"
    ends = read_json(generation).get("eos_token_id") if generation.is_file() else tokenizer.eos_token_id
    stops = [tokenizer.convert_ids_to_tokens(number) for number in ids_as_list(ends)]
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


@dataclass(frozen=True, slots=True)
class ExportJob:
    """The stage's inputs, named like the flags of ``convert_to_gguf.py``, which documents them."""

    spec: str
    code: str
    cfg: ExportSlice
    settings: ExportSettings
    merged: Path
    rows: Path
    kind: str
    output: Path
    modelfile: Path
    facts: Path


def export_run(job: ExportJob) -> None:
    """Check the merged model, write the file, compare it and write a Modelfile next to it."""
    accepted(job.merged)
    model = job.merged.parent / "merged"
    wanted = Export(model, str(MERGED.read_manifest(job.merged)["dtype"]), job.kind.lstrip("-") or None)
    export(wanted, job.settings["gguf_converter"], job.output)
    facts = check(wanted, job.output, PackedRows(job.rows.parent / "eval.arrow"))
    template, stops = template_and_stops(model)
    text = modelfile(job.output.name, template, job.cfg["system"], stops)
    write_bytes(job.modelfile, text.encode())
    EXPORTED.write(job.facts, {"type": wanted.type, "bytes": job.output.stat().st_size, **facts})
