"""GRPO by TRL's trainer: prompts, rewards, metrics and checkpoints of this project around it."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from transformers import AutoTokenizer, set_seed
from trl import GRPOConfig, GRPOTrainer

from snaketune.core.atomic import remove_tree
from snaketune.core.errors import TrainingError
from snaketune.data.rows.packed_rows import PackedRows
from snaketune.evaluate.models import ModelSettings
from snaketune.evaluate.reward_judge import Judge, ending_of, require_same_tokenizer
from snaketune.settings.evaluation_slices import ModelUse
from snaketune.settings.operational import Operational
from snaketune.settings.train_section import TrainSection
from snaketune.settings.training_slices import TrainingSlice
from snaketune.train.arguments import training_arguments
from snaketune.train.checkpoints.checkpoint_schedule import CheckpointSchedule, LogSchedule
from snaketune.train.device import Device
from snaketune.train.hooks import Hooks
from snaketune.train.loading.adapting import add_adapter
from snaketune.train.loading.loading import load_base
from snaketune.train.loading.origins import NO_REWARDS
from snaketune.train.monitoring.metrics import MetricsWriter
from snaketune.train.monitoring.step_timers import TimeSplit, TokenCounter
from snaketune.train.reinforcement.prompt_rows import Prompts, prompts_of, require_context
from snaketune.train.reinforcement.rewards import Reward, ScoredBy, rewards_of
from snaketune.train.safety import LossWatch, check_rows

# What TRL logs under other names, and what of it is kept.
KEPT = {
    **{name: name for name in ("loss", "grad_norm", "learning_rate", "reward", "reward_std", "frac_reward_zero_std")},
    **{name: name for name in ("kl", "entropy")},
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "clipped_ratio",
}
GRPO_SAME_NAMES = (
    *("num_generations", "max_completion_length", "temperature", "top_p", "beta", "num_iterations"),
    "reward_weights",
)
OF_VLLM = ("use_vllm", "vllm_mode", "vllm_gpu_memory_utilization", "vllm_server_base_url")
GENERATION = "generation"
# Log lines whose mean reward is compared.
REWARD_WINDOW = 5


class GroupTrainer(GRPOTrainer):
    """TRL's trainer on prompts that are token ids already, with checkpoints that are sealed.

    Attributes:
        counter: tokens seen so far: prompts and answers; trained are those of the answers.
        answers: how many this process generated.
        times: where the time goes; generating is a part of computing.
    """

    def __init__(self, *args, prompts: Prompts, hooks: Hooks, **kwargs):
        super().__init__(*args, **kwargs)
        self._ids = dict(zip(prompts.texts, prompts.ids, strict=True))
        self._hooks = hooks
        self._redirected: Path | None = None
        self.counter, self.times, self.answers = TokenCounter(), TimeSplit(parts=(GENERATION,)), 0

    def _tokenize_prompts(self, prompts):
        """Return the prompts' own ids: text that is tokenised again may have others."""
        return [list(self._ids[prompt]) for prompt in prompts], None, {}

    def _generate(self, prompts):
        with self.times.spending(GENERATION):
            return super()._generate(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        lengths = sum(map(len, completion_ids_list))
        total = lengths + sum(len(self._ids[prompt]) for prompt in prompts)
        self.counter.total += total
        self.counter.since_start += total
        # Counted here because every answer passes through here exactly once, also if it is used for several steps.
        self.counter.trained += lengths
        self.answers += len(prompts)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def training_step(self, *args, **kwargs):
        """Run one forward and backward pass and check its loss."""
        loss = super().training_step(*args, **kwargs)
        self._require_finite("loss", loss)
        return loss

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        self._require_finite("gradient norm", norm)
        return norm

    def _require_finite(self, name: str, value: Any) -> None:
        if value is not None and not math.isfinite(float(value)):
            raise TrainingError(
                f"step {self.state.global_step + 1}: the {name} is {float(value)}: lower train.learning_rate or raise"
                " train.grpo.beta; nothing is published and the checkpoints from before this step are kept."
            )

    def _get_output_dir(self, trial) -> str:
        return str(self._redirected) if self._redirected else super()._get_output_dir(trial)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write no model card: the project has its own."""

    def _save_checkpoint(self, model, trial) -> None:
        root, name = Path(str(self.args.output_dir)), f"checkpoint-{self.state.global_step}"
        partial = self._redirected = root / ".partial"
        remove_tree(partial)
        try:
            with self.times.spending("checkpoint"):
                super()._save_checkpoint(model, trial)
                (partial / name / "training_args.bin").unlink(missing_ok=True)
                facts = {"step": self.state.global_step, "max_steps": self.state.max_steps, **self.counter.facts()}
                self._hooks.seal(partial / name, root / name, facts)
        finally:
            self._redirected = None
        if self._hooks.saved:
            self._hooks.saved(self.times.last["checkpoint"])


class GroupMetrics(MetricsWriter):
    """Writes the metrics of a training by rewards, and stops it if its reward collapses.

    Args:
        fall: how far the mean reward of five lines may be below the best such mean; None never stops.
        is_scored: whether a reward model gives rewards: its scores have no unit, so that ``fall`` is in deviations of
            the first rewards.
    """

    def __init__(self, *args, times: TimeSplit, fall: float | None, is_scored: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self._times_of_run, self._fall = times, fall
        self._unit: float | None = None if is_scored else 1.0
        self._rewards: list[float] = []
        self._best = -math.inf

    def on_train_begin(self, args, state, control, **kwargs):
        """Start measuring, and discard the lines after the checkpoint."""
        super().on_train_begin(args, state, control, **kwargs)
        self._times_of_run.start()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append the line of a finished interval.

        Raises:
            TrainingError: if the reward collapses; nothing is published then.
        """
        kept = {new: (logs or {})[old] for old, new in KEPT.items() if (logs or {}).get(old) is not None}
        if "loss" not in kept or "reward" not in kept:
            return
        super().on_log(args, state, control, logs=kept, **kwargs)
        if self._unit is None:
            # At least 1, so that nearly equal first rewards do not make the limit tiny.
            self._unit = max(1.0, kept.get("reward_std", 1.0))
        self._see(state.global_step, kept["reward"])

    def _see(self, step: int, reward: float) -> None:
        self._rewards = [*self._rewards, reward][-REWARD_WINDOW:]
        if len(self._rewards) < REWARD_WINDOW:
            return
        mean = sum(self._rewards) / REWARD_WINDOW
        self._best = max(self._best, mean)
        fall = None if self._fall is None else self._fall * (self._unit or 1.0)
        if fall is not None and mean < self._best - fall:
            raise TrainingError(
                f"step {step}: the mean reward of the last {REWARD_WINDOW} lines is {mean:.4g}, "
                f"more than {fall:.4g} below"
                f" the best, {self._best:.4g}: lower train.learning_rate or raise train.grpo.beta, or set"
                " train.grpo.max_reward_fall higher (null never stops); nothing is published."
            )


def build(
    folder: Path,
    rows: PackedRows,
    cfg: TrainingSlice,
    settings: Operational,
    work: Path,
    device: Device,
    hooks: Hooks,
    start: Path | None,
    judges: Mapping[str, Path] = NO_REWARDS,
) -> GroupTrainer:
    """Return TRL's trainer, ready to train; nothing is generated yet.

    Raises:
        ConfigError: if a reward cannot be loaded or answers do not fit the model's context.
        DataError: if there are no prompts.
    """
    train, group = cfg["train"], cfg["train"]["grpo"]
    set_seed(train["seed"])
    tokenizer = AutoTokenizer.from_pretrained(
        folder, padding_side="left", local_files_only=True, trust_remote_code=cfg["model"]["trust_remote_code"]
    )
    prompts = prompts_of(rows, tokenizer, group["rewards"])
    models = {name: _scoring(name, path, folder, rows, prompts, cfg) for name, path in judges.items()}
    rewards: list[Any] = rewards_of(group, models)
    # Answers are generated from padded batches, which kernels for packed rows do not know.
    loading = cfg.copy()
    if cfg["model"]["attn_implementation"] == "auto":
        loading["model"] = {**cfg["model"], "attn_implementation": "sdpa"}
    base = load_base(folder, loading, device)
    require_context(prompts, group["max_completion_length"], getattr(base.config, "max_position_embeddings", None))
    # The stop tokens of the data: TRL takes those of the generation configuration, which may lack the end of a turn.
    base.generation_config.eos_token_id = list(prompts.stops)
    model = add_adapter(base, cfg["adapter"], start)
    check_rows(model, rows, rows)
    kind = functools.partial(GRPOConfig, **own_arguments(group))
    every = int(train["gradient_checkpointing"] is True)
    arguments = training_arguments(train, settings, work, device, False, every, kind=kind)
    return GroupTrainer(
        model,
        reward_funcs=rewards,
        args=arguments,
        train_dataset=Dataset.from_list(prompts.examples()),
        processing_class=tokenizer,
        prompts=prompts,
        hooks=hooks,
    )


def own_arguments(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of TRL's trainer that the section ``train.grpo`` sets, those of vLLM only if it is used."""
    names = (*GRPO_SAME_NAMES, *OF_VLLM) if group["use_vllm"] else GRPO_SAME_NAMES
    return {name: group[name] for name in names if name in group}


def _scoring(name: str, judge: Path, folder: Path, rows: PackedRows, prompts: Prompts, cfg: TrainingSlice) -> ScoredBy:
    """Return the reward model ``name``, which reads the tokens of the model in ``folder``."""
    require_same_tokenizer(judge, folder, "train.grpo.rewards", name.removeprefix("run:").strip())
    ids = dict(zip(prompts.texts, prompts.ids, strict=True))
    return ScoredBy(Judge(judge, ModelSettings.of_slice(cast(ModelUse, cfg))), ids, ending_of(rows), prompts.stops)


def add_callbacks(
    trainer: GroupTrainer, schedule: CheckpointSchedule, stop: Any, train: TrainSection, metrics: Path, sinks: Any
) -> None:
    """Add the callbacks that save, stop and write to a training."""
    for name in ("PrinterCallback", "ProgressCallback"):
        for callback in [each for each in trainer.callback_handler.callbacks if type(each).__name__ == name]:
            trainer.remove_callback(callback)
    writer = GroupMetrics(
        metrics,
        trainer.counter,
        trainer.times,
        LossWatch(None),
        sinks=sinks,
        times=trainer.times,
        fall=train["grpo"]["max_reward_fall"],
        is_scored=any(isinstance(each, Reward) and each.is_scored for each in trainer.reward_funcs),
    )
    for callback in (schedule, LogSchedule(train["logging_steps"]), stop, writer):
        trainer.add_callback(callback)
