# Arcturus in a container: docker build -t arcturus . && docker run -v $PWD:/work arcturus dqn --env ALE/Pong-v5
# torch comes as pip finds it: on Linux with CUDA, used by docker run --gpus all.  For a smaller image without CUDA give the index that
# pytorch.org names for CPU builds: docker build --build-arg TORCH="torch==2.13.0 --index-url URL" -t arcturus .
FROM python:3.11-slim
ARG TORCH="torch==2.13.0"
WORKDIR /arcturus
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY agents agents
COPY core core
COPY envs envs
COPY replay replay
COPY scripts scripts
COPY pretrained pretrained
RUN pip install --no-cache-dir ${TORCH}
RUN pip install --no-cache-dir -c constraints.txt .
WORKDIR /work
ENTRYPOINT ["train-agent"]
CMD ["doctor"]
