# One image for every role: `docker run IMAGE coordinator start`, `worker start JOIN`, `demo` ...
#
# A task travels as a pickle, so clients and workers should run the same minor version of Python: to serve clients on
# 3.11, build with --build-arg PYTHON_IMAGE=python:3.11-slim.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
RUN python -m venv /opt/jobrunner
WORKDIR /src
COPY . .
RUN /opt/jobrunner/bin/python -m pip install --no-cache-dir --disable-pip-version-check .

FROM ${PYTHON_IMAGE}
# The folders of the coordinator's journal and of keys are made here, so that volumes over them belong to the user, too.
RUN useradd --create-home --uid 1000 jobrunner \
    && install -d -o jobrunner -g jobrunner /home/jobrunner/.local /home/jobrunner/.local/state \
    && install -d -o jobrunner -g jobrunner -m 700 /keys /keys/coordinator /keys/worker /keys/client
COPY --from=build /opt/jobrunner /opt/jobrunner
ENV PATH="/opt/jobrunner/bin:$PATH" \
    PYTHONUNBUFFERED=1
USER jobrunner
WORKDIR /home/jobrunner
ENTRYPOINT ["jobrunner"]
CMD ["--help"]
