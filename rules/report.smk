"""What a run is and what came out of it: run.json, report.html and facts.json, made from fact files alone."""


rule describe_run:
    input:
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier,
        stage=INPUTS.made_by("stage_sources", "stage.json"),
        tokens=INPUTS.made_by("tokenize_records", "manifest.json"),
        rows=INPUTS.made_by("pack_rows", "manifest.json"),
        model=INPUTS.prepared_model,
        adapter="<results>/runs/{run}/{id}/adapter.manifest.json",
        info="<results>/runs/{run}/{id}/run_info.json",
        evaluation="<results>/runs/{run}/{id}/evaluation.json",
        merged=INPUTS.merge_facts,
    output:
        run="<results>/runs/{run}/{id}/run.json",
        history="<results>/runs/{run}/{id}/history.json",
    log:
        "logs/describe_run/{run}-{id}.log",
    conda:
        "../envs/report.yaml"
    params:
        spec=PARAMS.description_spec,
        settings=PARAMS.history_settings,
        resolved=PARAMS.resolved,
    message:
        "Describing {wildcards.run}"
    shell:
        "python scripts/describe_run.py --spec {params.spec:q} --resolved {params.resolved:q}"
        " --rightsize {input.rightsize:q} --stage {input.stage:q} --tokens {input.tokens:q} --rows {input.rows:q}"
        " --model {input.model:q} --adapter {input.adapter:q} --merged {input.merged:q} --info {input.info:q}"
        " --settings {params.settings:q} --history {output.history:q} --output {output.run:q} 2>&1 | tee {log:q}"


rule render_report:
    input:
        unpack(INPUTS.facts_of_report),
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier,
        records=ancient(INPUTS.made_by("split_records", "train.jsonl")),
        merged=INPUTS.merge_facts,
    output:
        report=shown("report.html", "report", "Runs", what="report"),
        table=shown("facts.json", "facts", "Runs", what="facts"),
    log:
        "logs/render_report/{run}-{id}.log",
    conda:
        "../envs/report.yaml"
    params:
        spec=PARAMS.fact_spec("render_report"),
        facts=named_files,
    message:
        "Rendering the report of {wildcards.run}"
    shell:
        "python scripts/render_report.py --spec {params.spec:q} --facts {params.facts:q}"
        " --table {output.table:q} --output {output.report:q} 2>&1 | tee {log:q}"


rule write_model_card:
    input:
        unpack(INPUTS.facts_of_card),
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier,
        base=INPUTS.prepared_model,
        origin=INPUTS.planned_model,
        merged=INPUTS.carded_merge,
    output:
        card="<results>/runs/{run}/{id}/{kind}_card.md",
    log:
        "logs/write_model_card/{run}-{id}-{kind}.log",
    wildcard_constraints:
        kind="adapter|merged",
    conda:
        "../envs/report.yaml"
    params:
        spec=PARAMS.fact_spec("write_model_card"),
        facts=named_files,
    message:
        "Writing the card of the {wildcards.kind} folder of {wildcards.run}"
    shell:
        "python scripts/write_model_card.py --spec {params.spec:q} --facts {params.facts:q}"
        " --kind {wildcards.kind:q} --output {output.card:q} 2>&1 | tee {log:q}"


rule compare_runs:
    input:
        INPUTS.compared_facts,
    output:
        page=report(
            "<results>/compare.html",
            caption="../docs/captions/compare.rst",
            category="Comparison",
            labels={"what": "comparison"},
        ),
    log:
        "logs/compare_runs.log",
    conda:
        "../envs/report.yaml"
    params:
        spec=PARAMS.compare_spec,
    message:
        "Comparing runs"
    shell:
        "python scripts/compare_runs.py --spec {params.spec:q} --output {output.page:q} 2>&1 | tee {log:q}"


# No outputs, so that it looks every time; nothing is trained or rendered for it.
rule report:
    log:
        "logs/report.log",
    conda:
        "../envs/model.yaml"
    params:
        spec=PARAMS.attempts_spec,
    message:
        "Looking for unfinished runs"
    shell:
        "python scripts/report.py --spec {params.spec:q} 2>&1 | tee {log:q}"
