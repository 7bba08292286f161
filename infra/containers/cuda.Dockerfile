# With NVIDIA's GPUs. Build it from the project's root:
#
#     docker build -f infra/containers/cuda.Dockerfile -t vidtok:cuda .
#
# PyTorch's wheels bring CUDA's libraries along, so that no image of NVIDIA's is needed below: only the driver, which the
# node's container runtime lends. TORCH must fit that driver.
FROM python:3.11.11-slim-bookworm AS build
ARG TORCH=2.8.0
WORKDIR /source
RUN python -m venv /opt/vidtok
COPY pyproject.toml README.md LICENSE ./
COPY vidtok_model vidtok_model
COPY pipeline pipeline
COPY jobs jobs
RUN /opt/vidtok/bin/pip install --no-cache-dir "torch==${TORCH}" '.[s3,gcs,azure,hf,report,train]'

FROM python:3.11.11-slim-bookworm
# KubeRay's probes ask with wget. torch.compile builds kernels with a C compiler.
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget=1.21.* gcc=4:12.* libc6-dev=2.36-* \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 vidtok && install -d -o vidtok /cache
COPY --from=build /opt/vidtok /opt/vidtok
ENV PATH=/opt/vidtok/bin:$PATH VIDTOK_CACHE=/cache
VOLUME /cache
USER 1000
WORKDIR /home/vidtok
CMD ["vidtok", "--help"]
