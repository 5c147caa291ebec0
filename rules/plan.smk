"""What a run will cost and whether it fits, before any GPU second is spent; over its limits it ends here."""


rule probe_run:
    input:
        rightsize=rightsized,
        pack=made_by("pack_rows", "manifest.json"),
        model=ancient(planned_model),
    output:
        probe="<results>/runs/{run}/{id}/probe.json",
    log:
        "logs/probe_run/{run}-{id}.log",
    conda:
        "../envs/model.yaml"
    threads: cpu_threads
    resources:
        gpu=1,
    params:
        spec=probe_spec,
        settings=loader_settings,
        results=lambda wildcards, threads: BLUEPRINT.results,
    message:
        "Measuring a short training of {wildcards.run}"
    shell:
        "python scripts/probe_run.py --spec {params.spec:q} --settings {params.settings:q} --pack {input.pack:q}"
        " --model {input.model:q} --results {params.results:q} --scratch work/probes --output {output.probe:q}"
        " 2>&1 | tee {log:q}"


rule plan_run:
    input:
        rightsize=rightsized,
        pack=made_by("pack_rows", "manifest.json"),
        model=ancient(planned_model),
        probe=probed,
    output:
        plan="<results>/runs/{run}/{id}/plan.json",
    log:
        "logs/plan_run/{run}-{id}.log",
    conda:
        "../envs/model.yaml"
    params:
        spec=plan_spec,
        settings=loader_settings,
        results=lambda wildcards, threads: BLUEPRINT.results,
    message:
        "Planning {wildcards.run}"
    shell:
        "python scripts/plan_run.py --spec {params.spec:q} --settings {params.settings:q}"
        " --rightsize {input.rightsize:q} --pack {input.pack:q} --model {input.model:q}"
        " --probe {input.probe:q} --results {params.results:q} --name {wildcards.run:q} --output {output.plan:q}"
        " 2>&1 | tee {log:q}"
