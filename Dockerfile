# syntax=docker/dockerfile:1
# One image for worker, serving, topics, training and replay; the command chooses.
#
# torch's default Linux wheel brings CUDA. For the CPU build give pip an index that has it, for example
# `docker build --build-arg PIP_EXTRA_INDEX_URL=... .`: pip reads the variable itself.
FROM python:3.11.13-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/surgeline && /opt/surgeline/bin/pip install .

FROM python:3.11.13-slim-bookworm
ENV PATH=/opt/surgeline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SURGELINE_HOME=/var/lib/surgeline
# LightGBM trains the trunk of trees with OpenMP's library, which is not in the slim image.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
# The folders of the volumes exist with their owner, so that named volumes are made writable for it.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin surgeline \
    && install -d -o surgeline -g surgeline /var/lib/surgeline /srv/surgeline
COPY --from=build /opt/surgeline /opt/surgeline
USER surgeline
WORKDIR /home/surgeline
# Worker (metrics, live page), serving.
EXPOSE 6066 8500
# A worker's; docker-compose.yml names serving's.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:6066/health', timeout=2)"]
CMD ["surgeline", "worker"]
