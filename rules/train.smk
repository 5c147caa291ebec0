"""Training: resumable state lives in work/, only the finished adapter is an output."""

# Slurm sends its signals to every process of a job: only training is to act on them, and to be waited for.
# For training on a CPU, where glibc allocates: large pages, where the kernel has them, and no memory given back between
# steps. Blocks of up to 32 MB, the most that glibc allows, come from the heap: pages of their own are cleared at each use.
MALLOC = ["hugetlb=1", "trim_threshold=1099511627776", "mmap_threshold=33554432"]
TUNABLES = ":".join(f"glibc.malloc.{setting}" for setting in MALLOC)
BEFORE_TRAINING = f"trap : HUP TERM USR1; GLIBC_TUNABLES={TUNABLES}"
TO_ITS_LOG = "2>&1 | (trap '' HUP INT TERM USR1; exec tee {log:q})"


rule train_model:
    input:
        unpack(INPUTS.of_training),
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier,
        model=INPUTS.prepared_model,
    output:
        adapter=directory("<results>/runs/{run}/{id}/adapter"),
        metrics="<results>/runs/{run}/{id}/metrics.jsonl",
        info="<results>/runs/{run}/{id}/run_info.json",
        manifest="<results>/runs/{run}/{id}/adapter.manifest.json",
    log:
        "logs/train_model/{run}-{id}.log",
    benchmark:
        "benchmarks/train_model/{run}-{id}.tsv"
    conda:
        "../envs/model.yaml"
    threads: PARAMS.cpu_threads
    resources:
        **REQUESTS.of_training(),
    params:
        spec=PARAMS.run_spec("train_model"),
        settings=PARAMS.loader_settings,
    message:
        "Training {wildcards.run}"
    shell:
        f"{BEFORE_TRAINING} python scripts/train_model.py --spec {{params.spec:q}} --settings {{params.settings:q}}"
        " --rightsize {input.rightsize:q} --plan {input.plan:q} --rows {input.rows:q} --model {input.model:q}"
        " --start {input.start:q} --rewards {input.rewards:q} --work work --adapter {output.adapter:q} --metrics {output.metrics:q}"
        f" --info {{output.info:q}} --manifest {{output.manifest:q}} {TO_ITS_LOG}"
