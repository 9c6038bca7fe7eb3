# From a mirror: --build-arg BASE=registry.example/python:3.11-slim
ARG BASE=python:3.11-slim
FROM ${BASE} AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PACKAGES=/opt/makespan/lib/python3.11/site-packages

WORKDIR /src

# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/*

# Dependencies come before the code, so that a change of code leaves this layer as it is. Wheels
# only: a source archive would bring in build requirements that no lock file names. A quarter of
# what they install is their own tests. Bytecode is compiled here, since nothing can be written at
# run time, and never checked against timestamps, which some builders of images rewrite; other
# people's sources, of any language, would be another 50 MB, debug symbols 30 (of wheels that bundle
# no libraries: those are patched, and not to be touched), the generated docstrings of the client of
# Kubernetes 12, and HiGHS 5, which is there twice, as wheels have no links.
COPY deploy/locks/image.lock ./
RUN python -m venv --without-pip /opt/makespan \
    && python -m pip --python /opt/makespan/bin/python install \
        --require-hashes --only-binary :all: --no-cache-dir --no-compile -r image.lock \
    && find "$PACKAGES" -type d -name tests -prune -exec rm -r {} + \
    && find "$PACKAGES/aiohttp" "$PACKAGES/asyncpg" "$PACKAGES/sqlalchemy" "$PACKAGES/uvloop" \
        -name '*.so' -exec strip --strip-unneeded {} + \
    && ln -sfr "$PACKAGES"/highspy/libhighs.so.1.* "$PACKAGES/highspy/libhighs.so.1" \
    && python -m compileall -q -b --invalidation-mode unchecked-hash "$PACKAGES" \
    && python -m compileall -q -b -o 2 --invalidation-mode unchecked-hash \
        "$PACKAGES/kubernetes_asyncio" \
    && find "$PACKAGES" -regex '.*\.\(py[ix]?\|pxd\|[ch]\(pp\)?\)' -delete

COPY deploy/locks/build.lock ./
RUN python -m venv --without-pip /opt/build \
    && python -m pip --python /opt/build/bin/python install \
        --require-hashes --only-binary :all: --no-cache-dir -r build.lock

COPY pyproject.toml README.md LICENSE ./
COPY router/ router/
COPY solver/ solver/
RUN python -m pip --python /opt/build/bin/python wheel \
        --no-build-isolation --no-deps --no-index --no-cache-dir --wheel-dir /dist . \
    && python -m pip --python /opt/makespan/bin/python install \
        --no-deps --no-index --no-cache-dir --no-compile /dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash \
        "$PACKAGES/router" "$PACKAGES/solver"

FROM ${BASE}

LABEL org.opencontainers.image.title="Makespan" \
      org.opencontainers.image.description="An LLM request router that plans" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=builder /opt/makespan /opt/makespan

# In a container 127.0.0.1 is out of everybody's reach; who publishes the port decides who may call.
ENV PATH=/opt/makespan/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MAKESPAN_HOST=0.0.0.0

# A number, not a name: Kubernetes can prove only a number to be other than root.
USER 10001:10001

EXPOSE 8000

# The port is known here only from the environment, so set MAKESPAN_PORT rather than --port.
# http.client and not urllib.request, which would ask a proxy named in the environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('MAKESPAN_PORT', 8000)), timeout=2); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["makespan"]
# Without arguments: the demo, a gateway with two embedded workers.
CMD ["up"]
