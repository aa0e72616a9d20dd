# Head and ingress of the Ray cluster, and the batch client. No torch: models are loaded by the workers alone.
# Built from the repository's root: docker buildx bake -f docker/docker-bake.hcl head
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
RUN pip install --constraint requirements/lock.txt .
# The package last: a change of it alone leaves the layers above as they are.
COPY serve_app serve_app
RUN pip install --no-deps . \
    && rm -r /opt/venv/lib/python3.11/site-packages/serve_app/models

FROM ${BASE}
LABEL org.opencontainers.image.title="imagine-head" \
      org.opencontainers.image.description="Head, ingress and batch client of imagine: Ray Serve without torch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# Versions of Debian's packages follow the pinned base: a point release removes the older ones.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 imagine \
    && useradd --uid 1000 --gid 1000 --create-home imagine \
    && echo "export PATH=/opt/venv/bin:\$PATH" > /etc/profile.d/imagine.sh
COPY --from=build /opt/venv /opt/venv
COPY --chmod=755 docker/drain-ray-node /usr/local/bin/drain-ray-node
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/imagine
EXPOSE 6379 8000 8265 10001
# In a cluster the command is KubeRay's. Alone: a Ray head that lends no CPU, its dashboard on loopback.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=4 CMD ["ray", "health-check"]
ENTRYPOINT ["tini", "--"]
CMD ["ray", "start", "--head", "--block", "--num-cpus=0", "--dashboard-host=127.0.0.1"]
