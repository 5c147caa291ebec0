"""From raw files to packed rows; `rightsize` is the barrier of the data. No rule here waits for weights."""


rule stage_sources:
    output:
        stage="<results>/data/stage_sources/{id}/stage.json",
        manifest="<results>/data/stage_sources/{id}/manifest.json",
    log:
        "logs/stage_sources/{id}.log",
    benchmark:
        "benchmarks/stage_sources/{id}.tsv"
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    resources:
        **REQUESTS.by_size("stage_sources"),
    params:
        spec=PARAMS.spec("stage_sources"),
        settings=PARAMS.settings,
    message:
        "Staging sources"
    shell:
        "python scripts/stage_sources.py --spec {params.spec:q} --settings {params.settings:q}"
        " --output {output.stage:q} --manifest {output.manifest:q} 2>&1 | tee {log:q}"


rule read_shard:
    input:
        stage=INPUTS.made_by("stage_sources", "stage.json"),
    output:
        part=temp("<results>/data/read_records/{id}/parts/{shard}.part"),
    log:
        "logs/read_shard/{id}-{shard}.log",
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    threads: data_threads("read_records")
    resources:
        **REQUESTS.by_size("read_records", in_shards=True),
    params:
        spec=PARAMS.spec("read_records", "read_shard"),
        settings=PARAMS.settings,
    message:
        "Reading shard {wildcards.shard}"
    shell:
        "python scripts/read_shard.py --spec {params.spec:q} --settings {params.settings:q}"
        " --stage {input.stage:q} --part {output.part:q} 2>&1 | tee {log:q}"


rule read_records:
    input:
        stage=INPUTS.made_by("stage_sources", "stage.json"),
        looked_at=INPUTS.sources_looked_at,
        parts=INPUTS.shards("read_records", "parts/{}.part"),
    output:
        records="<results>/data/read_records/{id}/records.jsonl",
        quarantine="<results>/data/read_records/{id}/quarantine.jsonl",
        manifest="<results>/data/read_records/{id}/manifest.json",
    log:
        "logs/read_records/{id}.log",
    benchmark:
        "benchmarks/read_records/{id}.tsv"
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    threads: data_threads("read_records")
    resources:
        **REQUESTS.by_size("read_records"),
    params:
        spec=PARAMS.spec("read_records"),
        settings=PARAMS.settings,
    message:
        "Reading records"
    shell:
        "python scripts/read_records.py --spec {params.spec:q} --settings {params.settings:q}"
        " --stage {input.stage:q} --records {output.records:q} --quarantine {output.quarantine:q}"
        " --manifest {output.manifest:q} --parts {input.parts:q} 2>&1 | tee {log:q}"


rule key_shard:
    input:
        records=INPUTS.made_by("read_records", "records.jsonl"),
    output:
        part=temp("<results>/data/dedupe_records/{id}/keys/{shard}.part"),
    log:
        "logs/key_shard/{id}-{shard}.log",
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    threads: data_threads("dedupe_records")
    resources:
        **REQUESTS.by_size("dedupe_records", in_shards=True),
    params:
        spec=PARAMS.spec("dedupe_records", "key_shard"),
        settings=PARAMS.settings,
    message:
        "Computing the keys of shard {wildcards.shard}"
    shell:
        "python scripts/key_shard.py --spec {params.spec:q} --settings {params.settings:q}"
        " --records {input.records:q} --part {output.part:q} 2>&1 | tee {log:q}"


rule sketch_shard:
    input:
        records=INPUTS.made_by("read_records", "records.jsonl"),
        key_parts=INPUTS.shards("dedupe_records", "keys/{}.part"),
    output:
        sketches=temp(directory("<results>/data/dedupe_records/{id}/sketches/{shard}")),
    log:
        "logs/sketch_shard/{id}-{shard}.log",
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    threads: data_threads("dedupe_records")
    resources:
        **REQUESTS.by_size("dedupe_records", in_shards=True),
    params:
        spec=PARAMS.spec("dedupe_records", "sketch_shard"),
        settings=PARAMS.settings,
    message:
        "Sketching shard {wildcards.shard}"
    shell:
        "python scripts/sketch_shard.py --spec {params.spec:q} --settings {params.settings:q}"
        " --records {input.records:q} --keys {input.key_parts:q} --output {output.sketches:q} 2>&1 | tee {log:q}"


