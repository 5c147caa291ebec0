"""The text of a model card: front matter for the hub, then introduction, evaluation, limits, data, training and use."""

from snaketune.card.card_facts import CardFacts
from snaketune.card.evaluation_section import DataSet, data_sets, results_table
from snaketune.card.front_matter import front_matter
from snaketune.card.markdown_text import code, number_text, one_line
from snaketune.card.training_section import data_section, merge_section, method, training_section
from snaketune.card.usage import push_section, reproduction_section, usage_section
from snaketune.facts.evaluation_facts import Scores
from snaketune.merge.outcome import refusal_of

FEW = 100


def render_card(facts: CardFacts) -> str:
    """Return the card; the same facts give the same bytes."""
    sections = [
        *_introduction(facts),
        *_evaluation(facts),
        *_limits(facts),
        *data_section(facts),
        "",
        *training_section(facts),
        "",
        *merge_section(facts),
        *usage_section(facts),
        *push_section(facts),
        *reproduction_section(facts),
    ]
    return front_matter(facts) + "\n" + "\n".join(sections).rstrip("\n") + "\n"


def _introduction(facts: CardFacts) -> list[str]:
    what = "language model" if facts.is_merged or facts.is_whole else "adapter (PEFT)"
    documents = facts.documents("train")
    return [
        f"# {facts.run['run']}",
        "",
        f"A {what}, made from {_base_name(facts)} by {method(facts)} on {number_text(documents)} documents. "
        f"All numbers come"
        " from the files that the run left; those of the evaluation were measured.",
        "",
        _licence(facts),
        "",
    ]


def _base_name(facts: CardFacts) -> str:
    base = facts.base
    if base["kind"] == "hub":
        commit = f" at commit {code(base['commit'])}" if base["commit"] else ""
        return f"[{base['repo']}](https://huggingface.co/{base['repo']}){commit}"
    if base["kind"] == "gguf":
        return f"{code(base['name'])} (a GGUF file of {base['quantization']} weights, dequantised)"
    kinds = {"tiny": "the workflow's built-in tiny model", "run": f"the merged model of {code(base['name'])}"}
    named = kinds.get(base["kind"], f"the model in the folder {code(base['name'])}")
    return f"{named} (weights {code(base['weights_digest'])})"


def _licence(facts: CardFacts) -> str:
    card = facts.origin["card"]
    if "license" in card:
        return f"Licence of the base model: {code(card.get('license_name') or card['license'])}."
    return (
        "The licence of the base model is unknown: its folder does not state one. Clarify it before you publish this."
    )


def _evaluation(facts: CardFacts) -> list[str]:
    found = data_sets(facts)
    head = ["## Evaluation", ""]
    if not found:
        return [*head, "Nothing was measured.", ""]
    intervals = (
        "Intervals are from a paired bootstrap over the cases: they cover other data of this kind, not other training "
        "runs."
    )
    return [*head, intervals, "", *(line for data in found for line in _measured(data))]


def _measured(data: DataSet) -> list[str]:
    cases = f", {data.cases}" if data.cases else ""
    return [f"{code(data.name)}{cases}:", "", *results_table(data), ""]


def _limits(facts: CardFacts) -> list[str]:
    return ["## Limits", "", *(f"- {limit}" for limit in evaluation_limits(facts)), ""]


def evaluation_limits(facts: CardFacts) -> list[str]:
    """Return sentences on what the evaluation does not show."""
    evaluation, found = facts.evaluation, []
    counts = evaluation["tuned"] or Scores()
    sizes = ((counts.get("n"), "documents"), (counts.get("n_generated"), "answers"))
    few = [f"{size} {noun}" for size, noun in sizes if size and size < FEW]
    if not counts.get("n") and not counts.get("n_generated"):
        found.append("Nothing was held out, so it is unknown whether the model is better than its base.")
    elif few:
        found.append(f"The held-out split is small: {' and '.join(few)}.")
    if not evaluation["files"] and not evaluation["tasks"]:
        found.append("It was evaluated only on held-out records of its own sources, not on other data or benchmarks.")
    if "n_generated" not in counts:
        found.append("No answers were generated: the quality of its answers was not measured.")
    if cut := counts.get("n_cut"):
        longest = facts.setting("evaluate.max_new_tokens")
        of = f"{number_text(cut)} of {number_text(counts.get('n_generated'))} answers on the held-out split"
        found.append(f"{of} were cut at {number_text(longest)} tokens (`evaluate.max_new_tokens`).")
    if facts.split["contamination"] is None and (evaluation["files"] or evaluation["tasks"]):
        found.append("Its training data were not searched for the text of the evaluation (`split.decontaminate`).")
    if facts.setting("split.max_similarity") is None:
        found.append("Training records similar to held-out ones were not searched for (`split.max_similarity`).")
    if reason := refusal_of(facts.merged):
        found.append(f"No merged model was made of it: {one_line(reason)}")
    elif not facts.is_merged and facts.merged is not None and not facts.is_whole:
        found.append("The merged model is a separate folder with its own card.")
    return [
        *found,
        "Loss of the base model's other abilities was not measured.",
        "Safety, bias and toxicity were not evaluated; this training does not improve those of the base model.",
    ]
