"""Results in object storage; nothing goes there unless `publish` is asked for."""


# No outputs, so that what is there already is looked up every time.
rule publish:
    input:
        INPUTS.published,
    log:
        "logs/publish.log",
    conda:
        "../envs/data.yaml"
    params:
        spec=PARAMS.publish_spec,
        settings=PARAMS.settings,
    message:
        "Publishing results"
    shell:
        "python scripts/publish.py --spec {params.spec:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
