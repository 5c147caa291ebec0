"""No variable that another tool left in the shell reaches a job when it could change a result."""

import fnmatch
import functools
import os
import re
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest

from snaketune.core.environment import LAUNCHER, PASSED_ON, REMOVED, WORKER, _matches, clean, is_passed, is_removed
from snaketune.workflow.job_environment import prepare_job_environment

PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "huggingface_hub",
    "numpy",
    "peft",
    "safetensors",
    "snakemake",
    "tokenizers",
    "torch",
    "transformers",
)
# Parts that no job imports: tests, builds of other packages, command lines.
ELSEWHERE = re.compile(
    r"/(tests?|testing|_internal|test_utils|distutils|f2py|benchmark|hipify|commands|cli|vllm\w*)/|testing_utils|/test_"
    r"|conftest|collect_env|cpp_extension|_sandbox|_webhooks"
)
NAME = r"""f?["']([A-Z_][A-Z0-9_]{2,})["']"""
READS = [
    re.compile(rf"(?:environ(?:\.get|\.pop|\.setdefault)?|getenv|_env|_from_env\w*|env_name_\w+)\s*[(\[=]+\s*{NAME}"),
    re.compile(rf"{NAME}\s+(?:not\s+)?in\s+(?:os\.)?environ\b"),
]
EXAMPLES = {"FOO", "PLUGINS_DIR"}  # of docstrings
LISTS = re.compile(r"(?:_from_env\w*|env_name_\w+)\s*[(=]\s*\[([^\]]*)\]")
BY_CONSTANT = re.compile(r"environ(?:\.get)?[(\[]\s*([A-Z][A-Z0-9_]+)\b")


def names_read(text):
    """The names of the variables that a Python source reads."""
    found = {name for pattern in READS for name in pattern.findall(text)}
    found |= {name for names in LISTS.findall(text) for name in re.findall(NAME, names)}
    for constant in BY_CONSTANT.findall(text):
        found |= set(re.findall(rf"^{constant}\s*(?::[^=]+)?=\s*{NAME}", text, re.MULTILINE))
    return found - EXAMPLES


@functools.cache
def variables_of(package):
    """The variables that the Python sources of an installed package read, with a file for each."""
    spec = find_spec(package)
    if spec is None:
        return {}
    root = Path(spec.origin).parent
    found = {}
    for path in root.rglob("*.py"):
        if ELSEWHERE.search(path.as_posix()):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if "env" in text:
            found |= dict.fromkeys(names_read(text), path.relative_to(root.parent).as_posix())
    return found


