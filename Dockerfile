# groundbass with PyTorch for CUDA (a CPU works too):
#   docker build -t groundbass .
#   docker run --rm --gpus all -v "$PWD":/here groundbass data scan music music.parquet
FROM python:3.12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip install --no-cache-dir "/source[av,lora,onnx,remote,synth]" && rm -rf /source
WORKDIR /here
ENTRYPOINT ["groundbass"]
CMD ["doctor"]
