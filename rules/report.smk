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
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier,
        run="<results>/runs/{run}/{id}/run.json",
        reading=INPUTS.made_by("read_records", "manifest.json"),
        quarantine=INPUTS.made_by("read_records", "quarantine.jsonl"),
        dedupe=INPUTS.made_by("dedupe_records", "manifest.json"),
        duplicates=INPUTS.made_by("dedupe_records", "duplicates.jsonl"),
        split=INPUTS.made_by("split_records", "manifest.json"),
        leaks=INPUTS.made_by("split_records", "leaks.jsonl"),
        records=ancient(INPUTS.made_by("split_records", "train.jsonl")),
        tokens=INPUTS.made_by("tokenize_records", "manifest.json"),
        dropped=INPUTS.made_by("tokenize_records", "dropped.jsonl"),
        pack=INPUTS.made_by("pack_rows", "manifest.json"),
        adapter="<results>/runs/{run}/{id}/adapter.manifest.json",
        metrics="<results>/runs/{run}/{id}/metrics.jsonl",
        plan="<results>/runs/{run}/{id}/plan.json",
        info="<results>/runs/{run}/{id}/run_info.json",
        evaluation="<results>/runs/{run}/{id}/evaluation.json",
        generations="<results>/runs/{run}/{id}/generations.jsonl",
        timing="<results>/runs/{run}/{id}/evaluation_info.json",
        history="<results>/runs/{run}/{id}/history.json",
        merged=INPUTS.merge_facts,
    output:
        report=report(
            "<results>/runs/{run}/{id}/report.html",
            caption="../docs/captions/report.rst",
            category="Runs",
            labels={"run": "{run}", "variant": "{id}", "what": "report"},
        ),
        table=report(
            "<results>/runs/{run}/{id}/facts.json",
            caption="../docs/captions/facts.rst",
            category="Runs",
            labels={"run": "{run}", "variant": "{id}", "what": "facts"},
        ),
    log:
        "logs/render_report/{run}-{id}.log",
    conda:
        "../envs/report.yaml"
    params:
        spec=PARAMS.fact_spec("render_report"),
    message:
        "Rendering the report of {wildcards.run}"
    shell:
        "python scripts/render_report.py --spec {params.spec:q} --run {input.run:q} --reading {input.reading:q}"
        " --quarantine {input.quarantine:q} --dedupe {input.dedupe:q} --duplicates {input.duplicates:q}"
        " --split {input.split:q} --tokens {input.tokens:q} --rightsize {input.rightsize:q} --pack {input.pack:q}"
        " --adapter {input.adapter:q} --metrics {input.metrics:q} --evaluation {input.evaluation:q}"
        " --generations {input.generations:q} --merged {input.merged:q} --plan {input.plan:q} --info {input.info:q}"
        " --timing {input.timing:q} --leaks {input.leaks:q} --dropped {input.dropped:q} --history {input.history:q}"
        " --records {input.records:q} --table {output.table:q} --output {output.report:q} 2>&1 | tee {log:q}"


rule write_model_card:
    input:
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier,
        run="<results>/runs/{run}/{id}/run.json",
        reading=INPUTS.made_by("read_records", "manifest.json"),
        dedupe=INPUTS.made_by("dedupe_records", "manifest.json"),
        split=INPUTS.made_by("split_records", "manifest.json"),
        tokens=INPUTS.made_by("tokenize_records", "manifest.json"),
        pack=INPUTS.made_by("pack_rows", "manifest.json"),
        base=INPUTS.prepared_model,
        origin=INPUTS.planned_model,
        adapter="<results>/runs/{run}/{id}/adapter.manifest.json",
        evaluation="<results>/runs/{run}/{id}/evaluation.json",
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
    message:
        "Writing the card of the {wildcards.kind} folder of {wildcards.run}"
    shell:
        "python scripts/write_model_card.py --spec {params.spec:q} --run {input.run:q} --reading {input.reading:q}"
        " --dedupe {input.dedupe:q} --split {input.split:q} --tokens {input.tokens:q}"
        " --rightsize {input.rightsize:q} --pack {input.pack:q} --base {input.base:q} --origin {input.origin:q}"
        " --adapter {input.adapter:q} --evaluation {input.evaluation:q} --merged {input.merged:q}"
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
        "Putting runs side by side"
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
