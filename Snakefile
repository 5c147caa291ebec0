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
        JOB_TABLE.wanted_files(),
        JOB_TABLE.comparison_files(),


# No outputs, so that it looks every time.
rule inspect:
    log:
        "logs/inspect.log",
    conda:
        "envs/model.yaml"
    params:
        spec=PARAMS.inspect_spec,
        page=JOB_TABLE.page("inspect"),
    message:
        "Inspecting the sources"
    shell:
        "python scripts/inspect_sources.py --spec {params.spec:q} --output {params.page:q} 2>&1 | tee {log:q}"


rule data:
    input:
        JOB_TABLE.data_manifests(),


rule plan:
    input:
        JOB_TABLE.plan_files(),


rule ablate:
    input:
        JOB_TABLE.ablation_files(),


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
        spec=PARAMS.prune_spec,
    message:
        "Listing variants that no configured run uses"
    shell:
        "python scripts/prune.py --spec {params.spec:q} --output {output:q} 2>&1 | tee {log:q}"


onstart:
    SESSION.begin()


onsuccess:
    SESSION.end_well()


onerror:
    SESSION.explain(log)
