# make run    the demo: a gateway and two emulated workers on this machine
# make test   everything that needs no GPU, model or container, set up from scratch where needed
# make test-engines   the same for real engines: PyTorch, transformers and vLLM, some gigabytes
# make image-test     the container image: built, and run without any rights
# make transformers   what `makespan agent --engine transformers` needs
# The environment is .venv, installed from the lock files in deploy/locks, which have hashes;
# PYTHON chooses the interpreter.

# What the environment says or not: bytecode is kept, or every process would compile all it imports.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= python3
BIN := .venv/bin
LOCKS := deploy/locks
# PyTorch comes in several builds, so it is pinned without a hash, and pip, which knows where this
# machine has its own, chooses one.
TORCH := torch==2.13.0

# $(call install,ENVIRONMENT,WHAT): uv takes a tenth of pip's time; where it finds no index, as pip
# alone is told of a mirror, pip does the same. What is never imported is never compiled.
PIP = $(BIN)/python -m pip --python $(1)/bin/python install --quiet --disable-pip-version-check --no-compile $(2)
install = $(BIN)/uv pip install --quiet --python $(1)/bin/python $(2) || $(PIP)

.PHONY: run test test-engines test-transformers test-vllm image-test check format setup transformers lock bench soak clean

run: .venv/.run
	@$(BIN)/makespan up

# Three files at a time, as much of what takes longest, and comes first, is waiting.
test: .venv/.dev .venv/.clients
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Real engines; vLLM in an environment of its own (3.4 GB), as its pins contradict ours.
test-engines: test-transformers test-vllm

test-transformers: .venv/.dev .venv/.transformers
	$(BIN)/python -m pytest tests/engines

test-vllm: .venv-vllm/.ready
	.venv-vllm/bin/python -m pytest tests/engines/test_vllm*.py

# The image, built without Docker where there is none, and run with no rights at all.
image-test: .venv/.dev
	tests/image/build localhost/makespan:test
	IMAGE=localhost/makespan:test $(BIN)/python -m pytest tests/image

check: .venv/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: .venv/.dev
	$(BIN)/makespan bench paper --out $$(mktemp -d)
	@for bench in dispatch rolling quantile stall window decision predict fleet loop sidecar tracing; do echo "\n== $$bench"; $(BIN)/python -m tests.bench.bench_$$bench || exit 1; done

# Half an hour, with faults: memory and descriptors stay flat.
soak: .venv/.dev
	$(BIN)/python -m tests.bench.soak

setup: .venv/.dev

.venv/.run: $(LOCKS)/uv.lock $(LOCKS)/run.lock $(LOCKS)/build.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Makespan needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}: try make PYTHON=python3.12")'
	@echo "Installing into .venv ..."
	@$(PYTHON) -m venv .venv
	@$(call PIP,.venv,--require-hashes -r $(LOCKS)/uv.lock)
	@$(call install,.venv,--require-hashes -r $(LOCKS)/run.lock -r $(LOCKS)/build.lock)
	@$(call install,.venv,--no-deps --no-build-isolation --editable .)
	@touch $@

.venv/.dev: .venv/.run $(LOCKS)/dev.lock
	@echo "Installing development tools into .venv ..."
	@$(call install,.venv,--require-hashes -r $(LOCKS)/dev.lock)
	@touch $@

transformers: .venv/.transformers

# What only PyTorch's CUDA build needs is left to it.
.venv/.transformers: .venv/.run $(LOCKS)/transformers.lock
	@echo "Installing PyTorch and transformers into .venv ..."
	@$(call PIP,.venv,$(TORCH))
	@$(call install,.venv,--require-hashes --no-deps -r $(LOCKS)/transformers.lock)
	@touch $@

# What the tests run against the gateway beside the clients of .venv: LangChain, and a load generator.
.venv/.clients: .venv/.dev $(LOCKS)/clients.lock
	@echo "Installing clients into .venv/clients ..."
	@$(PYTHON) -m venv --without-pip .venv/clients
	@$(call install,.venv/clients,--require-hashes -r $(LOCKS)/clients.lock)
	@touch $@

# torch first and by itself: vLLM's build for CPUs asks for a variant of it that not every index
# has. The lock leaves out torch and what merely crashes beside it (tests/engines/overrides.txt).
.venv-vllm/.ready: .venv/.run $(LOCKS)/vllm.lock pyproject.toml
	@echo "Installing vLLM into .venv-vllm (some minutes) ..."
	@$(PYTHON) -m venv --without-pip .venv-vllm
	@$(call PIP,.venv-vllm,$(TORCH))
	@$(call install,.venv-vllm,--require-hashes --no-deps -r $(LOCKS)/vllm.lock)
	@$(call install,.venv-vllm,--no-deps --no-build-isolation --editable .)
	@touch $@

# Lock files name versions and hashes for every platform, and no addresses.
UV := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
WITHOUT_TORCH := $(foreach name,torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx,--no-emit-package $(name))
lock: .venv/.run
	$(UV) --group uv -o $(LOCKS)/uv.lock
	$(UV) pyproject.toml -o $(LOCKS)/run.lock
	$(UV) --group build -c $(LOCKS)/run.lock -o $(LOCKS)/build.lock
	$(UV) pyproject.toml --extra transformers -c $(LOCKS)/run.lock $(WITHOUT_TORCH) -o $(LOCKS)/transformers.lock
	$(UV) --group dev -c $(LOCKS)/run.lock -c $(LOCKS)/build.lock -o $(LOCKS)/dev.lock
	$(UV) pyproject.toml --extra kubernetes --extra otel --extra postgres -c $(LOCKS)/run.lock -c $(LOCKS)/dev.lock -o $(LOCKS)/image.lock
	$(UV) --group clients -c $(LOCKS)/run.lock -c $(LOCKS)/build.lock -c $(LOCKS)/dev.lock -o $(LOCKS)/clients.lock
	npm --prefix tests/clients/node install --package-lock-only --no-audit --no-fund
	$(UV) --group vllm --override tests/engines/overrides.txt -o $(LOCKS)/vllm.lock

clean:
	rm -rf .venv .venv-vllm