rule dedupe_records:
    input:
        records=INPUTS.made_by("read_records", "records.jsonl"),
        key_parts=INPUTS.shards("dedupe_records", "keys/{}.part"),
        sketches=INPUTS.shards("dedupe_records", "sketches/{}"),
    output:
        removed="<results>/data/dedupe_records/{id}/removed.arrow",
        kept="<results>/data/dedupe_records/{id}/kept.jsonl",
        duplicates="<results>/data/dedupe_records/{id}/duplicates.jsonl",
        manifest="<results>/data/dedupe_records/{id}/manifest.json",
    log:
        "logs/dedupe_records/{id}.log",
    benchmark:
        "benchmarks/dedupe_records/{id}.tsv"
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    threads: data_threads("dedupe_records")
    resources:
        **REQUESTS.by_size("dedupe_records"),
    params:
        spec=PARAMS.spec("dedupe_records"),
        settings=PARAMS.settings,
    message:
        "Removing duplicates"
    shell:
        "python scripts/dedupe_records.py --spec {params.spec:q} --settings {params.settings:q}"
        " --records {input.records:q} --removed {output.removed:q} --kept {output.kept:q}"
        " --duplicates {output.duplicates:q} --manifest {output.manifest:q}"
        " --keys {input.key_parts:q} --sketches {input.sketches:q} 2>&1 | tee {log:q}"


rule split_records:
    input:
        records=INPUTS.made_by("dedupe_records", "kept.jsonl"),
    output:
        train="<results>/data/split_records/{id}/train.jsonl",
        eval="<results>/data/split_records/{id}/eval.jsonl",
        leaks="<results>/data/split_records/{id}/leaks.jsonl",
        manifest="<results>/data/split_records/{id}/manifest.json",
    log:
        "logs/split_records/{id}.log",
    benchmark:
        "benchmarks/split_records/{id}.tsv"
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    threads: data_threads("split_records")
    resources:
        **REQUESTS.by_size("split_records"),
    params:
        spec=PARAMS.spec("split_records"),
        settings=PARAMS.settings,
    message:
        "Holding out the evaluation split"
    shell:
        "python scripts/split_records.py --spec {params.spec:q} --settings {params.settings:q}"
        " --records {input.records:q} --train {output.train:q} --eval {output.eval:q} --leaks {output.leaks:q}"
        " --manifest {output.manifest:q} 2>&1 | tee {log:q}"


rule prepare_tokenizer:
    input:
        installed=INPUTS.packages_looked_at("prepare_tokenizer", "manifest.json"),
        corpus=INPUTS.corpus_of_tiny_model,
    output:
        model=directory("<results>/data/prepare_tokenizer/{id}/model"),
        manifest="<results>/data/prepare_tokenizer/{id}/manifest.json",
    log:
        "logs/prepare_tokenizer/{id}.log",
    benchmark:
        "benchmarks/prepare_tokenizer/{id}.tsv"
    conda:
        "../envs/model.yaml"
    params:
        spec=PARAMS.spec("prepare_tokenizer"),
    message:
        "Preparing the tokenizer"
    shell:
        "python scripts/prepare_tokenizer.py --spec {params.spec:q} --output {output.model:q}"
        " --manifest {output.manifest:q} --corpus {input.corpus:q} 2>&1 | tee {log:q}"


