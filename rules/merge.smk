"""Merging the adapter into the base model, with proof."""


rule merge_adapter:
    input:
        rightsize=rightsized,
        earlier=earlier_of_merge,
        adapter="<results>/runs/{run}/{id}/adapter.manifest.json",
        others=merged_adapters,
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
        " --others {input.others:q} --tokens {input.tokens:q} --rows {input.rows:q} --output {output.merged:q}"
        " --manifest {output.manifest:q} 2>&1 | tee {log:q}"


rule convert_to_gguf:
    input:
        rightsize=rightsized,
        earlier=earlier_of_merge,
        merged="<results>/runs/{run}/{id}/merged.manifest.json",
    output:
        gguf="<results>/runs/{run}/{id}/model.gguf",
    log:
        "logs/convert_to_gguf/{run}-{id}.log",
    conda:
        "../envs/model.yaml"
    params:
        spec=gguf_spec,
        settings=converter_settings,
    message:
        "Converting {wildcards.run} to GGUF"
    shell:
        "python scripts/convert_to_gguf.py --spec {params.spec:q} --settings {params.settings:q}"
        " --merged {input.merged:q} --output {output.gguf:q} 2>&1 | tee {log:q}"


rule export_gguf:
    input:
        GGUF_FILES,
