"""The schema as JSON for editors and as a table for readers."""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from snaketune.config.aliases import OTHER_NAMES
from snaketune.config.known_keys import section_of
from snaketune.config.schema import FileConfig, RunConfig
from snaketune.core.canonical import pretty_bytes
from snaketune.workflow.stages import OPERATIONAL

INTRODUCTION = """# Configuration

`config.yaml` is what you edit. Values come from, in this order: defaults, the `preset`, `config.yaml`, the run under
`runs`, and `--config` on the command line; the report shows where each value of a run came from. An unknown key is an
error that names the right one, also when it is another tool's name for the same thing.

```yaml
data: {sources: [my-data.jsonl], columns: {prompt: question, completion: answer}}
model: {name_or_path: Qwen/Qwen3-0.6B}
runs:
  small: {adapter: {r: 8}}
  large: {adapter: {r: 64}, train: {learning_rate: 1e-4}}
  sweep: {grid: {train.learning_rate: [1e-4, 2e-4], adapter.r: [8, 32]}} # a run of every combination
```

`snakemake --cores 8 train --config 'train={learning_rate: 1e-4}'` overrides single keys, and
`snakemake --cores 8 train --configfile other.yaml` takes another file instead of `config.yaml`.

Keys marked *operational* change how a stage runs but not its results: changing them reruns nothing.
Editors that honour the first line of `config.yaml` complete and check keys from `schema.json`.

This page and `schema.json` are generated from `scripts/snaketune/config/schema*.py` by `make generate`.
"""

FORMATS_PAGE = """## Data formats

The file type is detected: JSON lines, a JSON array, CSV, Parquet, Arrow, compressed or not, folders and data sets
of the hub (docs/sources.md).

`auto` chooses a format for each source from its records and says why; [docs/data.md](../docs/data.md) lists all
record shapes, column names and refusals. `data.columns` maps your column names to fields.

| format | a line |
|---|---|
| `messages` | `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}` |
| `sharegpt` | `{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}`, `system` |
| `preference` | `{"prompt": "...", "chosen": "...", "rejected": "..."}`, as text or messages |
| `prompt_completion` | `{"prompt": "...", "completion": "..."}`, as text or messages |
| `instruction` | `{"instruction": "...", "input": "...", "output": "..."}`, `input` may be missing or empty |
| `text` | `{"text": "..."}`: every token is trained |
| `auto` | chosen for each source from its first records, and printed |

A message may have `weight: 0`, which excludes an answer from the loss, `tool_calls` (then `content` may be null), and
with role `tool` a `tool_call_id`; the record may have `tools`. Content in parts is joined when all parts are text.
Answers inside a `prompt` are not trained. From preference pairs, `train.method: sft` trains the chosen answer like
any conversation; `dpo` and `orpo` compare both answers and accept no other format. `kto` accepts pairs, and any format
of conversations with a column that says whether each answer is good (`label`, or the one named by
`data.columns.label`). `reward` takes pairs, with a `margin` or the scores that `data.columns` names as
`chosen_score` and `rejected_score`.

An unusable line is written to `quarantine.jsonl` with its source, line number, byte offset and reason, and counted in
the report; above `data.max_bad_fraction` the run stops.
"""


def schema() -> str:
    """Return the JSON schema of config.yaml, in which a run may leave out every key."""
    value = FileConfig.model_json_schema()
    for definition in [value, *value["$defs"].values()]:
        definition.pop("required", None)
    return pretty_bytes(value).decode()


def readme(presets: Path) -> str:
    """Return config/README.md: every key with its meaning, type, default and its name in other tools."""
    parts = [INTRODUCTION, FORMATS_PAGE, preset_table(presets)]
    sections = [(name, section_of(field.annotation)) for name, field in RunConfig.model_fields.items()]
    parts += [_section(name, section) for name, section in sections if section]
    return "\n".join(parts)


def preset_table(presets: Path) -> str:
    """Return the table of presets with the first comment of each file."""
    rows = [f"| `{path.stem}` | {_first_comment(path)} |" for path in sorted(presets.glob("*.yaml"))]
    return "\n".join(["## Presets", "", "| `preset` | what it is |", "|---|---|", *rows, ""])


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[0].removeprefix("#").strip() if lines and lines[0].startswith("#") else ""


def _section(name: str, model: type[BaseModel]) -> str:
    lines = [f"## {name}", "", str(model.__doc__).split("\n")[0], ""]
    lines += ["| key | values | default | meaning | elsewhere |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *_rows(name, model), ""])


def _rows(path: str, model: type[BaseModel]) -> list[str]:
    rows = []
    properties = model.model_json_schema()["properties"]
    for key, field in model.model_fields.items():
        full = f"{path}.{key}"
        if section := section_of(field.annotation):
            rows += _rows(full, section)
            continue
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        meaning = str(field.description) + (" *Operational.*" if full in OPERATIONAL else "")
        cells = [f"`{full}`", _kind(properties[key]), default, meaning, _elsewhere(full)]
        rows.append("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells) + " |")
    return rows


def _kind(property: dict[str, Any]) -> str:
    if "anyOf" in property:
        return " or ".join(_kind(option) for option in property["anyOf"])
    if "enum" in property:
        return ", ".join(f"`{value}`" for value in property["enum"])
    if "const" in property:
        return f"`{property['const']}`"
    if property.get("type") == "array":
        return f"list of {_kind(property['items'])}"
    if "$ref" in property:
        return "mapping"
    name: str = property.get("type", "")
    return {"null": "null", "object": "mapping", "string": "text"}.get(name, name)


def _elsewhere(full: str) -> str:
    names: dict[str, list[str]] = {}
    for other, (ours, tools) in OTHER_NAMES.items():
        if ours == full:
            names.setdefault(other, []).append(tools)
    return ", ".join(f"`{other}` ({', '.join(tools)})" for other, tools in names.items())
