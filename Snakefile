"""Fine-tune a language model on your own data: `snakemake --cores 8 train`."""

from snakemake.utils import min_version

min_version("9.22")


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/model.smk"
include: "rules/plan.smk"
include: "rules/train.smk"
include: "rules/merge.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/publish.smk"


# Every stage's manifest is a target: what a failed job deleted is then missed, and nothing stale survives.
rule train:
    default_target: True
    input:
        DATA_MANIFESTS,
        MODEL_MANIFESTS,
        RUN_FILES,
        COMPARISON,


# No outputs, so that it looks every time.
rule inspect:
    log:
        "logs/inspect.log",
    conda:
        "envs/model.yaml"
    params:
        spec=inspect_spec,
        page=JOB_TABLE.page("inspect"),
    message:
        "Looking at the sources"
    shell:
        "python scripts/inspect_sources.py --spec {params.spec:q} --output {params.page:q} 2>&1 | tee {log:q}"


rule data:
    input:
        DATA_MANIFESTS,


rule plan:
    input:
        PLAN_FILES,


rule ablate:
    input:
        ABLATION_FILES,


rule compare:
    input:
        JOB_TABLE.page("compare"),


rule prune:
    output:
        update("work/prune.txt"),
    log:
        "logs/prune.log",
    conda:
        "envs/data.yaml"
    params:
        spec=prune_spec,
    message:
        "Looking for variants that no configured run uses"
    shell:
        "python scripts/prune.py --spec {params.spec:q} --output {output:q} 2>&1 | tee {log:q}"


onstart:
    take_workflow_lock()
    check_machine()
    write_resolved_runs()
    remember_shards()
    go_on_beside_refusals()
    pass_on_plugins()


onsuccess:
    note_what_jobs_made()
    end_well()


onerror:
    explain(log)
    note_what_jobs_made()
