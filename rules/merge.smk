"""Merging the adapter into the base model, with proof. The folder `merged` is there when its manifest is."""


rule merge_adapter:
    input:
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier_of_merge,
        adapter="<results>/runs/{run}/{id}/adapter.manifest.json",
        others=INPUTS.merged_adapters,
        rows=INPUTS.made_by("pack_rows", "manifest.json"),
        model=INPUTS.prepared_model,
        tokens=ancient(INPUTS.made_by("tokenize_records", "manifest.json")),
    output:
        facts="<results>/runs/{run}/{id}/merge.json",
    log:
        "logs/merge_adapter/{run}-{id}.log",
    benchmark:
        "benchmarks/merge_adapter/{run}-{id}.tsv"
    conda:
        "../envs/model.yaml"
    threads: PARAMS.cpu_threads
    resources:
        gpu=1,
    params:
        spec=PARAMS.run_spec("merge_adapter"),
    message:
        "Merging {wildcards.run}"
    shell:
        "python scripts/merge_adapter.py --spec {params.spec:q} --model {input.model:q} --adapter {input.adapter:q}"
        " --others {input.others:q} --tokens {input.tokens:q} --rows {input.rows:q} --output {output.facts:q}"
        " 2>&1 | tee {log:q}"


# What needs the merged model waits for this, and this for what is available without it.
rule accept_merge:
    input:
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier_of_merge,
        merge="<results>/runs/{run}/{id}/merge.json",
        report=ancient("<results>/runs/{run}/{id}/report.html"),
        card=ancient("<results>/runs/{run}/{id}/adapter_card.md"),
    output:
        manifest="<results>/runs/{run}/{id}/merged.manifest.json",
    log:
        "logs/accept_merge/{run}-{id}.log",
    conda:
        "../envs/report.yaml"
    params:
        spec=PARAMS.fact_spec("accept_merge"),
    message:
        "Accepting the merge of {wildcards.run}"
    shell:
        "python scripts/accept_merge.py --spec {params.spec:q} --merge {input.merge:q} --output {output.manifest:q}"
        " 2>&1 | tee {log:q}"


rule convert_to_gguf:
    input:
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier_of_merge,
        merge="<results>/runs/{run}/{id}/merge.json",
        rows=INPUTS.made_by("pack_rows", "manifest.json"),
    output:
        gguf="<results>/runs/{run}/{id}/model{kind}.gguf",
        modelfile="<results>/runs/{run}/{id}/Modelfile{kind}",
        facts="<results>/runs/{run}/{id}/gguf{kind}.json",
    log:
        "logs/convert_to_gguf/{run}-{id}{kind}.log",
    wildcard_constraints:
        kind="(-(f32|bf16|f16|q8_0|q4_k_m))?",
    conda:
        "../envs/model.yaml"
    params:
        spec=PARAMS.gguf_spec,
        settings=PARAMS.converter_settings,
    message:
        "Converting {wildcards.run} to GGUF"
    shell:
        "python scripts/convert_to_gguf.py --spec {params.spec:q} --settings {params.settings:q}"
        " --merged {input.merge:q} --rows {input.rows:q} --kind={wildcards.kind} --output {output.gguf:q}"
        " --modelfile {output.modelfile:q} --facts {output.facts:q} 2>&1 | tee {log:q}"


rule export_gguf:
    input:
        JOB_TABLE.gguf_files(),
