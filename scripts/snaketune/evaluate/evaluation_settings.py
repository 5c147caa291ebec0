"""Inputs and settings of an evaluation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from snaketune.evaluate.answers.evaluation_files import FileSettings
from snaketune.evaluate.answers.scorers import ANSWER_METRICS
from snaketune.evaluate.measures import LIKELIHOOD_METRICS
from snaketune.evaluate.models import ModelSettings
from snaketune.settings.evaluate_section import EvaluateSection
from snaketune.settings.evaluation_slices import EvaluationSlice


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """Paths of the models and the held-out data; ``merged`` is None for a run that does not merge.

    Attributes:
        tokens: folder with the tokenised splits and ``chat_template.jinja``.
        rows: packed rows of the held-out split.
        records: canonical records of the held-out split.
        judge: the reward model that scores answers, None without one.
    """

    model: Path
    adapter: Path
    merged: Path | None
    tokens: Path
    rows: Path
    records: Path
    judge: Path | None = None


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """The metrics to compute and their settings.

    Attributes:
        normalize: differences between an answer and its reference to ignore.
        latency_requests: requests that are answered one at a time, for the latency; 0 measures none.
        files: external evaluation files.
        tasks: task files of lm-evaluation-harness, ``{path, digest}`` each.
        judge_name: the run of the reward model that scores answers, for messages.
    """

    metrics: tuple[str, ...]
    max_samples: int
    max_new_tokens: int
    batch_size: int
    model: ModelSettings
    normalize: tuple[str, ...] = ("strip",)
    latency_requests: int = 0
    files: FileSettings = field(default_factory=FileSettings)
    tasks: tuple[dict[str, str], ...] = ()
    judge_name: str = ""

    @classmethod
    def of_slice(cls, cfg: EvaluationSlice) -> "EvaluationSettings":
        """Return the settings in a configuration slice, whose sections may be nested or flat."""
        own = cast(EvaluateSection, cfg.get("evaluate", cfg))
        return cls(
            tuple(own["metrics"]),
            own["max_samples"],
            own["max_new_tokens"],
            own["batch_size"],
            ModelSettings.of_slice(cfg),
            tuple(own.get("normalize", ("strip",))),
            own.get("latency_requests", 0),
            FileSettings.of_slice(cfg),
            tuple(cfg.get("evaluation_tasks", ())),
            (own.get("reward_model") or "").removeprefix("run:").strip(),
        )

    @property
    def scores_rows(self) -> bool:
        """Whether any measure needs likelihoods."""
        return any(metric in LIKELIHOOD_METRICS for metric in self.metrics)

    @property
    def asks(self) -> bool:
        """Whether any measure, or a reward model, needs answers."""
        return bool(self.judge_name) or any(metric in ANSWER_METRICS for metric in self.metrics)
