# The page in a browser: a small web app that speaks HTTP to the service (SERVICE_NAME). No torch, no Ray.
# Built from the repository's root: docker buildx bake -f docker/docker-bake.hcl ui
ARG PYTHON_VERSION=3.11.14
ARG BASE=python:${PYTHON_VERSION}-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3.11 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements/ui.txt requirements/ui.txt
RUN pip install --requirement requirements/ui.txt

FROM ${BASE}
LABEL org.opencontainers.image.title="imagine-ui" \
      org.opencontainers.image.description="Web page of imagine: draws through the HTTP service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 imagine \
    && useradd --uid 1000 --gid 1000 --create-home imagine
COPY --from=build /opt/venv /opt/venv
COPY gradio_ui /opt/app/gradio_ui
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONUNBUFFERED=1 \
    UI_HOST=0.0.0.0 \
    GRADIO_TEMP_DIR=/tmp/gradio
USER 1000:1000
WORKDIR /home/imagine
EXPOSE 7860
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/', timeout=4)"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "gradio_ui"]
