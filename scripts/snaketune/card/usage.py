"""The sections of a card on loading, uploading and reproducing a model; each command says whether it was run."""

from snaketune.card.card_facts import CardFacts
from snaketune.card.markdown_text import code, one_line

FOLDER_PLACEHOLDER = "path/to/this/folder"
BASE_PLACEHOLDER = "path/to/the/base/model"
# Values that vLLM accepts for --max-lora-rank.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def usage_section(facts: CardFacts) -> list[str]:
    """Return the section on loading the model with transformers, PEFT and vLLM."""
    if facts.gives_scores:
        return ["## Use", "", *_scoring(facts)]
    if facts.is_merged:
        return [
            "## Use",
            "",
            *_whole(facts, FOLDER_PLACEHOLDER),
            *_serve(f"vllm serve {FOLDER_PLACEHOLDER}"),
            *_stops(facts),
        ]
    if facts.is_whole:
        base = _base(facts)
        tokenizer = (
            f"The tokenizer is that of the base model: copy its files from {code(base)}, or take the merged folder."
        )
        return ["## Use", "", tokenizer, "", *_whole(facts, base)]
    return ["## Use", "", *_adapter(facts), *_serve(*_vllm_adapter(facts)), *_stops(facts)]


def _base(facts: CardFacts) -> str:
    return (facts.base["kind"] == "hub" and facts.base["repo"]) or BASE_PLACEHOLDER


def _whole(facts: CardFacts, tokenizer: str) -> list[str]:
    names = {"folder": FOLDER_PLACEHOLDER} | ({"base": tokenizer} if tokenizer != FOLDER_PLACEHOLDER else {})
    code_of_tokenizer = "base" if tokenizer != FOLDER_PLACEHOLDER else "folder"
    return [
        *_status("The merge check read this folder in the same way." if facts.is_merged else None),
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline",
        "",
        *(f'{name} = "{value}"' for name, value in names.items()),
        'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")',
        f"tokenizer = AutoTokenizer.from_pretrained({code_of_tokenizer})",
        *_ask(facts),
        "```",
        "",
    ]


def _adapter(facts: CardFacts) -> list[str]:
    return [
        *_status("The evaluation read this adapter in the same way."),
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline",
        "",
        f'base, folder = "{_base(facts)}", "{FOLDER_PLACEHOLDER}"',
        f'model = AutoModelForCausalLM.from_pretrained(base, dtype="auto"{_revision(facts)})',
        "model = PeftModel.from_pretrained(model, folder)",
        f"tokenizer = AutoTokenizer.from_pretrained(base{_revision(facts)})",
        *_ask(facts),
        "```",
        "",
        *_template(facts),
    ]


def _scoring(facts: CardFacts) -> list[str]:
    """Return how to score an answer; servers of language models do not run reward models."""
    whole = facts.is_merged or facts.is_whole
    tokenizer = "folder" if facts.is_merged else "base"
    load = (
        ['model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")']
        if whole
        else [
            f"model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1{_revision(facts)})",
            "model.config.get_text_config().pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id",
            "model = PeftModel.from_pretrained(model, folder)",
        ]
    )
    names = (
        f'folder = "{FOLDER_PLACEHOLDER}"'
        if facts.is_merged
        else f'base, folder = "{_base(facts)}", "{FOLDER_PLACEHOLDER}"'
    )
    text = (
        'text = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}, {"role": "assistant", "content":'
        ' "Hi"}], tokenize=False)'
        if facts.chats
        else 'text = "Once upon a time"'
    )
    return [
        "It gives a whole conversation a score: the higher, the better its last answer. Scores compare answers to one"
        " question; they have no unit.",
        "",
        *_status("The merge check read this folder in the same way." if facts.is_merged else None),
        "```python",
        *([] if whole else ["from peft import PeftModel"]),
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        names,
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
        *load,
        text,
        'inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)',
        "print(model(**inputs).logits[0, 0].item())",
        "```",
        "",
        *(_template(facts) if not facts.is_merged else []),
    ]


def _revision(facts: CardFacts) -> str:
    commit = facts.base["commit"]
    return f', revision="{one_line(commit)}"' if commit else ""


def _template(facts: CardFacts) -> list[str]:
    if not facts.has_own_template:
        return []
    return [
        "It was trained with its own chat template, which the base model's tokenizer lacks: set"
        f" {code('tokenizer.chat_template')} to the text of {code('chat_template.jinja')} in the merged folder or of"
        " the tokenised data.",
        "",
    ]


def _status(seen: str | None) -> list[str]:
    told = "The workflow's tests run these lines with its built-in model; they were not run on this model."
    return [f"{told} {seen}" if seen else told, ""]


def _ask(facts: CardFacts) -> list[str]:
    made = 'generate = pipeline("text-generation", model=model, tokenizer=tokenizer)'
    how = f"max_new_tokens={facts.setting('evaluate.max_new_tokens') or 64}, do_sample=False"
    if not facts.chats:
        return [made, f'print(generate("Once", {how})[0]["generated_text"])']
    if facts.stop_tokens:  # the generation configuration lacks them, so answers would not stop
        how += f", eos_token_id={facts.stop_tokens}"
    return [
        made,
        'messages = [{"role": "user", "content": "Hello"}]',
        f"answer = generate(messages, {how})",
        'print(answer[0]["generated_text"][-1]["content"])',
    ]


def _vllm_adapter(facts: CardFacts) -> list[str]:
    # Features of an adapter that vLLM does not support.
    beyond = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters")
    if any(facts.setting(f"adapter.{key}") for key in beyond):
        return []
    ranks = [facts.setting("adapter.r") or 8, *(facts.setting("adapter.rank_pattern") or {}).values()]
    room = next((rank for rank in VLLM_RANKS if rank >= max(ranks)), VLLM_RANKS[-1])
    return [f"vllm serve {_base(facts)} --enable-lora --max-lora-rank {room} --lora-modules tuned={FOLDER_PLACEHOLDER}"]


def _serve(*commands: str) -> list[str]:
    if not commands:
        return [
            "vLLM cannot serve adapters with magnitudes (DoRA) or with full layers, embeddings or experts: serve the "
            "merged model.",
            "",
        ]
    return ["With vLLM (not run here):", "", "```bash", *commands, "```", ""]


def _stops(facts: CardFacts) -> list[str]:
    if not facts.stop_tokens:
        return []
    stops = ", ".join(map(str, facts.stop_tokens))
    return [
        "The chat template ends a turn with a token that the base model's generation configuration lacks: configure "
        f"servers with these stop tokens (`stop_token_ids`): {stops}.",
        "",
    ]


def push_section(facts: CardFacts) -> list[str]:
    """Return the section on uploading the folder to the hub."""
    return [
        "## Push",
        "",
        "Nothing was uploaded. Log in with `hf auth login`, then (not run here):",
        "",
        "```bash",
        f"hf upload your-name/{facts.run['run']} {FOLDER_PLACEHOLDER} . --private",
        "```",
        "",
    ]


def reproduction_section(facts: CardFacts) -> list[str]:
    """Return the section on reproducing the run, with the fingerprints to compare."""
    return [
        "## Reproduction",
        "",
        "```bash",
        "snakemake --cores 8 train",
        "```",
        "",
        "with the sources named above and the configuration in `run.json`. The same sources, settings, code and package"
        " versions give the same fingerprint:",
        "",
        f"- run {code(facts.run['run'])}, variant {code(facts.run['id'])}",
        f"- fingerprint {code(facts.run['fingerprint'])}",
        f"- training fingerprint {code(facts.run['training_fingerprint'])}",
        "",
    ]
