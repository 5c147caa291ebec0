"""Environment variables of other tools, and whether a job sees them.

accelerate, transformers, torch, MKL and others read several hundred variables, of which many change numbers
(``ACCELERATE_MIXED_PRECISION``) or control flow (``WORLD_SIZE``). The configuration decides a result, so these are
removed before anything heavy is imported; variables for paths, credentials and verbosity are passed through.
``tests/unit/test_common_variables.py`` scans the installed packages for variables that are in neither table.
"""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cache

# Set by run_workers for the processes that it starts: these keep the launcher's variables.
WORKER = "SNAKETUNE_WORKER"
# Variables that torch's launcher sets for its workers.
LAUNCHER = """
    RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_NAME ROLE_WORLD_SIZE
    MASTER_ADDR MASTER_PORT TORCHELASTIC_* TORCH_NCCL_ASYNC_ERROR_HANDLING NCCL_ASYNC_ERROR_HANDLING
"""

# Reason -> patterns. These win over REMOVED, so that a family can be removed but for a few of its members. Snakemake
# gives each job its number of threads in OMP_NUM_THREADS and the like; torch is told train.cpu_threads besides.
PASSED_ON = {
    "paths and caches": """
        PATH HOME SHELL USER USERNAME TMP TEMP TMPDIR XDG_* HF_HOME HF_*_CACHE HF_MODULES_CACHE
        HF_DATASETS_*_PATH HUGGINGFACE_*_CACHE TRANSFORMERS_CACHE TORCH_HOME TORCH_HUB TORCH_MODEL_ZOO
        TORCH_EXTENSIONS_DIR TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR TRITON_HOME TRITON_*_PATH QUACK_CACHE_DIR
        QUACK_HOME CUDA_HOME CUDA_PATH CUDACXX CUDA_INC_PATH CUDNN_HOME CUDNN_PATH CUDNN_LIBRARY NVTOOLSEXT_PATH
        NVSHMEM_LIB_DIR ROCSHMEM_LIB_DIR ROCM_HOME ROCM_PATH ONEAPI_ROOT MKLROOT LD_LIBRARY_PATH LD_PRELOAD
        CPLUS_INCLUDE_PATH VIRTUAL_ENV CONDA_* HALIDE_* LEVEL_ZERO_V1_SDK_PATH TORCH_INDUCTOR_INSTALL_GXX
        APPTAINER_CACHEDIR ARROW_LIBHDFS_DIR CLAUDE_CONFIG_DIR ProgramFiles PROGRAMFILES SYSTEMROOT WINDIR
        WINDOWS_CUDA_HOME MSYSTEM VC* VSCMD_ARG_TGT_ARCH PROCESSOR_* R_LIBS
    """,
    "the network, credentials and services": """
        HF_* HUGGINGFACE_* HUGGING_FACE_HUB_TOKEN TRANSFORMERS_OFFLINE DISABLE_TELEMETRY DO_NOT_TRACK AWS_*
        GITHUB_* GITLAB_TOKEN ACTIONS_* OAUTH_* OPENID_PROVIDER_URL SPACE_* SBX_* VERTEX_PRODUCT WEBHOOK_SECRET
        ECS_CONTAINER_METADATA_URI TRAINING_JOB_ARN ARROW_S3_* DISABLE_REQUEST_COMPRESSION *_PROXY *_proxy
        SNAKEMAKE_* DISABLE_SAFETENSORS_CONVERSION
    """,
    "where runs are shown (train.report_to)": """
        WANDB_* MLFLOW_* CLEARML_* COMET_* SWANLAB_* TENSORBOARD_LOGGING_DIR NEPTUNE_* DISABLE_*_INTEGRATION
        KUBEFLOW_TRAINER_SERVER_URL DATABRICKS_RUNTIME_VERSION RAY_SCOPE BRANCH
    """,
    "how much is said, and debugging": """
        CI TERM NO_COLOR USE_COLOR LOGLEVEL TQDM_* *_VERBOSITY *_LOG_LEVEL *_LOGLEVEL ACCELERATE_ENABLE_RICH
        TRANSFORMERS_NO_ADVISORY_WARNINGS NETWORK_DEBUG_REPORT* VSCODE_PID TORCH_LOGS* TORCH_TRACE TORCH_DTRACE
        TORCH_SHOW_CPP_STACKTRACES TORCH_DISABLE_ADDR2LINE TORCH_ADDR2LINE_BINARY TORCH_SYMBOLIZE_MODE
        TORCH_INCLUDE_* TORCH_FR_* TORCH_WORKER_SERVER_SOCKET TORCH_PROFILER_* TORCH_CUPTI_* MKL_VERBOSE*
        OPENBLAS_VERBOSE OMP_DISPLAY_* OMP_AFFINITY_FORMAT GOMP_DEBUG ARROW_* NUMPY_WARN_IF_NO_MEM_POLICY
        KINETO_* FR_TRACE_VERBOSE_OUTPUT TP_VERBOSE_LOGGING *_LAUNCH_BLOCKING BENCHMARK_USE_DEV_SHM
        TEARDOWN_CUPTI DISABLE_CUPTI_LAZY_REINIT CUDA_PROFILE
    """,
    "which devices, memory and cores": """
        CUDA_DEVICE_ORDER CUDA_MODULE_LOADING *_VISIBLE_DEVICES *_VISIBLE_CORES *_VISIBLE_MODULES
        ZE_AFFINITY_MASK ZE_FLAT_DEVICE_HIERARCHY PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF
        PYTORCH_HIP_ALLOC_CONF PYTORCH_NVML_BASED_CUDA_CHECK MALLOC_* NUMPY_MADVISE_HUGEPAGE
        TOKENIZERS_PARALLELISM TORCHINDUCTOR_COMPILE_THREADS BNB_CUDA_VERSION BNB_ROCM_VERSION OMP_NUM_THREADS
        OMP_WAIT_POLICY OMP_PROC_BIND OMP_PLACES OMP_CANCELLATION OMP_MAX_TASK_PRIORITY OMP_DEFAULT_DEVICE
        GOMP_CPU_AFFINITY GOMP_SPINCOUNT GOMP_STACKSIZE OMP_STACKSIZE KMP_AFFINITY KMP_BLOCKTIME MKL_NUM_THREADS
        OPENBLAS_NUM_THREADS OPENBLAS_THREAD_TIMEOUT GOTO_NUM_THREADS VECLIB_MAXIMUM_THREADS NUMEXPR_NUM_THREADS
    """,
    "how processes on several nodes reach each other": """
        NCCL_SOCKET_* NCCL_IB_* NCCL_NET* NCCL_DEBUG* NCCL_P2P_* NCCL_SHM_* NCCL_TIMEOUT TORCH_NCCL_DEBUG_INFO_*
        TORCH_NCCL_TRACE_* TORCH_DISTRIBUTED_DEBUG GLOO_* TP_SOCKET_IFNAME USE_LIBUV SLURM_*
    """,
    "compilers of kernels": """
        CC CXX MAX_JOBS TORCH_CUDA_ARCH_LIST TORCH_DONT_CHECK_COMPILER_ABI
    """,
}