def test_the_scanner_sees_every_way_of_reading():
    text = """
os.environ.get("AAA"); os.getenv('BBB', "0"); os.environ["CCC"]; "DDD" in os.environ; parse_flag_from_env("EEE", False)
get_int_from_env(["FFF", "GGG"], 0); x: bool = Config(env_name_force="HHH"); os.environ.get(NAME)
NAME = "III"
"""
    assert names_read(text) == {c * 3 for c in "ABCDEFGHI"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_variable_of_an_installed_package_is_classified(package):
    unknown = {
        name: place for name, place in variables_of(package).items() if not is_passed(name) and not is_removed(name)
    }
    assert not unknown, f"add to PASSED or REMOVED of core/environment.py: {unknown}"


def test_patterns_match_as_those_of_the_shell_do():
    texts = [*PASSED_ON.values(), *REMOVED.values(), LAUNCHER]
    patterns = " ".join(texts).split()
    names = {pattern.replace("*", between) for pattern in patterns for between in ("", "X", "A_B")}
    names |= {changed for name in names for changed in (name[:-1], name[1:], name + "Z", "Z" + name, name.lower())}
    names |= {pattern.replace("_*_", "_") for pattern in patterns}
    for text in texts:
        own = text.split()
        assert all(pattern.count("*") <= 1 for pattern in own)
        anyone = re.compile("|".join(map(fnmatch.translate, own)))
        assert [name for name in names if _matches(name, text) != bool(anyone.match(name))] == []


def test_the_scanner_finds_what_is_known_to_be_read():
    assert {"ACCELERATE_MIXED_PRECISION", "PMI_SIZE", "LOCAL_RANK"} <= set(variables_of("accelerate"))
    assert {"TORCHINDUCTOR_MAX_AUTOTUNE", "TORCHDYNAMO_DISABLE"} <= set(variables_of("torch"))
    assert len(variables_of("torch")) > 200


# What compiled libraries read, by their documentation and the texts in their files.
COMPILED = """
    ATEN_CPU_CAPABILITY MKL_CBWR MKL_ENABLE_INSTRUCTIONS MKL_DYNAMIC MKL_DISABLE_FAST_MM OPENBLAS_CORETYPE OMP_DYNAMIC
    OMP_THREAD_LIMIT OMP_SCHEDULE NPY_DISABLE_CPU_FEATURES NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE
    CUBLAS_WORKSPACE_CONFIG TORCH_BLAS_PREFER_CUBLASLT PYTORCH_TUNABLEOP_ENABLED NCCL_ALGO NCCL_PROTO ONEDNN_MAX_CPU_ISA
    ONEDNN_DEFAULT_FPMATH_MODE DNNL_MAX_CPU_ISA TORCH_LINEAR_FLATTEN_3D TORCH_MKLDNN_MATMUL_MIN_DIM GLIBC_TUNABLES
    ARROW_USER_SIMD_LEVEL PYTORCH_NO_CUDA_MEMORY_CACHING PET_NPROC_PER_NODE PET_NNODES PYTHONPATH PYTHONWARNINGS
    PYTHONOPTIMIZE BASH_ENV
"""
HARMLESS = """
    HF_HOME HF_TOKEN HF_HUB_OFFLINE HF_ENDPOINT CUDA_VISIBLE_DEVICES PYTORCH_CUDA_ALLOC_CONF AWS_ACCESS_KEY_ID
    HTTPS_PROXY no_proxy NCCL_SOCKET_IFNAME NCCL_IB_HCA NCCL_DEBUG WANDB_API_KEY SLURM_JOB_ID LD_LIBRARY_PATH
    TRANSFORMERS_VERBOSITY TORCHINDUCTOR_CACHE_DIR OMP_NUM_THREADS LANG EDITOR SSH_AUTH_SOCK
"""


@pytest.mark.parametrize("name", COMPILED.split())
def test_what_changes_numbers_below_python_is_removed(name):
    assert is_removed(name)


@pytest.mark.parametrize("name", HARMLESS.split())
def test_what_a_job_needs_is_passed(name):
    environment = {name: "value"}
    assert clean(environment) == []
    assert environment[name] == "value"


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
# What shells of other tools hold, and how many of it is foreign.
ENVIRONMENTS = [
    *({"ACCELERATE_MIXED_PRECISION": value} for value in ("bf16", "fp16", "fp8", "no")),
    {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
    {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
    {"ACCELERATE_USE_MEGATRON_LM": "true"},
    {"ACCELERATE_USE_CPU": "true"},
    {"ACCELERATE_TORCH_DEVICE": "meta"},
    {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_MODE": "max-autotune"},
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2"},
    TORCHRUN,
    TORCHRUN | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
    TORCHRUN | {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "0", "GROUP_RANK": "0"},
    {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "8", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "pod-0"},
    {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "pod-0", "MASTER_PORT": "23456"},
    {"LOCAL_RANK": "0"},
    {"WORLD_SIZE": "2"},
    {"PMI_RANK": "0", "PMI_SIZE": "4"},
    {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    {"MV2_COMM_WORLD_SIZE": "2"},
    {"MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"},
    {"SM_HP_MP_PARAMETERS": '{"partitions": 2}', "SM_FRAMEWORK_PARAMS": "{}"},
    {"FORK_LAUNCHED": "1"},
    {"XLA_USE_BF16": "1", "PJRT_DEVICE": "CPU"},
    {"TORCHDYNAMO_DISABLE": "1"},
    {"TORCH_COMPILE_DISABLE": "1"},
    {"TORCHINDUCTOR_MAX_AUTOTUNE": "1"},
    {"NVIDIA_TF32_OVERRIDE": "1"},
    {"CUBLAS_WORKSPACE_CONFIG": ":16:8"},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"MKL_CBWR": "COMPATIBLE"},
    {"OPENBLAS_CORETYPE": "Prescott"},
    {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
    {"OMP_DYNAMIC": "true", "OMP_THREAD_LIMIT": "1"},
    {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"},
    {"PYTHONPATH": "/opt/other/site-packages"},
    {"PYTHONWARNINGS": "error"},
    {"PYTHONOPTIMIZE": "2"},
    {"TRANSFORMERS_SDPA_FORCE_GQA": "1"},
    {"USE_TORCH": "0", "USE_TF": "1"},
    {"USE_HUB_KERNELS": "1"},
    {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
    {WORKER + "S": "1", "ACCELERATE_DOWNCAST_BF16": "true"},
]


@pytest.mark.parametrize("left", ENVIRONMENTS, ids=lambda left: next(iter(left)))
def test_environments_of_other_tools_leave_nothing(left):
    bare = {"HOME": "/home/one", "PATH": "/bin"}
    expected = dict(bare)
    clean(expected)
    environment = bare | left
    removed = clean(environment)
    assert set(left) - set(removed) <= {f"{WORKER}S"}
    assert {name: value for name, value in environment.items() if name != f"{WORKER}S"} == expected


def test_a_process_of_an_own_training_keeps_what_its_launcher_says():
    environment = {WORKER: "1", **TORCHRUN, "PMI_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "bf16"}
    assert clean(environment) == ["ACCELERATE_MIXED_PRECISION", "PMI_SIZE"]
    assert environment["RANK"] == "0"


def test_the_tables_hold_each_pattern_once():
    patterns = " ".join([*PASSED_ON.values(), *REMOVED.values()]).split()
    assert len(patterns) == len(set(patterns))
    assert all(is_removed(name) for name in LAUNCHER.replace("*", "X").split())


@pytest.mark.parametrize("in_job", [False, True])
def test_snakemake_in_a_cluster_job_finds_its_plugins_where_this_one_does(in_job):
    with mock.patch.dict(os.environ, {"PYTHONPATH": "/plugins", "RANK": "1", "PATH": "/bin"}, clear=True):
        said = prepare_job_environment(in_job)
        assert os.environ.get("PYTHONPATH") == ("/plugins" if in_job else None)
    assert ("PYTHONPATH" in said) is not in_job and "RANK" in said
