# With NVIDIA's GPUs. Build it from the project's root:
#
#     docker build -f infra/containers/cuda.Dockerfile -t vidtok:cuda .
#
# PyTorch's wheels bring CUDA's libraries along, so that no image of NVIDIA's is needed below: only the driver, which the
# node's container runtime lends. TORCH must fit that driver.
ARG PYTHON=python:3.11.11-slim-bookworm
FROM ${PYTHON} AS build
ARG TORCH=2.13.0
ARG RAY=2.60.0
WORKDIR /source
RUN python -m venv /opt/vidtok
COPY pyproject.toml README.md LICENSE infra/containers/versions.txt ./
COPY vidtok_model vidtok_model
COPY pipeline pipeline
COPY jobs jobs
RUN /opt/vidtok/bin/pip install --no-cache-dir -c versions.txt "torch==${TORCH}" "ray==${RAY}" \
    '.[s3,gcs,azure,hf,report,train]'

FROM ${PYTHON}
# KubeRay's probes ask with wget. torch.compile builds kernels with a C compiler.
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget=1.21.* gcc=4:12.* libc6-dev=2.36-* \
    && rm -rf /var/lib/apt/lists/*
# `docker run --user` may name anybody, who then needs a cache and a home to write to.
RUN useradd --uid 1000 --home-dir /tmp vidtok && install -d -m 1777 /cache
COPY --from=build /opt/vidtok /opt/vidtok
ENV PATH=/opt/vidtok/bin:$PATH VIDTOK_CACHE=/cache HOME=/tmp
VOLUME /cache
USER 1000
WORKDIR /tmp
CMD ["vidtok", "--help"]
