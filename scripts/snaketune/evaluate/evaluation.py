"""The evaluation of a run: base and tuned model in one process, the merged one after them.

Base and tuned model are loaded as in training, quantised if the base was: this measures the effect of tuning, in the
memory that training had. The merged model is the one in use and is never quantised.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.data.tokens.token_store import TokenStore
from snaketune.evaluate.additive import Additive, measure_differences, values
from snaketune.evaluate.answers.evaluation_files import canonical_records
from snaketune.evaluate.answers.generating import Decoding, generate_answers, with_room
from snaketune.evaluate.answers.prompts import Prompt, Writing, choose_prompts, own_stops, stop_tokens
from snaketune.evaluate.answers.questions import TEMPLATE_REFUSES, TOO_LONG, Questions
from snaketune.evaluate.answers.scorers import scorers
from snaketune.evaluate.answers.timing import Clock, TokenTimer, timing_facts
from snaketune.evaluate.evaluation_settings import EvaluationInputs, EvaluationSettings
from snaketune.evaluate.harness import run_tasks
from snaketune.evaluate.likelihood import Likelihoods, measure_likelihood
from snaketune.evaluate.measures import additive_measures, by_length, by_source, check_finite
from snaketune.evaluate.models import (
    attach_adapter,
    free_memory,
    is_whole_model,
    load_model,
    load_tokenizer,
    with_faster_layers,
)
from snaketune.evaluate.preferences import PREFERENCE_ACCURACY, preference_measures
from snaketune.evaluate.reward_judge import Judge, ending_of, finished, require_same_tokenizer
from snaketune.evaluate.reward_scores import RewardScores, evaluate_scores
from snaketune.facts.evaluation_facts import Interval
from snaketune.model.reward_model import is_reward_model
from snaketune.train.packages import NONE

STEPS_COMPARED = {"tuned_minus_base": ("base", "tuned"), "merged_minus_tuned": ("tuned", "merged")}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Results of the evaluation.

    Attributes:
        facts: what evaluation.json holds.
        held_out: the requests of the held-out split and their answers; None if none were generated.
        files: the same for each external file.
        likelihoods: of the held-out documents, by model.
        timings: what was timed, by model.
        scores: of the held-out documents, of a reward model; None of a language model.
    """

    facts: dict[str, Any]
    held_out: Questions | None = None
    files: dict[str, Questions] = field(default_factory=dict)
    likelihoods: dict[str, Likelihoods] = field(default_factory=dict)
    timings: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: RewardScores | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """The requests of the held-out split."""
        return self.held_out.prompts if self.held_out else []

    @property
    def answers(self) -> dict[str, list[str]]:
        """The answers to those, by model."""
        return self.held_out.answers if self.held_out else {}


def evaluate(inputs: EvaluationInputs, settings: EvaluationSettings, clock: Clock | None = None) -> EvaluationResult:
    """Return likelihoods and answers of the base, the tuned and, where there is one, the merged model.

    Of a reward model the scores of the held-out pairs are returned instead.

    Args:
        inputs: the models and the held-out data.
        settings: what is measured.
        clock: gives seconds; without it nothing is timed.

    Raises:
        TrainingError: if the adapter does not fit the model or a model's likelihood is not a number.
        DataError: if an external evaluation file cannot be used.
        ConfigError: if the model does not support what the settings request, or a task of the harness fails.
    """
    if is_reward_model(inputs.adapter):
        found = evaluate_scores(inputs, settings.model)
        return EvaluationResult(found.facts, scores=found)
    examination = _Examination(inputs, settings, clock)
    unquantised = replace(settings.model, quantization=NONE)
    if is_whole_model(inputs.adapter):
        examination.examine("base", with_faster_layers(examination.base))
        examination.release_base()
        examination.examine("tuned", with_faster_layers(load_model(inputs.adapter, unquantised)))
        free_memory()
    else:
        _examine_adapter(examination, inputs.adapter)
    if inputs.merged is not None:
        examination.examine("merged", with_faster_layers(load_model(inputs.merged, unquantised)))
        free_memory()
    examination.judge(inputs)
    return examination.finish()


def _examine_adapter(examination: "_Examination", adapter: Path) -> None:
    tuned = with_faster_layers(attach_adapter(examination.base, adapter))
    # One copy of the weights serves both models: base and tuned differ by the adapter only.
    with tuned.disable_adapter():
        examination.examine("base", tuned)
    examination.examine("tuned", tuned)
    del tuned
    examination.release_base()


