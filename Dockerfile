# The page and service of docs/live.md with the model of `make demo`:
#
#   docker build -t slt-jax .                                  # CPU
#   docker build -t slt-jax --build-arg ACCELERATOR=cuda .     # NVIDIA GPUs; run with --gpus all
#   docker run --rm -p 8000:8000 -e SLT_SERVE_TOKEN=... slt-jax
#
# Your own model: -v /path/to/run:/run-dir:ro slt-jax --checkpoint /run-dir. tests/serve/test_dockerfile.py runs the
# steps of this file where no Docker is.
FROM python:3.11-slim AS built
ARG ACCELERATOR=cpu
WORKDIR /app
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libegl1 libgles2 \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY slt_jax slt_jax
COPY convert convert
RUN python -m venv /venv && extras=serve && if [ "$ACCELERATOR" = cuda ]; then extras=serve,cuda; fi \
    && /venv/bin/pip install --no-cache-dir -c constraints.txt ".[$extras]"

# The demo's model is trained here, so that nothing has to be downloaded.
FROM built AS demo
COPY tools tools
COPY configs configs
RUN /venv/bin/python tools/demo.py

FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libegl1 libgles2 \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home --uid 1000 slt
COPY --from=built /venv /venv
COPY --from=demo --chown=slt /app/runs/demo/run/last.pt /model/last.pt
COPY --from=demo --chown=slt /app/runs/demo/run/tokenizer /model/tokenizer
USER slt
ENV PATH=/venv/bin:$PATH
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --start-period=5m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
ENTRYPOINT ["slt-serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--checkpoint", "/model/last.pt"]
