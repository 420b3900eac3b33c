# The live page in a container; docs/deploying.md says how it is run.
#
#   CPU:  docker build -t audio-interaction .
#   CUDA: docker build -t audio-interaction:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#
# torch's wheels from PyPI bring CUDA's libraries, so that the same base does for both. To build on
# NVIDIA's instead: --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS python
# Bases for CUDA come without Python.
RUN command -v python3 >/dev/null && python3 -c 'import ensurepip' || ( \
        apt-get update && \
        apt-get install -y --no-install-recommends python3 python3-venv && \
        rm -rf /var/lib/apt/lists/* \
    )

FROM python AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m venv /opt/venv
# torch alone, first: it is large and seldom changes, and its layer stays.
RUN /opt/venv/bin/python -m pip install --no-cache-dir torch==2.13.0 --index-url ${TORCH_INDEX} \
        --extra-index-url https://pypi.org/simple
COPY requirements.txt /tmp/requirements.txt
RUN /opt/venv/bin/python -m pip install --no-cache-dir -r /tmp/requirements.txt

FROM python AS app
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data app && \
    mkdir /data && chown app:app /data
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY app.py LICENSE requirements.txt ./
COPY assets ./assets
COPY client ./client
COPY webui ./webui
COPY backend ./backend
COPY study ./study
# Compiled here, as nothing can be written later.
RUN /opt/venv/bin/python -m compileall -q app.py backend client study webui
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    HF_HOME=/data/huggingface \
    XDG_DATA_HOME=/data \
    XDG_CACHE_HOME=/tmp/cache \
    GRADIO_TEMP_DIR=/tmp/gradio
USER app
VOLUME ["/data"]
EXPOSE 7860
# Not healthy before the model is loaded: /health answers 503 until then.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('PORT', '7860') + '/health', timeout=4)"]
STOPSIGNAL SIGINT
ENTRYPOINT ["python", "app.py"]
CMD ["serve", "--host", "0.0.0.0"]
