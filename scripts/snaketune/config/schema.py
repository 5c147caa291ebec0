"""The configuration as pydantic models: the only source of keys, defaults, checks and documentation.

``config/schema.json`` and the table in ``config/README.md`` are generated from here.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from snaketune.config.schema_data import DataConfig, DedupeConfig, SplitConfig, TokensConfig
from snaketune.config.schema_model import AdapterConfig, ModelConfig, Section, as_list
from snaketune.config.schema_plan import PlanConfig
from snaketune.config.schema_train import TrainConfig


class PathsConfig(Section):
    """Output locations. Paths are operational: changing them never retrains."""

    results: str = Field("results", min_length=1, description="Folder of all results; move it to a bigger disk.")
    scratch: str | None = Field(
        None,
        description="Folder on a fast local disk (NVMe) that sources are copied to before they are read; `auto` picks "
        "the fastest local disk with enough space; null reads sources in place. Sources on the same disk are not "
        "copied, and a wiped scratch folder only costs another copy.",
    )
    publish: str | None = Field(
        None,
        description="For `snakemake publish`: hf://owner/name, a model repository of the hub (with several runs "
        "owner/name-run each), or s3://bucket/path, which needs the extra `storage`.",
    )
    publish_private: bool = Field(
        True,
        description="Whether a hub repository created by `publish` is private; an existing one is not changed.",
    )


class EvaluateConfig(Section):
    """How the base, the tuned and the merged model are compared on the held-out split."""

    metrics: Annotated[
        list[
            Literal[
                "loss",
                "perplexity",
                "bits_per_byte",
                "token_accuracy",
                "preference_accuracy",
                "exact_match",
                "json_valid",
                "json_equal",
                "numeric_match",
                "chrf",
                "bleu",
                "rouge_l",
            ]
        ],
        BeforeValidator(as_list),
    ] = Field(
        [
            "loss",
            "perplexity",
            "bits_per_byte",
            "token_accuracy",
            "preference_accuracy",
            "exact_match",
            "json_valid",
            "json_equal",
            "numeric_match",
        ],
        min_length=1,
        description="Metrics to compute. Those from exact_match on generate answers; preference_accuracy needs pairs "
        "(dpo), the json ones references that are JSON, numeric_match references that end in `#### 42` or are a "
        "number; chrf, bleu and rouge_l need the extra `text-metrics`.",
    )
    normalize: Annotated[
        list[Literal["whitespace", "case", "punctuation", "articles", "unicode", "strip"]], BeforeValidator(as_list)
    ] = Field(
        ["strip"],
        description="What exact_match ignores: white space beyond one space anywhere, upper case, punctuation, the "
        "articles a, an and the, Unicode forms (NFKC), or white space at the ends alone (strip).",
    )
    files: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [],
        description="Files of questions with reference answers (paths, globs, or folders, of which the test or "
        "validation split is used; any data format but text): the models answer at most max_samples of each, scored by "
        "the generative metrics in `metrics`. Also list them in split.decontaminate.",
    )
    columns: dict[str, str] = Field(
        {}, description="Columns of the files for the format's fields; empty uses data.columns."
    )
    tasks: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [],
        description="Task files (YAML) of lm-evaluation-harness with local data, run on the base and on the merged or "
        "tuned model; needs the extra `lm-eval`.",
    )
    reward_model: str | None = Field(
        None,
        description="Reward model that judges the generated answers, `run:<name>` of a run with `train.method: "
        "reward`: its mean score of each model's answers is the measure `reward`.",
    )
    max_samples: int = Field(
        200,
        ge=0,
        description="Maximum number of prompts to answer, of the held-out split and of each file.",
    )
    max_new_tokens: int = Field(256, ge=1, description="Longest generated answer, in tokens.")
    batch_size: int = Field(64, ge=1, description="Prompts answered in one batch; lower it if memory is short.")
    latency_requests: int = Field(
        5, ge=0, description="Requests answered one at a time to measure latency; 0 measures none."
    )


class MergedAdapter(Section):
    """One of the adapters that are merged together."""

    run: str = Field(..., min_length=1, description="Name of the run whose adapter it is.")
    weight: float = Field(1.0, allow_inf_nan=False, description="Factor of its update; may be negative.")


def _as_adapters(value: Any) -> Any:
    """Return the list with every run that is only named as a mapping; refuse entries that name none."""
    if not isinstance(value := as_list(value), list):
        return value
    items = [{"run": item} if isinstance(item, str) else item for item in value]
    if not all(isinstance(item, dict | MergedAdapter) and "run" in dict(item) for item in items):
        example = {"example": "{run: one, weight: 0.5}"}
        raise PydanticCustomError("adapters", "Every entry must name a run, as in {example}", example)
    return items


class MergeConfig(Section):
    """The merged model."""

    enabled: bool = Field(True, description="Merge the adapter into the base model and check the result.")
    adapters: Annotated[list[MergedAdapter], BeforeValidator(_as_adapters)] = Field(
        [],
        description="Adapters that are merged together, e.g. [{run: one, weight: 0.5}, {run: two, weight: 0.5}]: runs "
        "of this configuration with the same base model (list this run, too, to include it); empty merges this run's "
        "own.",
    )
    method: Literal[
        "cat",
        "linear",
        "ties",
        "dare_linear",
        "dare_ties",
        "magnitude_prune",
        "svd",
        "ties_svd",
        "dare_linear_svd",
        "dare_ties_svd",
        "magnitude_prune_svd",
    ] = Field(
        "cat",
        description="With `adapters`: how PEFT combines them. `cat` is the exact weighted sum of their updates; the "
        "methods up to magnitude_prune combine the A and B matrices of equal ranks separately; the svd methods combine "
        "their products.",
    )
    density: float = Field(
        0.5,
        gt=0,
        le=1,
        description="With ties, dare and magnitude_prune: fraction of each adapter's values that is kept.",
    )
    seed: int = Field(
        0,
        ge=0,
        description="With dare and with stochastic rounding: seed of the kept values and of the rounding.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Dtype of the merged weights; `auto` is that of the base checkpoint."
    )
    rounding: Literal["auto", "nearest", "stochastic"] = Field(
        "auto",
        description="How trained weights are rounded to `dtype`. `nearest` loses updates smaller than half a rounding "
        "step; `stochastic` keeps them on average, and is what `auto` uses for bfloat16 and float16.",
    )
    max_shard_size: str = Field(
        "5GB", pattern=r"^[1-9][0-9]*(KB|MB|GB)$", description="Maximum size of a weights file."
    )
    gguf_types: Annotated[
        list[Literal["native", "f32", "bf16", "f16", "q8_0", "q4_k_m"]], BeforeValidator(as_list), Field(min_length=1)
    ] = Field(
        ["native"],
        description="For `snakemake export_gguf`: types of the files, e.g. [f16, q8_0, q4_k_m]; `native` keeps the "
        "dtype of the merged weights, `q4_k_m` needs llama.cpp's llama-quantize on the PATH.",
    )
    gguf_converter: str | None = Field(
        None,
        min_length=1,
        description="For `snakemake export_gguf`: path of llama.cpp's convert_hf_to_gguf.py; null searches the PATH.",
    )


class RunConfig(Section):
    """The complete configuration of one run."""

    paths: PathsConfig = PathsConfig()
    data: DataConfig
    dedupe: DedupeConfig = DedupeConfig()
    split: SplitConfig = SplitConfig()
    tokens: TokensConfig = TokensConfig()
    model: ModelConfig
    adapter: AdapterConfig = AdapterConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    merge: MergeConfig = MergeConfig()
    plan: PlanConfig = PlanConfig()


class LinkedConfig(RunConfig):
    """A run's configuration with those of the runs it starts from, which are not its own keys."""

    base_run: "LinkedConfig | None" = Field(None, exclude=True, description="The run whose merged model is the base.")
    start_run: "LinkedConfig | None" = Field(None, exclude=True, description="The run whose adapter it continues from.")
    merged_runs: "dict[str, LinkedConfig]" = Field(
        {}, exclude=True, description="The runs whose adapters are merged, by name."
    )
    reward_runs: "dict[str, LinkedConfig]" = Field(
        {}, exclude=True, description="The runs whose reward models it trains by, by name."
    )
    judge_run: "LinkedConfig | None" = Field(
        None, exclude=True, description="The run whose reward model judges its answers."
    )


class RunEntry(RunConfig):
    """An entry of `runs`: any key of a run, its own preset, and a grid."""

    preset: str | None = Field(None, description="Name of a file in config/presets, for this run.")
    grid: dict[str, list[Any]] | None = Field(
        None,
        description="Values of some keys, e.g. {train.learning_rate: [1e-4, 2e-4], adapter.r: [8, 32]}: a run of every "
        "combination, side by side in `compare.html` at the end.",
    )


class FileConfig(RunConfig):
    """The content of config/config.yaml: a preset, runs and any key of a run."""

    preset: str | None = Field(None, description="Name of a file in config/presets; your values override it.")
    runs: dict[str, RunEntry | None] = Field(
        {}, description="Runs by name, each with the keys that differ; without any, there is one run named `default`."
    )
