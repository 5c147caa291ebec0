"""The base model with its weights, beside all that is done to the data; what needs weights waits for it."""


checkpoint prepare_model:
    input:
        tokenizer=INPUTS.made_by("prepare_tokenizer", "manifest.json"),
        corpus=INPUTS.corpus_of_tiny_model,
        base=INPUTS.base_run,
        earlier=INPUTS.earlier,
    output:
        model=directory("<results>/models/{id}/model"),
        manifest="<results>/models/{id}/manifest.json",
    log:
        "logs/prepare_model/{id}.log",
    benchmark:
        "benchmarks/prepare_model/{id}.tsv"
    conda:
        "../envs/model.yaml"
    # Downloading, or one core of a pretraining: a job that asks for all cores runs beside it. Snakemake gives the
    # number to OpenMP, which complains about none.
    threads: 0
    params:
        spec=PARAMS.spec("prepare_model"),
    message:
        "Preparing the base model"
    shell:
        "export OMP_NUM_THREADS=1; python scripts/prepare_model.py --spec {params.spec:q} --output {output.model:q}"
        " --manifest {output.manifest:q} --tokenizer {input.tokenizer:q} --corpus {input.corpus:q}"
        " --base {input.base:q} 2>&1 | tee {log:q}"
