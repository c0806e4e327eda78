# The kit with the CPU stack.
#
#   docker build --tag pd-testkit .
#   docker run --rm pd-testkit                                   # a deployment, and is it right?
#   docker run --rm pd-testkit conform --target reference        # any command of pd-testkit
#   docker run --rm --network host pd-testkit up --prefill 2 --decode 2

FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /source
COPY . .
# What git ignores and the image has no use for is in .dockerignore; .git says the version.
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends git \
  && uv build --wheel --out-dir /dist
RUN uv venv /opt/pd-testkit \
  && wheel="$(ls /dist/*.whl)" \
  && uv pip install --python /opt/pd-testkit/bin/python --no-cache --compile-bytecode \
    --torch-backend cpu "pd-testkit[stack,plots,trace] @ file://$wheel"

FROM python:3.12-slim
COPY --from=build /opt/pd-testkit /opt/pd-testkit
RUN useradd --create-home --uid 10001 pd
USER pd
WORKDIR /home/pd
ENV PATH=/opt/pd-testkit/bin:$PATH \
  PYTHONUNBUFFERED=1
# Of `up`, which it asks for its engines and its router; other commands end by themselves.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s CMD ["pd-testkit", "status"]
ENTRYPOINT ["pd-testkit"]
CMD ["up", "--prefill", "1", "--decode", "1", "--then", "pd-testkit accuracy"]
