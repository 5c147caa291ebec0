# The environment of snaketune, and a copy of the workflow. CUDA comes with torch's own packages: the image needs no CUDA
# of its own, the host needs the NVIDIA driver and its container toolkit.
#
#   docker build -t snaketune .                                  for NVIDIA GPUs
#   docker build -t snaketune --build-arg TORCH=cpu .            without
#   docker run --rm --gpus all -v "$PWD:/project" snaketune --cores 8 train
#
# Mount your own checkout as in the last line: data, configuration and results stay on the host, and so does what
# Snakemake remembers about them.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# gcc and Python's headers are for kernels that torch compiles (train.torch_compile).
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates gcc git libc6-dev make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# cpu or gpu: the same versions of constraints.txt, another build of torch.
ARG TORCH=gpu
# Requirements files of extras, by name: --build-arg EXTRAS="quantization slurm"
ARG EXTRAS=""
WORKDIR /opt/snaketune
COPY constraints.txt ./
COPY envs envs
RUN SNAKETUNE_TORCH="${TORCH}" bash envs/install.sh \
    && for extra in ${EXTRAS}; do \
        .venv/bin/pip install --no-cache-dir -r "envs/extras/${extra}.txt" -c constraints.txt || exit 1; \
    done \
    && rm -rf /root/.cache

ENV PATH=/opt/snaketune/.venv/bin:${PATH} PYTHONUNBUFFERED=1
WORKDIR /project
COPY . .
ENTRYPOINT ["snakemake"]
CMD ["--cores", "all", "train"]