REMOVED = {
    "dtype and sharding: train.bf16, train.fp16 and train.strategy decide": """
        ACCELERATE_* FSDP_* PARALLELISM_CONFIG_* FORK_LAUNCHED DEEPSPEED_* DS_ACCELERATOR DS_ENV_FILE MEGATRON_*
    """,
    "processes of a training: the workflow starts them": f"""
        {LAUNCHER} {WORKER}
        NODE_RANK NPROC PET_* MPI_* MV2_* OMPI_* PMI_* PMIX_* I_MPI_* HYDRA_* SMDATAPARALLEL_* SM_HP_* SM_FRAMEWORK_*
        SM_NUM_* SAGEMAKER_*
        TORCH_ELASTIC_* TORCH_DIST* PYTHON_EXEC
    """,
    "kernels: train.tf32, train.deterministic and train.torch_compile decide": """
        NVIDIA_TF32_OVERRIDE CUBLAS_* CUBLASLT_* CUDNN_* FLASH_ATTENTION_* TORCH_* PYTORCH_* TORCHDYNAMO_*
        TORCHINDUCTOR_* TORCHEXPORT_* AOT_* AOTINDUCTOR_* DISABLE_ADDMM_CUDA_LT PT2_* TRITON_* CUTLASS_*
        CUTEDSL_* QUACK_* ENABLE_PERSISTENT_TMA_MATMUL ENABLE_TEMPLATE_TMA_* ENABLE_TMA_* ENABLE_MEM_REUSE
        ENABLE_IPC_FABRIC ENABLE_PYTORCH_* LTC_* NCCL_* UNSAFE_SKIP_FSDP_MODULE_GUARDS TENSORIFY_PYTHON_SCALARS
        USE_HUB_KERNELS TRANSFORMERS_* PARTITIONER_* LOG_AUTOTUNE_RESULTS LOG_TLPARSE FX_* INDUCTOR_*
        COMPILE_STROBELIGHT_* DUMP_AOTI_MINIFIER FAKE_ALLOW_META DCP_* USE_LARGE_PARTITION_KERNEL
        CUDNN_ATTENTION IS_FBCODE MAST_* TVM_SCHEDULER NPU_* PT_HPU_* PJRT_DEVICE TPU_* XLA_* USE_TORCH_XLA
        _SPLITTER_* _TORCHINDUCTOR_* OMP_PREFIX JAX_PLATFORMS AOTI_RUNTIME_* HCCL_DETERMINISTIC
    """,
    "sums on a CPU keep their order whatever the shell says": """
        ATEN_CPU_CAPABILITY MKL_* DNNL_* ONEDNN_* OPENBLAS_* BLIS_* OMP_* KMP_* GOMP_* NPY_* GLIBC_TUNABLES
        ARROW_USER_SIMD_LEVEL
    """,
    "packages are looked for in the workflow's environment alone": """
        PYTHONPATH PYTHONHOME PYTHONUSERBASE PYTHONSAFEPATH PYTHONOPTIMIZE PYTHONWARNINGS PYTHONINSPECT
        PYTHONDEVMODE PYTHONIOENCODING PYTHONPLATLIBDIR BASH_ENV BASH_FUNC_python* BASH_FUNC_tee* USE_TORCH
        USE_TF USE_JAX TRUST_REMOTE_CODE EAGER_IMPORT
    """,
}
# PYTHONNOUSERSITE: no package of ~/.local; PYTHONUTF8: files and output are UTF-8 under any locale.
SET = {"PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1"}


