ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /srv/taskflow
# The environment has no pip of its own: this stage's pip fills it, and stays behind.
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt requirements-dev.txt /tmp/
# The build backend is taken out of the development lock, and never enters the environment.
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps \
        --require-hashes --only-binary :all: --requirement /tmp/requirements.txt \
    && sed -n '/^flit-core==/,/# via/p' /tmp/requirements-dev.txt > /tmp/backend.txt \
    && pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
        --target /tmp/backend --requirement /tmp/backend.txt
COPY alembic.ini pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY app app
# Installed as editable, since migrations are looked for beside the package. The modes of the host's
# files must not matter, and nothing is compiled at a start on a read-only file system.
RUN PYTHONPATH=/tmp/backend pip --python /opt/venv/bin/python install --no-cache-dir --no-deps \
        --no-build-isolation --editable . \
    && chmod -R u=rwX,go=rX . \
    && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib app

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="taskflow" \
      org.opencontainers.image.description="A task-management service that other software builds on: an async REST API over PostgreSQL." \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 taskflow \
    && useradd --uid 10001 --gid taskflow --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin taskflow
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/taskflow /srv/taskflow
WORKDIR /srv/taskflow
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ENVIRONMENT=production \
    HOST=0.0.0.0 \
    PORT=8000
# An image that cannot start fails here. Starting also compiles what is used of the standard library.
RUN taskflow openapi > /dev/null && python -c "import http.client"
ENV PYTHONDONTWRITEBYTECODE=1
# A number, so that an orchestrator can tell that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=2); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
CMD ["taskflow", "serve"]
