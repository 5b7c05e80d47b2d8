# One image for every role: `docker run … parley worker --role openai`, `docker run … parley migrate`.

FROM python:3.11.15-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

COPY requirements.lock ./
RUN python -m venv --without-pip /opt/parley \
    && pip --python /opt/parley/bin/python install --require-hashes --only-binary :all: --requirement requirements.lock

# .dockerignore lists what this copies.
COPY . .
RUN pip --python /opt/parley/bin/python install --no-deps --no-build-isolation . \
    && pip --python /opt/parley/bin/python uninstall --yes hatchling


FROM python:3.11.15-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin parley \
    && install --directory --owner=parley --group=parley /run/parley /var/lib/parley

COPY --from=build /opt/parley /opt/parley
ENV PATH=/opt/parley/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PARLEY_READY_FILE=/run/parley/ready

USER 10001:10001
WORKDIR /run/parley

# A worker creates the file once it polls. Keep its directory on a tmpfs, so that the file does not outlive a restart.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["/bin/sh", "-c", "test -e \"$PARLEY_READY_FILE\""]

ENTRYPOINT ["parley"]
CMD ["--help"]
