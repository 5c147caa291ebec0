"""Base, tuned and merged model on the held-out split, on evaluation files and on tasks."""


rule evaluate_model:
    input:
        unpack(INPUTS.of_evaluation),
        installed=INPUTS.packages_looked_at("evaluate_model", "evaluation.json"),
        rightsize=INPUTS.rightsized,
        earlier=INPUTS.earlier_of_evaluation,
        model=INPUTS.prepared_model,
    output:
        evaluation="<results>/runs/{run}/{id}/evaluation.json",
        generations="<results>/runs/{run}/{id}/generations.jsonl",
        documents="<results>/runs/{run}/{id}/documents.jsonl",
        info="<results>/runs/{run}/{id}/evaluation_info.json",
    log:
        "logs/evaluate_model/{run}-{id}.log",
    benchmark:
        "benchmarks/evaluate_model/{run}-{id}.tsv"
    conda:
        "../envs/model.yaml"
    threads: PARAMS.cpu_threads
    resources:
        gpu=1,
    params:
        spec=PARAMS.run_spec("evaluate_model"),
    message:
        "Evaluating {wildcards.run}"
    shell:
        "python scripts/evaluate_model.py --spec {params.spec:q} --model {input.model:q} --adapter {input.adapter:q}"
        " --merged {input.merged:q} --judge {input.judge:q} --tokens {input.tokens:q} --rows {input.rows:q} --records {input.records:q}"
        " --output {output.evaluation:q} --generations {output.generations:q} --documents {output.documents:q}"
        " --info {output.info:q} 2>&1 | tee {log:q}"


# No outputs and no log of Snakemake's: it talks to the terminal, and keeps a transcript of its own.
rule ask:
    log:
        "logs/ask.log",
    conda:
        "../envs/model.yaml"
    threads: 1
    params:
        spec=PARAMS.ask_spec,
    message:
        "Loading the models"
    shell:
        "python scripts/ask.py --spec {params.spec:q} --transcript {log:q}"
