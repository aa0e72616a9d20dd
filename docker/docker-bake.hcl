# All images: docker buildx bake -f docker/docker-bake.hcl [--push]
# Another registry: REGISTRY=registry.example.com/imagine/ docker buildx bake -f docker/docker-bake.hcl --push

variable "REGISTRY" {
  default = ""
}

variable "PYTHON_VERSION" {
  default = "3.11.14"
}

# The package's version, Ray's and Python's: all images of a cluster must agree in the last two.
variable "TAG" {
  default = "0.1.0-ray2.60.0-py311"
}

# A model of the hub to put into the workers' images, such as stabilityai/sdxl-turbo; empty: images without.
variable "MODEL" {
  default = ""
}

# Best a commit: `git ls-remote https://huggingface.co/stabilityai/sdxl-turbo main` shows the newest.
variable "MODEL_REVISION" {
  default = "main"
}

# Where AWS keeps its Python and its Debian packages (the Neuron documentation says); target neuron needs both.
variable "NEURON_INDEX" {
  default = ""
}

variable "NEURON_APT" {
  default = ""
}

# Without neuron, which is asked for by name.
group "default" {
  targets = ["head", "cpu", "cuda", "ui"]
}

target "common" {
  context = "."
  platforms = ["linux/amd64"]
  args = {
    PYTHON_VERSION = PYTHON_VERSION
  }
}

target "worker" {
  inherits = ["common"]
  args = {
    MODEL = MODEL
    MODEL_REVISION = MODEL_REVISION
  }
  # A gated model: HF_TOKEN in the environment of the build, kept out of the image.
  secret = [{ type = "env", id = "hf_token", env = "HF_TOKEN" }]
}

target "head" {
  inherits = ["common"]
  dockerfile = "docker/head.Dockerfile"
  tags = ["${REGISTRY}imagine-head:${TAG}"]
}

target "cpu" {
  inherits = ["worker"]
  dockerfile = "docker/cpu.Dockerfile"
  tags = ["${REGISTRY}imagine-cpu:${TAG}"]
}

# With Intel's extension for PyTorch, whose last release needs this torch.
target "cpu-ipex" {
  inherits = ["cpu"]
  args = {
    TORCH_VERSION = "2.8.0"
    IPEX_VERSION = "2.8.0"
  }
  tags = ["${REGISTRY}imagine-cpu:${TAG}-ipex"]
}

target "cuda" {
  inherits = ["worker"]
  dockerfile = "docker/cuda.Dockerfile"
  tags = ["${REGISTRY}imagine-cuda:${TAG}"]
}

target "neuron" {
  inherits = ["worker"]
  dockerfile = "docker/neuron.Dockerfile"
  args = {
    NEURON_INDEX = NEURON_INDEX
    NEURON_APT = NEURON_APT
  }
  tags = ["${REGISTRY}imagine-neuron:${TAG}"]
}

target "ui" {
  inherits = ["common"]
  dockerfile = "docker/ui.Dockerfile"
  tags = ["${REGISTRY}imagine-ui:${TAG}"]
}
