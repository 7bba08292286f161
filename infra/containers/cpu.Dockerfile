# Without GPUs: for trying out, and for tests. Build it from the project's root:
#
#     docker build -f infra/containers/cpu.Dockerfile -t vidtok:cpu .
#
# It was not built where this was written, which has no container engine; hadolint and the versions in it were checked.
FROM python:3.11.11-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/vidtok
COPY pyproject.toml constraints.txt README.md ./
COPY vidtok_model vidtok_model
COPY pipeline pipeline
COPY jobs jobs
# The constraints name PyTorch's builds for CPUs.
RUN /opt/vidtok/bin/pip install --no-cache-dir -c constraints.txt '.[s3,gcs,azure,hf,report,train]'

FROM python:3.11.11-slim-bookworm
# KubeRay's operator starts pods' processes by a shell, and looks with wget whether they are well.
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget=1.21.3-1+deb12u1 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 vidtok
COPY --from=build /opt/vidtok /opt/vidtok
ENV PATH=/opt/vidtok/bin:$PATH VIDTOK_CACHE=/cache
RUN install -d -o vidtok /cache
VOLUME /cache
USER vidtok
WORKDIR /home/vidtok
ENTRYPOINT ["vidtok"]
CMD ["--help"]
