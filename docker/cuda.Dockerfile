# Worker for NVIDIA GPUs. torch brings the CUDA libraries; the node brings driver and container toolkit.
# Built from the repository's root: docker buildx bake -f docker/docker-bake.hcl cuda
ARG PYTHON_VERSION=3.11.14
ARG BASE=python:${PYTHON_VERSION}-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3.11 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml README.md LICENSE ./
COPY requirements/lock.txt requirements/lock.txt
COPY serve_app/__init__.py serve_app/__init__.py
# The default Linux build of torch is the one for CUDA.
RUN pip install --constraint requirements/lock.txt ".[torch]"
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
LABEL org.opencontainers.image.title="imagine-cuda" \
      org.opencontainers.image.description="NVIDIA worker of imagine: PyTorch with its own CUDA libraries" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# Triton, which writes the kernels of this service and of torch.compile, builds what starts them with a C compiler.
# Versions of Debian's packages follow the pinned base: a point release removes the older ones.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 imagine \
    && useradd --uid 1000 --gid 1000 --create-home imagine \
    && echo "export PATH=/opt/venv/bin:\$PATH" > /etc/profile.d/imagine.sh
COPY --from=build /opt/venv /opt/venv
COPY --from=model /opt/models /opt/models
COPY --chmod=755 docker/drain-ray-node /usr/local/bin/drain-ray-node
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/imagine
EXPOSE 8000
# As a worker of a Ray cluster the command is KubeRay's. Alone: the whole service on port 8000.
HEALTHCHECK --interval=15s --timeout=5s --start-period=600s --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/live', timeout=4)"]
ENTRYPOINT ["tini", "--"]
CMD ["imagine", "serve", "--host", "0.0.0.0", "--port", "8000"]
