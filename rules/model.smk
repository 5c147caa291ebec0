"""The base model and its tokenizer."""


rule prepare_model:
    input:
        corpus=corpus_of_tiny_model,
        base=base_run,
        earlier=earlier,
    output:
        model=directory("<results>/models/{id}/model"),
        manifest="<results>/models/{id}/manifest.json",
    log:
        "logs/prepare_model/{id}.log",
    benchmark:
        "benchmarks/prepare_model/{id}.tsv"
    conda:
        "../envs/model.yaml"
    params:
        spec=spec("prepare_model"),
    message:
        "Preparing the base model"
    shell:
        "python scripts/prepare_model.py --spec {params.spec:q} --output {output.model:q}"
        " --manifest {output.manifest:q} --corpus {input.corpus:q} --base {input.base:q} 2>&1 | tee {log:q}"
