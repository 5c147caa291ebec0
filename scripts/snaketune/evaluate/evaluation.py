"""The evaluation of a run: base and tuned model in one process, the merged one after them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from snaketune.common.atomic import writing
from snaketune.data.rows import PackedRows
from snaketune.data.token_store import TokenStore
from snaketune.evaluate.generating import Decoding, generate_answers, with_room
from snaketune.evaluate.likelihood import Likelihoods, measure
from snaketune.evaluate.measures import LIKELIHOOD_METRICS, answer_measures, likelihood_measures, match
from snaketune.evaluate.models import ModelSettings, attach_adapter, free_memory, load_model, load_tokenizer
from snaketune.evaluate.prompts import Prompt, choose_prompts, stop_tokens


@dataclass(frozen=True, slots=True)
class Material:
    """Where the models and the held-out data lie; ``merged`` is None for a run that does not merge.

    Attributes:
        tokens: folder with the tokenised splits and ``chat_template.jinja``.
        rows: packed rows of the held-out split.
        records: canonical records of the held-out split.
    """

    model: Path
    adapter: Path
    merged: Path | None
    tokens: Path
    rows: Path
    records: Path


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is measured and how."""

    metrics: tuple[str, ...]
    max_samples: int
    max_new_tokens: int
    batch_size: int
    model: ModelSettings

    @classmethod
    def of_slice(cls, cfg: dict[str, Any]) -> "EvaluationSettings":
        """Return the settings in a configuration slice, whose sections may be nested or flat."""
        own = cfg.get("evaluate", cfg)
        numbers = (own["max_samples"], own["max_new_tokens"], own["batch_size"])
        return cls(tuple(own["metrics"]), *numbers, ModelSettings.of_slice(cfg))

    @property
    def scores_rows(self) -> bool:
        """Whether any measure needs likelihoods."""
        return any(metric in LIKELIHOOD_METRICS for metric in self.metrics)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the models did with the held-out split; the mappings go from base, tuned and merged to their results."""

    facts: dict[str, dict[str, float]]
    prompts: Sequence[Prompt] = ()
    answers: dict[str, list[str]] = field(default_factory=dict)
    likelihoods: dict[str, Likelihoods] = field(default_factory=dict)


def evaluate(material: Material, settings: EvaluationSettings) -> Evaluation:
    """Return likelihoods and answers of the base, the tuned and, where there is one, the merged model.

    Raises:
        TrainingError: if the adapter does not fit the model or a model's likelihood is not a number.
    """
    examination = _Examination(material, settings)
    tuned = attach_adapter(examination.base, material.adapter)
    with tuned.disable_adapter():
        examination.examine("base", tuned)
    examination.examine("tuned", tuned)
    del tuned
    examination.release_base()
    if material.merged is not None:
        examination.examine("merged", load_model(material.merged, settings.model))
    return Evaluation(examination.facts, examination.prompts, examination.answers, examination.likelihoods)


class _Examination:
    """The held-out data, opened once, and what the models made of them so far."""

    def __init__(self, material: Material, settings: EvaluationSettings):
        self._settings = settings
        self._rows = PackedRows(material.rows)
        self._store = TokenStore(material.tokens / "eval")
        self._tokenizer = load_tokenizer(material.model, settings.model)
        self.base = load_model(material.model, settings.model)
        self.prompts, self._decoding = self._requests(material)
        self.facts: dict[str, dict[str, float]] = {}
        self.answers: dict[str, list[str]] = {}
        self.likelihoods: dict[str, Likelihoods] = {}

    def _requests(self, material: Material) -> tuple[list[Prompt], Decoding | None]:
        if "exact_match" not in self._settings.metrics:
            return [], None
        template = (material.tokens / "chat_template.jinja").read_text(encoding="utf-8")
        limit = self._settings.max_samples
        found, refused = choose_prompts(material.records, self._store.records, limit, self._tokenizer, template)
        prompts = with_room(found, self.base)
        if refused or len(prompts) < len(found):
            too_long = len(found) - len(prompts)
            print(f"Left out: {refused} requests the template refuses, {too_long} that fill the context.", flush=True)
        if not prompts:
            return [], None
        stops = stop_tokens(self.base, self._tokenizer, template)
        pad = self._tokenizer.pad_token_id
        pad = pad if pad is not None else (stops or [0])[0]
        return prompts, Decoding(self._settings.max_new_tokens, self._settings.batch_size, tuple(stops), pad)

    def examine(self, name: str, model: Any) -> None:
        """Measure the model and keep the results under ``name``."""
        facts: dict[str, float] = {}
        if self._settings.scores_rows:
            self.likelihoods[name] = measure(model, self._rows, self._settings.model)
            facts |= likelihood_measures(self.likelihoods[name], self._store, self._settings.metrics, name)
        if self._decoding:
            self.answers[name] = generate_answers(model, self._tokenizer, self.prompts, self._decoding)
            facts |= answer_measures(self.answers[name], [prompt.reference for prompt in self.prompts])
        self.facts[name] = facts
        print(f"{name}: {', '.join(f'{key} {value:.6g}' for key, value in facts.items())}", flush=True)

    def release_base(self) -> None:
        """Drop the base model, so that the merged one never shares the memory with it."""
        del self.base
        free_memory()


def write_generations(path: str | Path, evaluation: Evaluation) -> None:
    """Write one JSON line per prompt with the answers and whether they match the reference."""
    with writing(path) as file:
        for place, prompt in enumerate(evaluation.prompts):
            given = {name: answers[place] for name, answers in evaluation.answers.items()}
            matches = {f"{name}_match": match(answer, prompt.reference) for name, answer in given.items()}
            line = {"record": prompt.record, "prompt": prompt.text, "reference": prompt.reference}
            file.write(orjson.dumps({**line, **given, **matches}, option=orjson.OPT_APPEND_NEWLINE))


def write_documents(path: str | Path, evaluation: Evaluation) -> None:
    """Write one JSON line per packed document: record, loss-bearing tokens and the models' summed losses in nats."""
    with writing(path) as file:
        if not evaluation.likelihoods:
            return
        first = next(iter(evaluation.likelihoods.values()))
        losses = {f"{name}_nll": found.nll for name, found in evaluation.likelihoods.items()}
        for place, (record, tokens) in enumerate(zip(first.records.tolist(), first.tokens.tolist(), strict=True)):
            line = {"record": record, "tokens": tokens, **{name: float(nll[place]) for name, nll in losses.items()}}
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