class _Examination:
    """The held-out data, opened once, and the results of the models so far."""

    def __init__(self, inputs: EvaluationInputs, settings: EvaluationSettings, clock: Clock | None):
        self._settings, self._clock = settings, clock
        self._last = "merged" if inputs.merged is not None else "tuned"
        self._rows = PackedRows(inputs.rows)
        self._store = TokenStore(inputs.tokens / "eval")
        self._tokenizer = load_tokenizer(inputs.model, settings.model)
        self._template = (inputs.tokens / "chat_template.jinja").read_text(encoding="utf-8")
        self._writing = Writing.of(inputs.tokens)
        self.base = load_model(inputs.model, settings.model)
        self._decoding = self._how_to_answer()
        # Stop tokens that the model's own generation configuration lacks.
        self._more_stops = set(self._decoding.stop_ids) - own_stops(self.base)
        self._held_out = self._questions_of(inputs.records, self._store.records) if settings.asks else None
        self._files = self._external_questions()
        self._facts: dict[str, Any] = {}
        self._measures: dict[str, dict[str, Additive]] = {}
        self._likelihoods: dict[str, Likelihoods] = {}
        self._timings: dict[str, dict[str, Any]] = {}
        self._file_facts: dict[str, dict[str, Any]] = {name: {} for name in self._files}
        self._task_facts: dict[str, dict[str, Any]] = {}

    def _how_to_answer(self) -> Decoding:
        stops = stop_tokens(self.base, self._tokenizer, self._template) if self._template else []
        pad = self._tokenizer.pad_token_id
        pad = pad if pad is not None else (stops or [0])[0]
        return Decoding(self._settings.max_new_tokens, self._settings.batch_size, tuple(stops), pad)

    def _questions_of(self, records: Path, tokenized: Any) -> Questions | None:
        limit = self._settings.max_samples
        found, refused = choose_prompts(records, tokenized, limit, self._tokenizer, self._template, self._writing)
        prompts = with_room(found, self.base)
        long = sorted({prompt.record for prompt in found} - {prompt.record for prompt in prompts})
        if refused or long:
            print(
                f"Left out: {len(refused)} requests rejected by the chat template, {len(long)} that fill the context.",
                flush=True,
            )
        if not prompts:
            return None
        left_out = {**dict.fromkeys(refused, TEMPLATE_REFUSES), **dict.fromkeys(long, TOO_LONG)}
        return Questions(prompts, scorers(self._settings.metrics, self._settings.normalize), left_out)

    def _external_questions(self) -> dict[str, Questions]:
        files = self._settings.files
        if files.entries and not (self._template and self._settings.asks and self._settings.max_samples):
            raise ConfigError(
                "evaluate.files: nothing can be asked or scored: set tokens.chat_template, a generative metric in "
                "evaluate.metrics and evaluate.max_samples, or remove the files."
            )
        questions = {}
        for name, entry in files.named.items():
            with canonical_records(entry, files) as records:
                found = self._questions_of(records, None)
            if found is None:
                raise DataError(
                    f"evaluate.files: no question of {entry['path']} can be asked; all fill the model's context or are "
                    "rejected by its chat template: give shorter questions, or remove the file."
                )
            questions[name] = found
        return questions

    def examine(self, name: str, model: Any) -> None:
        """Measure the model and keep the results under ``name``."""
        facts: dict[str, Any] = {}
        if self._settings.scores_rows:
            facts |= self._score_rows(name, model)
        watch = TokenTimer(self._clock) if self._clock else None
        if self._held_out:
            facts |= self._ask(self._held_out, name, model, watch)
        for file, questions in self._files.items():
            self._file_facts[file][name] = self._ask(questions, name, model, watch)
        if watch:
            self._time(name, model, watch)
        # The harness takes minutes per model. The question is what the final model gained, so the step between is left
        # out.
        if self._settings.tasks and name in ("base", self._last):
            self._run_tasks(name, model)
        quantised = {"quantization": self._settings.model.quantization} if getattr(model, "is_quantized", False) else {}
        self._facts[name] = facts | quantised
        told = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in self._facts[name].items()}
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in told.items())}", flush=True)
        if self._held_out and (instead := self._held_out.example_if_none_is_right(name)):
            print(instead, flush=True)

    def _score_rows(self, name: str, model: Any) -> dict[str, Any]:
        pairs = bool(self._store.seconds.any())
        texts = self._store.records[self._store.plain]
        found = measure_likelihood(model, self._rows, self._settings.model, pairs, texts)
        check_finite(found, name)
        self._likelihoods[name] = found
        self._measures[name] = additive_measures(found, self._store, self._settings.metrics)
        facts = {**values(self._measures[name]), "n": int((~found.rejected).sum())}
        if PREFERENCE_ACCURACY in self._settings.metrics:
            facts |= preference_measures(found, None if name == "base" else self._likelihoods["base"])
        return facts

    def _ask(self, questions: Questions, name: str, model: Any, watch: TokenTimer | None) -> dict[str, Any]:
        made = generate_answers(model, self._tokenizer, questions.prompts, self._decoding, watch)
        questions.ids[name] = made.ids
        return questions.add(name, made.texts, made.cut)

    def judge(self, inputs: EvaluationInputs) -> None:
        """Have the reward model score all answers, once no other model is in memory."""
        if inputs.judge is None:
            return
        require_same_tokenizer(inputs.judge, inputs.model, "evaluate.reward_model", self._settings.judge_name)
        judge, ending = Judge(inputs.judge, self._settings.model, self._settings.batch_size), ending_of(self._rows)
        parts = [(self._held_out, self._facts)] if self._held_out else []
        for questions, facts in (*parts, *((found, self._file_facts[name]) for name, found in self._files.items())):
            for name, answers in questions.ids.items():
                pairs = zip(questions.prompts, answers, strict=True)
                scores = judge([finished(prompt.ids, ids, ending, self._decoding.stop_ids) for prompt, ids in pairs])
                facts[name] |= questions.reward(name, scores.tolist())
                print(f"{name}: reward {facts[name]['reward']:.6g}", flush=True)

    def _time(self, name: str, model: Any, batched: TokenTimer) -> None:
        asked = [self._held_out] if self._held_out else []
        prompts = [prompt for questions in (*asked, *self._files.values()) for prompt in questions.prompts]
        if not prompts:
            return
        single = TokenTimer(batched.clock)
        for prompt in prompts[: self._settings.latency_requests]:
            generate_answers(model, self._tokenizer, [prompt], self._decoding, single)
        self._timings[name] = timing_facts(single, batched, self._settings.batch_size)

    def _run_tasks(self, name: str, model: Any) -> None:
        found = run_tasks(model, self._tokenizer, self._settings.tasks, self._settings.batch_size)
        for task, facts in found.items():
            kept = self._task_facts.setdefault(task, {key: facts[key] for key in ("version", "n")})
            kept[name] = facts["measures"]

    def release_base(self) -> None:
        """Free the base model before the merged one is loaded."""
        del self.base
        free_memory()

    def finish(self) -> EvaluationResult:
        """Compare the models and return everything."""
        if moved := self._differences(self._measures, self._held_out):
            self._facts["differences"] = moved
        if self._held_out and (changed := self._held_out.changed("tuned", "merged")):
            self._facts["changed_answers"] = changed
        if self._measures:
            first = self._likelihoods["base"]
            self._facts["by_source"] = by_source(first, self._store, self._measures)
            self._facts["by_length"] = by_length(first, self._measures)
        if self._files:
            moves = {name: self._differences({}, questions) for name, questions in self._files.items()}
            self._facts["files"] = {
                name: {
                    **self._file_facts[name],
                    **({"differences": moves[name]} if moves[name] else {}),
                    **({"left_out": len(questions.left_out)} if questions.left_out else {}),
                }
                for name, questions in self._files.items()
            }
        if self._task_facts:
            self._facts["tasks"] = self._task_facts
        if self._more_stops:
            self._facts["stop_tokens"] = list(self._decoding.stop_ids)
        return EvaluationResult(self._facts, self._held_out, self._files, self._likelihoods, self._timings)

    def _differences(
        self, measures: dict[str, dict[str, Additive]], questions: Questions | None
    ) -> dict[str, dict[str, Interval]]:
        """Return the differences between each model and the next."""
        found = {}
        for step, (before, after) in STEPS_COMPARED.items():
            moved = measure_differences(measures[before], measures[after]) if {before, after} <= set(measures) else {}
            if questions and {before, after} <= set(questions.answers):
                moved |= questions.differences(before, after)
            if moved:
                found[step] = moved
        return found
