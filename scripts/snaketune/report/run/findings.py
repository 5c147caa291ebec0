"""What a careful reader would want to be told: sentences that hold, each from the facts alone."""

from dataclasses import dataclass
from typing import Any

from snaketune.report import units
from snaketune.report.facts import Facts, get_path
from snaketune.report.kept_weights import kept_step
from snaketune.report.run.answers import WRONG_KINDS
from snaketune.report.run.funnel import balances
from snaketune.report.run.merging import choice, missing_because
from snaketune.report.text import excerpt

OVERFITTED = 1.02
PACKED_WELL = 0.8
MODELS = ("base", "tuned", "merged")


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; a warning asks for a look, a check has passed."""

    level: str
    sentence: str


def findings(facts: Facts) -> tuple[Finding, ...]:
    """Return the findings, warnings first."""
    found = [
        *_changed(facts),
        *_notes(facts),
        *_training(facts),
        *_comparison(facts),
        *_answers(facts),
        *_accounts(facts),
        *_overlap(facts),
        *_lengths("training", facts.rightsize),
        *_lengths("held-out", get_path(facts.rightsize, "eval")),
        *_packing(facts),
        *_merge(facts),
    ]
    return tuple(sorted(found, key=lambda finding: finding.level != "warning"))


def warning(sentence: str) -> Finding:
    """Return a finding that asks for a look."""
    return Finding("warning", sentence)


def _changed(facts: Facts) -> list[Finding]:
    if not facts.changed:
        return []
    files = ", ".join(excerpt(name, 100).text for name in facts.changed)
    return [warning(f"Not what the jobs of this run wrote, edited or damaged since: {files}. Do not rely on them.")]


def _notes(facts: Facts) -> list[Finding]:
    return [warning(excerpt(note, 1000).text) for note in get_path(facts.run, "notes") or []]


def _training(facts: Facts) -> list[Finding]:
    found = []
    if gaps := facts.curves["loss"].gaps:
        found.append(warning(f"{units.count(gaps, 'logged step')} had no finite training loss."))
    held_out = facts.curves["eval_loss"].points
    step, best = min(held_out, key=lambda point: (point[1], point[0]), default=(0, 0.0))
    if held_out and held_out[-1][1] > OVERFITTED * best and kept_step(facts) != step:
        last = units.significant(held_out[-1][1])
        sentence = (
            f"Held-out loss was lowest at step {units.count(step)} ({units.significant(best)}) and ended at {last}:"
            " the last steps made the model worse on data it has not seen; train.load_best_model_at_end keeps the best."
        )
        found.append(warning(sentence))
    return found


def _comparison(facts: Facts) -> list[Finding]:
    """Models are compared on the same data; where their counts differ, they were not."""
    found = []
    for key, noun in (("n", "held-out record"), ("n_generated", "held-out request")):
        counts = [get_path(facts.evaluation, f"{model}.{key}") for model in MODELS if get_path(facts.evaluation, model)]
        if len(set(counts)) > 1:
            listed = ", ".join(units.count(number, noun) for number in counts)
            found.append(warning(f"The models were not measured on the same data: {listed}."))
    return found


def _answers(facts: Facts) -> list[Finding]:
    wrong = sum(facts.answers.counts.get(kind, 0) for kind in WRONG_KINDS)
    if not wrong:
        return []
    total = units.count(facts.answers.total, "answer")
    return [warning(f"{units.count(wrong)} of {total} of the tuned model {_was(wrong)} wrong.")]


def _accounts(facts: Facts) -> list[Finding]:
    found = balances(facts)
    gaps = [balance for balance in found if balance.gap]
    if gaps:
        return [warning(f"The counts before and after {gap.place} differ by {units.count(gap.gap)}.") for gap in gaps]
    if any(balance.gap is None for balance in found):
        return []
    return [Finding("check", "Every line of the sources is accounted for, from the files to the packed rows.")]


def _overlap(facts: Facts) -> list[Finding]:
    """What of the evaluation the training data may give away, as far as it was looked for."""
    found = []
    config = get_path(facts.run, "config") or {}
    files, searched = ((config.get(key) or {}).get("value") or [] for key in ("evaluate.files", "split.decontaminate"))
    for path in [path for path in files if path not in searched]:
        name = excerpt(path, 200).text
        found.append(
            warning(f"The training data were not searched for {name}: list it in split.decontaminate to drop overlap.")
        )
    if get_path(facts.split, "shared_prompts") == 0 and get_path(facts.split, "eval"):
        dropped = sum(get_path(facts.split, key) or 0 for key in ("dropped_similar", "dropped_contaminated"))
        sentence = "No prompt of the held-out data is in the training data."
        if dropped:
            sentence += f" {units.count(dropped, 'record')} that would give an evaluation away {_was(dropped)} dropped."
        found.append(Finding("check", sentence))
    return found


def _lengths(split: str, account: Any) -> list[Finding]:
    found = []
    for key, word in (("dropped", "dropped"), ("truncated", "cut")):
        number, tokens = get_path(account, key), get_path(account, f"tokens_{key}")
        if number:
            lost = f"{units.count(tokens, 'token')} lost, {units.share(tokens, get_path(account, 'tokens'))} of all"
            documents = units.count(number, f"{split} document")
            found.append(warning(f"{documents} longer than max_length {_was(number)} {word} ({lost})."))
    return found


def _packing(facts: Facts) -> list[Finding]:
    efficiency = get_path(facts.pack, "splits.train.efficiency")
    if efficiency is None or efficiency >= PACKED_WELL:
        return []
    return [
        warning(f"Only {units.percent(efficiency)} of the places in training rows hold a token: the rest is padding.")
    ]


def _merge(facts: Facts) -> list[Finding]:
    if reason := missing_because(facts):
        return [warning(f"There is no merged model. {reason}")]
    found = get_path(facts.merged, "check.verdict")
    if found == "equal":
        return [Finding("check", "The merged model was compared with the adapter and found equal.")]
    if found == "rounded":
        return [warning(_cost_of_rounding(facts))]
    if found is not None:
        return [warning(f"The check of the merged model says: {excerpt(found, 200).text}.")]
    return [] if facts.merged is None else [warning("The merged model was not compared with the adapter.")]


def _cost_of_rounding(facts: Facts) -> str:
    check, dtype = get_path(facts.merged, "check"), excerpt(get_path(facts.merged, "dtype"), 50).text
    return (
        f"The merged model is the right sum, but storing it as {dtype} costs:"
        f" loss {units.significant(check.get('adapter_loss'))} \u2192 {units.significant(check.get('merged_loss'))}, KL"
        f" divergence {units.significant(check.get('mean_kl'))} nats; {choice(facts)}."
    )


def _was(number: int) -> str:
    return "was" if number == 1 else "were"
