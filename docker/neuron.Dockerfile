# Worker for AWS Inferentia2 (Neuron SDK 2.26.1). Its torch, diffusers and transformers are older than the others'; Ray and
# Python are the same.
# Built from the repository's root: NEURON_INDEX=https://... NEURON_APT=https://... docker buildx bake -f docker/docker-bake.hcl neuron
# The two addresses, of AWS's Python and Debian packages, are in the Neuron documentation.
ARG PYTHON_VERSION=3.11.14
ARG BASE=python:${PYTHON_VERSION}-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3.11 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml README.md LICENSE ./
COPY requirements/neuron.txt requirements/neuron.txt
COPY serve_app/__init__.py serve_app/__init__.py
# The CPU build: the default one brings several GB of CUDA's libraries, which no node here can use. Empty TORCH_INDEX and
# TORCH_BUILD: whatever build the builder's own pip configuration knows.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_BUILD=+cpu
RUN printf 'torch==2.8.0%s\ntorchvision==0.23.0%s\n' "$TORCH_BUILD" "$TORCH_BUILD" | cat requirements/neuron.txt - > constraints.txt \
    && pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt torch torchvision
ARG NEURON_INDEX
RUN pip install --extra-index-url "${NEURON_INDEX:?is the address of the package index of AWS Neuron}" --constraint constraints.txt ".[neuron]"
# The package last: a change of it alone leaves the layers above as they are.
COPY serve_app serve_app
RUN pip install --no-deps .

# A model in the image, where MODEL names one of the hub: it is found in /opt/models before the hub is asked.
FROM build AS model
ARG MODEL=""
ARG MODEL_REVISION=main
RUN --mount=type=secret,id=hf_token \
    mkdir -p /opt/models \
    && if [ -n "$MODEL" ]; then \
        if [ -f /run/secrets/hf_token ]; then HF_TOKEN=$(cat /run/secrets/hf_token); export HF_TOKEN; fi; \
        python -c "import sys, huggingface_hub as hub; hub.snapshot_download(sys.argv[1], revision=sys.argv[2], \
            local_dir=f'/opt/models/{sys.argv[1]}', ignore_patterns=['*.bin', '*.ckpt', '*.onnx*', '*openvino*', '*flax*', 'sd_xl_*'])" \
            "$MODEL" "$MODEL_REVISION"; \
    fi

FROM ${BASE}
LABEL org.opencontainers.image.title="imagine-neuron" \
      org.opencontainers.image.description="Inferentia2 worker of imagine: optimum-neuron on AWS Neuron SDK 2.26.1" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# Versions of Debian's packages follow the pinned base: a point release removes the older ones.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gnupg tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 imagine \
    && useradd --uid 1000 --gid 1000 --create-home imagine \
    && echo "export PATH=/opt/venv/bin:/opt/aws/neuron/bin:\$PATH" > /etc/profile.d/imagine.sh
# Runtime and tools of the SDK: Ray counts the cores by asking neuron-ls.
ARG NEURON_APT
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN wget -qO- "${NEURON_APT:?is the address of the Debian packages of AWS Neuron}/GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB" | gpg --dearmor -o /usr/share/keyrings/neuron.gpg \
    && echo "deb [signed-by=/usr/share/keyrings/neuron.gpg] $NEURON_APT jammy main" > /etc/apt/sources.list.d/neuron.list \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        "aws-neuronx-collectives=2.28.27.0*" "aws-neuronx-runtime-lib=2.28.23.0*" "aws-neuronx-tools=2.26.14.0" \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
COPY --from=model /opt/models /opt/models
COPY --chmod=755 docker/drain-ray-node /usr/local/bin/drain-ray-node
ENV PATH=/opt/venv/bin:/opt/aws/neuron/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    LD_LIBRARY_PATH=/opt/aws/neuron/lib
USER 1000:1000
WORKDIR /home/imagine
EXPOSE 8000
# As a worker of a Ray cluster the command is KubeRay's. Alone: the whole service on port 8000.
HEALTHCHECK --interval=15s --timeout=5s --start-period=600s --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/live', timeout=4)"]
ENTRYPOINT ["tini", "--"]
CMD ["imagine", "serve", "--host", "0.0.0.0", "--port", "8000"]
