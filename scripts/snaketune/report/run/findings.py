"""Findings that a careful reader should know: sentences derived from the facts alone."""

from dataclasses import dataclass

from snaketune.facts.data_facts import LengthAccount
from snaketune.facts.evaluation_facts import MODELS, measured_count
from snaketune.facts.merge_facts import Merged
from snaketune.report import units
from snaketune.report.kept_weights import kept_step
from snaketune.report.report_facts import RunPageFacts
from snaketune.report.run.answers import WRONG_KINDS
from snaketune.report.run.funnel import balances
from snaketune.report.run.merge_findings import choice, missing_because
from snaketune.report.text import excerpt

OVERFITTED = 1.02
PACKED_WELL = 0.8
FILES_OF_TEXT = ("evaluate.files", "split.decontaminate")


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; a warning needs attention, a check has passed."""

    level: str
    sentence: str


def findings(facts: RunPageFacts) -> tuple[Finding, ...]:
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
        *_lengths("held-out", facts.rightsize["eval"]),
        *_packing(facts),
        *_merge(facts),
    ]
    return tuple(sorted(found, key=lambda finding: finding.level != "warning"))


def warning(sentence: str) -> Finding:
    """Return a finding that needs attention."""
    return Finding("warning", sentence)


def _changed(facts: RunPageFacts) -> list[Finding]:
    if not facts.changed:
        return []
    files = ", ".join(excerpt(name, 100).text for name in facts.changed)
    return [warning(f"Edited or damaged since the jobs of this run wrote them: {files}. Do not rely on them.")]


def _notes(facts: RunPageFacts) -> list[Finding]:
    return [warning(excerpt(note, 1000).text) for note in facts.run["notes"]]


def _training(facts: RunPageFacts) -> list[Finding]:
    found = []
    if gaps := facts.curves["loss"].gaps:
        found.append(warning(f"{units.count(gaps, 'logged step')} had no finite training loss."))
    held_out = facts.curves["eval_loss"].points
    step, best = min(held_out, key=lambda point: (point[1], point[0]), default=(0, 0.0))
    # Not where the best checkpoint was selected: the model then is not the one whose loss rose.
    if held_out and held_out[-1][1] > OVERFITTED * best and kept_step(facts) != step:
        last = units.significant(held_out[-1][1])
        sentence = (
            f"Held-out loss was lowest at step {units.count(step)} ({units.significant(best)}) and ended at {last}:"
            " the last steps made the model worse on data it has not seen; train.load_best_model_at_end keeps the best."
        )
        found.append(warning(sentence))
    return found


def _comparison(facts: RunPageFacts) -> list[Finding]:
    """Models are comparable only on the same data; this checks that their counts agree."""
    found = []
    measured = [facts.evaluation[model] for model in MODELS if facts.evaluation[model]]
    records = [measured_count(scores, "n") for scores in measured], "held-out record"
    requests = [measured_count(scores, "n_generated") for scores in measured], "held-out request"
    for counts, noun in (records, requests):
        if len(set(counts)) > 1:
            listed = ", ".join(units.count(number, noun) for number in counts)
            found.append(warning(f"The models were not evaluated on the same data: {listed}."))
    return found


def _answers(facts: RunPageFacts) -> list[Finding]:
    wrong = sum(facts.answers.counts.get(kind, 0) for kind in WRONG_KINDS)
    if not wrong:
        return []
    total = units.count(facts.answers.total, "answer")
    return [warning(f"{units.count(wrong)} of {total} of the tuned model {_was(wrong)} wrong.")]


def _accounts(facts: RunPageFacts) -> list[Finding]:
    found = balances(facts)
    gaps = [balance for balance in found if balance.gap]
    if gaps:
        return [warning(f"The counts before and after {gap.place} differ by {units.count(gap.gap)}.") for gap in gaps]
    if any(balance.gap is None for balance in found):
        return []
    return [Finding("check", "Every line of the sources is accounted for, from the files to the packed rows.")]


def _overlap(facts: RunPageFacts) -> list[Finding]:
    """Evaluation data that the training data may contain, as far as this was checked."""
    found = []
    config = facts.run["config"]
    files, searched = (config[key]["value"] or [] if key in config else [] for key in FILES_OF_TEXT)
    for path in [path for path in files if path not in searched]:
        name = excerpt(path, 200).text
        found.append(
            warning(f"The training data were not searched for {name}: list it in split.decontaminate to drop overlap.")
        )
    if facts.split["shared_prompts"] == 0 and facts.split["eval"]:
        dropped = (facts.split["dropped_similar"] or 0) + (facts.split["dropped_contaminated"] or 0)
        sentence = "No prompt of the held-out data is in the training data."
        if dropped:
            sentence += f" {units.count(dropped, 'record')} that would give an evaluation away {_was(dropped)} dropped."
        found.append(Finding("check", sentence))
    return found


def _lengths(split: str, account: LengthAccount) -> list[Finding]:
    found = []
    dropped = (account["dropped"], account["tokens_dropped"], "dropped")
    cut = (account["truncated"], account["tokens_truncated"], "cut")
    for number, tokens, word in (dropped, cut):
        if number:
            lost = f"{units.count(tokens, 'token')} lost, {units.share(tokens, account['tokens'])} of all"
            documents = units.count(number, f"{split} document")
            found.append(warning(f"{documents} longer than max_length {_was(number)} {word} ({lost})."))
    return found


def _packing(facts: RunPageFacts) -> list[Finding]:
    efficiency = facts.pack["splits"]["train"]["efficiency"]
    if efficiency is None or efficiency >= PACKED_WELL:
        return []
    return [
        warning(
            f"Only {units.percent(efficiency)} of the positions in training rows hold a token: the rest is padding."
        )
    ]


def _merge(facts: RunPageFacts) -> list[Finding]:
    if reason := missing_because(facts):
        return [warning(f"There is no merged model. {reason}")]
    if facts.merged is None:
        return []
    found = facts.merged["check"]["verdict"]
    if found == "equal":
        return [Finding("check", "The merged model was compared with the adapter and found equal.")]
    if found == "rounded":
        return [warning(_cost_of_rounding(facts, facts.merged))]
    if found is not None:
        return [warning(f"The check of the merged model says: {excerpt(found, 200).text}.")]
    return [warning("The merged model was not compared with the adapter.")]


def _cost_of_rounding(facts: RunPageFacts, merged: Merged) -> str:
    check, dtype = merged["check"], excerpt(merged["dtype"], 50).text
    if check["score_change"] is not None:
        return (
            f"The merged model is the correct sum, but storing it as {dtype} changes scores by"
            f" {units.significant(check['score_change'])} and the order of"
            f" {units.count(check['pairs_reordered'], 'pair')}; {choice(facts)}."
        )
    return (
        f"The merged model is the correct sum, but storing it as {dtype} costs:"
        f" loss {units.significant(check['adapter_loss'])} \u2192 {units.significant(check['merged_loss'])}, KL"
        f" divergence {units.significant(check['mean_kl'])} nats; {choice(facts)}."
    )


def _was(number: int) -> str:
    return "was" if number == 1 else "were"
