# Without GPUs: for trying out, for heads of clusters and for drivers. Build it from the project's root:
#
#     docker build -f infra/containers/cpu.Dockerfile -t vidtok:cpu .
FROM python:3.11.11-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/vidtok
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY vidtok_model vidtok_model
COPY pipeline pipeline
COPY jobs jobs
ARG TORCH_INDEX=""
# PyTorch's build for CPUs lies in an index of its own; without it, pip brings the one with CUDA, several GB.
RUN /opt/vidtok/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt \
    '.[s3,gcs,azure,hf,report,train]'

FROM python:3.11.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget=1.21.* \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 vidtok && install -d -o vidtok /cache
COPY --from=build /opt/vidtok /opt/vidtok
ENV PATH=/opt/vidtok/bin:$PATH VIDTOK_CACHE=/cache
VOLUME /cache
USER 1000
WORKDIR /home/vidtok
CMD ["vidtok", "--help"]
