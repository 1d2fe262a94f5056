# The ways in. Everything installs into .venv; nothing outside this folder is touched but BentoML's model store.
PYTHON ?= $(firstword $(foreach name,python3 python3.12 python3.11,$(if $(shell $(name) -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,13))' 2>/dev/null && echo yes),$(name))))
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
HOST ?= 127.0.0.1
PORT ?= 3000
VARIANTS ?= resnet20-postact resnet20-preact
DATA ?= ../shared/data/cifar10
export BENTOML_DO_NOT_TRACK = True

.PHONY: help demo test fuzz check fix train export serve loadtest build image image-test image-gpu image-loadtest sbom up down kube-check kube-e2e bench bench-serving bench-loadtests wheelhouse gpu-check lock clean
help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

# An environment is as old as the lock that it was made from: `demo` needs less than `test` does.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c requirements/lock.txt
$(VENV)/python: pyproject.toml $(wildcard requirements/*.txt)
	$(if $(PYTHON),,$(error Python 3.11 or 3.12 is needed; say where it is: make PYTHON=/path/to/python3.12))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet pip==26.3
	@touch $@
$(VENV)/demo: $(VENV)/python
	@echo "Downloads about 340 MB, 190 of them a CPU build of torch. Where pip finds none it takes the build for CUDA,"
	@echo "2.4 GB more: README, 'Platforms and sizes'."
	$(INSTALL) --group export --group loadtest --group demo
	@touch $@
$(VENV)/dev: $(VENV)/python
	@echo "Downloads about 580 MB, 190 of them a CPU build of torch. Where pip finds none it takes the build for CUDA,"
	@echo "2.4 GB more: README, 'Platforms and sizes'."
	$(INSTALL) --group dev
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements/peers.txt
	for apart in tensorrt-10 tensorrt-11 perf-analyzer; do $(BIN)/python -m pip install --disable-pip-version-check \
		--no-deps --upgrade --target $(VENV)/$$apart -r requirements/$$apart.txt || exit; done
	@rm -f $(VENV)/gpu
	@touch $@ $(VENV)/demo

demo: $(VENV)/demo ## export both orderings, serve, classify a photograph, load-test, compare
	$(BIN)/python demo.py
# A file's tests share what they set up, and stay together; two processes, for two cores.
test: $(VENV)/dev ## every test that this machine can run
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
fuzz: $(VENV)/dev ## 10,000 mutated images and 2,000 mutated requests of each route, against a running service
	$(BIN)/python -m pytest tests/serving/test_mutations.py --hypothesis-profile=many
check: $(VENV)/dev ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
fix: $(VENV)/dev ## format and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
# The default is taken where it is there; what somebody names has to be.
DATA_OPTION = $(addprefix --data ,$(if $(filter file,$(origin DATA)),$(wildcard $(DATA)),$(DATA)))
EXPORT = $(BIN)/python -m export $(VARIANTS) $(DATA_OPTION) $(EXPORT_OPTIONS)
train: $(VENV)/dev ## train VARIANTS on DATA; run again to resume
	for variant in $(VARIANTS); do $(BIN)/python -m models train $$variant --data $(DATA) || exit; done
export: $(VENV)/demo ## export VARIANTS to BentoML's model store
	$(EXPORT)
serve: $(VENV)/demo ## export VARIANTS and serve them in the foreground on PORT
	tags="$$($(EXPORT))" && SERVING_MODELS="$$tags" exec $(BIN)/bentoml serve serving.service:Preflight --host $(HOST) --port $(PORT)
loadtest: $(VENV)/demo ## compare VARIANTS on a running service at PORT
	$(BIN)/python -m loadtests compare $(VARIANTS) --host http://$(HOST):$(PORT)
build: export ## pack the service and the models that bentofile.yaml names into a bento
	$(BIN)/bentoml build
	@echo "It holds what bentofile.yaml names, VARIANTS or not:"
	@$(BIN)/python -c "import bentoml; print(*(each.tag for each in bentoml.get('preflight:latest').info.models), sep='\n')"
# Somewhere behind a mirror, or on another distribution: BASE_IMAGE names the image to build on.
BASE_IMAGE ?=
IMAGE = $(BIN)/python -m deploy.image $(addprefix --base-image ,$(BASE_IMAGE)) $(IMAGE_OPTIONS)
image: export ## a container image of the service for CPUs, preflight:cpu; needs Docker
	$(IMAGE) cpu
image-test: $(VENV)/dev ## build the CPU image on BASE_IMAGE, run it without rights and behind nginx, and hold it to what it promises
	BASE_IMAGE=$(BASE_IMAGE) $(BIN)/python -m pytest tests/deploy/test_image.py tests/deploy/test_compose.py
image-gpu: export ## the same with TensorRT-RTX and ONNX Runtime's CUDA provider, preflight:gpu
	$(IMAGE) gpu
SBOM_OF ?= preflight:cpu
sbom: ## packages and licences of the image SBOM_OF, as CycloneDX
	@docker run --rm --interactive --network none --read-only --entrypoint python $(SBOM_OF) - < deploy/sbom.py
image-loadtest: ## Locust with this project's scenario, preflight-loadtest:0.1.0, for load from inside a cluster
	DOCKER_BUILDKIT=1 docker build --file deploy/Dockerfile.loadtest $(addprefix --build-arg BASE_IMAGE=,$(BASE_IMAGE)) --tag preflight-loadtest:0.1.0 .
# For a trial; a host that others reach has a certificate of theirs in deploy/tls, which is never committed.
deploy/tls/certificate.pem:
	mkdir -p deploy/tls
	umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=localhost \
		-addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -keyout deploy/tls/key.pem -out $@
	[ "$$(id -u)" != 0 ] || chown 10001:10001 deploy/tls/key.pem $@
# nginx runs as who may read the key, and never as root: without root's rights it could not start its workers.
COMPOSE = OWNER=$$(if [ "$$(id -u)" = 0 ]; then echo 10001:10001; else echo $$(id -u):$$(id -g); fi) docker compose --file deploy/compose.yaml
up: deploy/tls/certificate.pem ## the service, nginx with TLS and Prometheus on this host; needs make image
	$(COMPOSE) up --detach --wait
down: ## end what make up began
	$(COMPOSE) down
kube-check: $(VENV)/dev ## render the overlays of deploy/kubernetes and check them strictly; needs kubectl or kustomize
	$(BIN)/python -m deploy.kube_check
kube-e2e: $(VENV)/dev ## on the cluster that kubectl reaches: deploy, roll out, kill a pod, all under load
	$(BIN)/python -m deploy.kube_e2e $(KUBE_E2E_OPTIONS)
bench: export ## measure this machine; figures go to build/bench
	$(BIN)/python -m loadtests startup
	$(BIN)/python -m loadtests.explain_bench
	$(BIN)/python -m export bench
# Other serving frameworks pin what ours does not need: they get an environment of their own, about 310 MB.
$(PEERS)/ready: requirements/bench-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet pip==26.3
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements/bench-peers.txt
	@touch $@
bench-serving: $(VENV)/demo $(PEERS)/ready ## compare the service with other frameworks, a bare server and none; needs wrk
	$(BIN)/python -m loadtests.serving_bench $(BENCH_OPTIONS)
bench-loadtests: $(VENV)/demo ## hold the load tests to answers that are known, and their generator to Locust's; 40 minutes
	$(BIN)/python -m loadtests.generator_bench; generator=$$?; $(BIN)/python -m loadtests.trust_bench && exit $$generator
WHEELS ?= wheelhouse
WHEELS_PYTHON ?= 3.12
wheelhouse: $(VENV)/dev ## collect wheels for a GPU machine without network, Python WHEELS_PYTHON, in WHEELS
	$(BIN)/python requirements/wheelhouse.py --python $(WHEELS_PYTHON) --out $(WHEELS)
# torch is taken from the machine where the wheels are; elsewhere all but TensorRT is installed (docs/gpu.md). A machine's
# own python3 may itself be a virtual environment's, whose packages --system-site-packages does not reach: hence machine.pth.
$(VENV)/gpu: requirements/onnxruntime-gpu.txt $(wildcard $(WHEELS)/requirements.txt)
ifneq ($(wildcard $(WHEELS)/requirements.txt),)
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(PYTHON) -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" > \
		"$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/machine.pth"
	$(BIN)/python -m pip install --quiet --no-index --no-deps --find-links $(WHEELS) -r $(WHEELS)/requirements.txt
else
	$(MAKE) $(VENV)/dev
	$(BIN)/python -c "import sys; from export.cuda import Cuda; from serving.runners.machine import Machine; \
		cuda = Machine().cuda; isinstance(cuda, Cuda) or sys.exit(f'nothing to check here: {cuda}')"
	$(BIN)/python -m pip uninstall --yes onnxruntime
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements/onnxruntime-gpu.txt
endif
	@touch $@
gpu-check: $(VENV)/gpu ## on a GPU machine: parity, accuracy, engines beside torch, the service under load; resumes
	$(BIN)/python gpu_check.py $(DATA_OPTION) $(GPU_CHECK_OPTIONS)
lock: $(VENV)/dev ## renew the pinned versions
	$(BIN)/uv pip compile $(LOCK) --upgrade --group dev -o requirements/lock.txt
	$(BIN)/uv pip compile $(LOCK) --group serve -c requirements/lock.txt -o requirements/serve.txt
	$(BIN)/uv pip compile $(LOCK) --group loadtest -c requirements/lock.txt -o requirements/loadtest.txt
	$(BIN)/uv pip compile $(LOCK) --group serve-gpu requirements/onnxruntime-gpu.txt -c requirements/lock.txt \
		--no-emit-package onnxruntime -o requirements/serve-gpu.txt
	$(BIN)/uv pip compile $(LOCK) --upgrade --group bench-peers -c requirements/lock.txt -o requirements/bench-peers.txt
LOCK = --quiet --universal --python-version 3.11 --no-annotate --no-header --no-emit-find-links --no-emit-index-url
clean: ## remove what the targets made here
	rm -rf $(VENV) $(PEERS) build runs wheelhouse