rule tokenize_shard:
    input:
        unpack(INPUTS.of_tokenizing),
    output:
        part=temp("<results>/data/tokenize_records/{id}/parts/{shard}.part"),
    log:
        "logs/tokenize_shard/{id}-{shard}.log",
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    threads: data_threads("tokenize_records")
    resources:
        **REQUESTS.by_size("tokenize_records", in_shards=True),
    params:
        spec=PARAMS.spec("tokenize_records", "tokenize_shard"),
        settings=PARAMS.settings,
    message:
        "Tokenising shard {wildcards.shard}"
    shell:
        "python scripts/tokenize_shard.py --spec {params.spec:q} --settings {params.settings:q}"
        " --train {input.train:q} --eval {input.eval:q} --model {input.tokenizer:q} --stage {input.stage:q}"
        " --part {output.part:q} 2>&1 | tee {log:q}"


rule tokenize_records:
    input:
        unpack(INPUTS.of_tokenizing),
        parts=INPUTS.shards("tokenize_records", "parts/{}.part"),
    output:
        train=directory("<results>/data/tokenize_records/{id}/train"),
        eval=directory("<results>/data/tokenize_records/{id}/eval"),
        template="<results>/data/tokenize_records/{id}/chat_template.jinja",
        dropped="<results>/data/tokenize_records/{id}/dropped.jsonl",
        manifest="<results>/data/tokenize_records/{id}/manifest.json",
    log:
        "logs/tokenize_records/{id}.log",
    benchmark:
        "benchmarks/tokenize_records/{id}.tsv"
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    threads: data_threads("tokenize_records")
    resources:
        **REQUESTS.by_size("tokenize_records"),
    params:
        spec=PARAMS.spec("tokenize_records"),
        settings=PARAMS.settings,
    message:
        "Tokenising records"
    shell:
        "python scripts/tokenize_records.py --spec {params.spec:q} --settings {params.settings:q}"
        " --train {input.train:q} --eval {input.eval:q} --model {input.tokenizer:q} --stage {input.stage:q}"
        " --output-train {output.train:q} --output-eval {output.eval:q} --template {output.template:q}"
        " --dropped {output.dropped:q} --manifest {output.manifest:q} --parts {input.parts:q} 2>&1 | tee {log:q}"


checkpoint rightsize:
    input:
        tokens=INPUTS.made_by("tokenize_records", "manifest.json"),
        tokenizer=INPUTS.made_by("prepare_tokenizer", "manifest.json"),
    output:
        rightsize="<results>/data/rightsize/{id}/rightsize.json",
    log:
        "logs/rightsize/{id}.log",
    benchmark:
        "benchmarks/rightsize/{id}.tsv"
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    resources:
        **REQUESTS.by_size("rightsize"),
    params:
        spec=PARAMS.spec("rightsize"),
    message:
        "Choosing the maximum length"
    shell:
        "python scripts/rightsize.py --spec {params.spec:q} --tokens {input.tokens:q} --model {input.tokenizer:q}"
        " --output {output.rightsize:q} 2>&1 | tee {log:q}"


rule pack_rows:
    input:
        rightsize=INPUTS.rightsized,
        tokens=ancient(INPUTS.made_by("tokenize_records", "manifest.json")),
    output:
        train="<results>/data/pack_rows/{id}/train.arrow",
        eval="<results>/data/pack_rows/{id}/eval.arrow",
        manifest="<results>/data/pack_rows/{id}/manifest.json",
    log:
        "logs/pack_rows/{id}.log",
    benchmark:
        "benchmarks/pack_rows/{id}.tsv"
    retries: REQUESTS.retries()
    conda:
        "../envs/data.yaml"
    resources:
        **REQUESTS.by_size("pack_rows"),
    params:
        spec=PARAMS.spec("pack_rows"),
    message:
        "Packing rows"
    shell:
        "python scripts/pack_rows.py --spec {params.spec:q} --rightsize {input.rightsize:q}"
        " --tokens {input.tokens:q} --train {output.train:q} --eval {output.eval:q}"
        " --manifest {output.manifest:q} 2>&1 | tee {log:q}"
