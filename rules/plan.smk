"""What a run will cost and whether it fits, before any GPU second is spent; over its limits it ends here."""


rule probe_run:
    input:
        installed=INPUTS.packages_looked_at("probe_run", "probe.json"),
        rightsize=INPUTS.rightsized,
        pack=INPUTS.made_by("pack_rows", "manifest.json"),
        # Not a reason to plan again: other weights of the same model plan the same.
        model=ancient(INPUTS.planned_model),
    output:
        probe="<results>/runs/{run}/{id}/probe.json",
    log:
        "logs/probe_run/{run}-{id}.log",
    conda:
        "../envs/model.yaml"
    threads: PARAMS.cpu_threads
    resources:
        gpu=1,
    params:
        spec=PARAMS.probe_spec,
        settings=PARAMS.loader_settings,
        results=PARAMS.results,
    message:
        "Measuring a short training of {wildcards.run}"
    shell:
        "python scripts/probe_run.py --spec {params.spec:q} --settings {params.settings:q} --pack {input.pack:q}"
        " --model {input.model:q} --results {params.results:q} --scratch work/probes --output {output.probe:q}"
        " 2>&1 | tee {log:q}"


checkpoint plan_run:
    input:
        rightsize=INPUTS.rightsized,
        pack=INPUTS.made_by("pack_rows", "manifest.json"),
        # Not a reason to plan again: other weights of the same model plan the same.
        model=ancient(INPUTS.planned_model),
        probe=INPUTS.probed,
    output:
        plan="<results>/runs/{run}/{id}/plan.json",
    log:
        "logs/plan_run/{run}-{id}.log",
    conda:
        "../envs/model.yaml"
    params:
        spec=PARAMS.plan_spec,
        settings=PARAMS.loader_settings,
        benchmarks=PARAMS.stage_benchmarks,
        results=PARAMS.results,
    message:
        "Planning {wildcards.run}"
    shell:
        "python scripts/plan_run.py --spec {params.spec:q} --settings {params.settings:q}"
        " --rightsize {input.rightsize:q} --pack {input.pack:q} --model {input.model:q}"
        " --benchmarks {params.benchmarks:q} --probe {input.probe:q} --results {params.results:q}"
        " --name {wildcards.run:q} --work work --output {output.plan:q} 2>&1 | tee {log:q}"


rule render_plan:
    input:
        plan="<results>/runs/{run}/{id}/plan.json",
    output:
        page=shown("plan.html", "plan", "Plans"),
    log:
        "logs/render_plan/{run}-{id}.log",
    conda:
        "../envs/report.yaml"
    params:
        spec=PARAMS.page_spec("render_plan"),
    message:
        "Rendering the plan of {wildcards.run}"
    shell:
        "python scripts/render_plan.py --spec {params.spec:q} --plan {input.plan:q} --output {output.page:q}"
        " 2>&1 | tee {log:q}"


rule ablate_run:
    input:
        installed=INPUTS.packages_looked_at("ablate_run", "ablate.json"),
        rightsize=INPUTS.rightsized,
        stage=ancient(INPUTS.made_by("stage_sources", "stage.json")),
        records=ancient(INPUTS.made_by("split_records", "train.jsonl")),
        tokens=ancient(INPUTS.made_by("tokenize_records", "manifest.json")),
        pack=INPUTS.made_by("pack_rows", "manifest.json"),
        model=INPUTS.planned_model,
    output:
        facts="<results>/runs/{run}/{id}/ablate.json",
    log:
        "logs/ablate_run/{run}-{id}.log",
    conda:
        "../envs/model.yaml"
    threads: PARAMS.cpu_threads
    resources:
        gpu=1,
    params:
        spec=PARAMS.ablate_spec,
        settings=PARAMS.ablate_settings,
    message:
        "Measuring what each optimisation is worth to {wildcards.run}"
    shell:
        "python scripts/ablate_run.py --spec {params.spec:q} --settings {params.settings:q}"
        " --rightsize {input.rightsize:q} --stage {input.stage:q} --records {input.records:q}"
        " --tokens {input.tokens:q} --pack {input.pack:q} --model {input.model:q} --work work"
        " --name {wildcards.run:q} --output {output.facts:q} 2>&1 | tee {log:q}"


rule render_ablation:
    input:
        facts="<results>/runs/{run}/{id}/ablate.json",
    output:
        page=shown("ablate.html", "ablate", "Ablations"),
    log:
        "logs/render_ablation/{run}-{id}.log",
    conda:
        "../envs/report.yaml"
    params:
        spec=PARAMS.page_spec("render_ablation"),
    message:
        "Rendering the ablation of {wildcards.run}"
    shell:
        "python scripts/render_ablation.py --spec {params.spec:q} --facts {input.facts:q} --output {output.page:q}"
        " 2>&1 | tee {log:q}"


# No outputs, so that it checks every time.
rule gpu_check:
    log:
        "logs/gpu_check.log",
    conda:
        "../envs/model.yaml"
    resources:
        gpu=1,
    params:
        folder=f"{JOB_TABLE.results}/gpu_check",
    message:
        "Checking whether this GPU is fit for training"
    shell:
        "python scripts/gpu_check.py --output {params.folder:q} 2>&1 | tee {log:q}"
