# The one image of Numerator: every service, the gateway, the sandbox network and the commands for ops.
#
#   docker build -t numerator .          packages come from where the base image's pip finds them, by the hashes of the lock
#   make image OFFLINE=1                 packages come from .local/wheels, and the build has no network
#
# The same commit makes the same files, byte for byte: versions are pinned by hash, bytecode is checked by content.

FROM python:3.11-slim-bookworm AS packages
ARG PIP_NO_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/packages
COPY deploy/image/*.lock .local/wheel* /packages/
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --quiet --require-hashes --no-deps --no-build-isolation -r /packages/build.lock \
 && python -m venv --without-pip /opt/venv \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --quiet --require-hashes --no-deps --no-compile -r /packages/runtime.lock \
 && printf '/app\n/app/.local/stubs\n' >/opt/venv/lib/python3.11/site-packages/numerator.pth \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib
RUN /opt/build/bin/cyclonedx-py environment --output-reproducible --mc-type application -o /opt/venv/sbom.cdx.json /opt/venv/bin/python

FROM packages AS code
WORKDIR /app
COPY protos protos
COPY services services
COPY gateway gateway
COPY deploy deploy
RUN PYTHONPATH=/app:/opt/venv/lib/python3.11/site-packages /opt/build/bin/python -m deploy.local.stubs \
 && find .local -name '*.pyi' -delete \
 && rm -rf protos deploy/compose deploy/image deploy/local deploy/prometheus \
 && python -m compileall -q --invalidation-mode unchecked-hash /app

FROM python:3.11-slim-bookworm
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Numerator" \
      org.opencontainers.image.description="The enterprise edition of a microblog network, as a platform of services." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
# Named volumes take over the owner of the folder that they cover.
RUN groupadd --gid 10001 numerator \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin numerator \
 && install -d -o numerator -g numerator /var/lib/numerator
COPY deploy/image/ready /usr/local/bin/ready
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /app /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 NUMERATOR_VERSION=$VERSION
WORKDIR /app
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 CMD ["ready", "9464"]
ENTRYPOINT ["python", "-m"]
CMD ["gateway"]