# Exceptions: members of a passed family that do change results.
EXCEPTIONS = ("ARROW_USER_SIMD_LEVEL",)


def is_passed(name: str) -> bool:
    """Tell whether a variable is known to change neither results nor control flow."""
    return name not in EXCEPTIONS and any(_matches(name, patterns) for patterns in PASSED_ON.values())


def is_removed(name: str) -> bool:
    """Tell whether a variable is hidden from jobs."""
    return name not in SET and not is_passed(name) and any(_matches(name, patterns) for patterns in REMOVED.values())


def clean(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove from ``environment`` what would change a result, and return the names, sorted.

    A process of a training that the workflow started itself (``SNAKETUNE_WORKER``) keeps the launcher's variables.
    """
    kept = f"{LAUNCHER} {WORKER}" if WORKER in environment else ""
    names = sorted(name for name in environment if is_removed(name) and not _matches(name, kept))
    for name in names:
        del environment[name]
    environment.update(SET)
    return names


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Patterns of names, grouped by kind because every script checks each variable of the environment.

    Attributes:
        names: patterns without a star.
        beginnings: the part before a trailing star; ``endings`` the part after a leading one.
        around: the parts before and after a star in the middle.
    """

    names: frozenset[str]
    beginnings: tuple[str, ...]
    endings: tuple[str, ...]
    around: tuple[tuple[str, str], ...]

    def match(self, name: str) -> bool:
        return (
            name in self.names
            or name.startswith(self.beginnings)
            or name.endswith(self.endings)
            or any(
                len(name) >= len(before) + len(behind) and name.startswith(before) and name.endswith(behind)
                for before, behind in self.around
            )
        )


def _matches(name: str, patterns: str) -> bool:
    return _sorted(patterns).match(name)


@cache
def _sorted(patterns: str) -> _Patterns:
    """Return the patterns in a text, which have at most one star each."""
    sides = [pattern.partition("*") for pattern in patterns.split()]
    starred = [(before, behind) for before, star, behind in sides if star]
    return _Patterns(
        frozenset(name for name, star, _ in sides if not star),
        tuple(before for before, behind in starred if not behind),
        tuple(behind for before, behind in starred if not before),
        tuple((before, behind) for before, behind in starred if before and behind),
    )
