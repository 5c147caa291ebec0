"""Merging the adapter into the base model, with proof."""


rule merge_adapter:
    input:
        rightsize=rightsized,
        earlier=earlier,
        adapter="<results>/runs/{run}/{id}/adapter.manifest.json",
        rows=made_by("pack_rows", "manifest.json"),
        model=ancient(made_by("prepare_model", "manifest.json")),
        tokens=ancient(made_by("tokenize_records", "manifest.json")),
    output:
        merged=directory("<results>/runs/{run}/{id}/merged"),
        manifest="<results>/runs/{run}/{id}/merged.manifest.json",
    log:
        "logs/merge_adapter/{run}-{id}.log",
    benchmark:
        "benchmarks/merge_adapter/{run}-{id}.tsv"
    conda:
        "../envs/model.yaml"
    threads: cpu_threads
    resources:
        gpu=1,
    params:
        spec=run_spec("merge_adapter"),
    message:
        "Merging {wildcards.run}"
    shell:
        "python scripts/merge_adapter.py --spec {params.spec:q} --model {input.model:q} --adapter {input.adapter:q}"
        " --tokens {input.tokens:q} --rows {input.rows:q} --output {output.merged:q}"
        " --manifest {output.manifest:q} 2>&1 | tee {log:q}"
