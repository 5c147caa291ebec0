# snaketune: `make` alone lists what there is. Only git, make and Python 3.11 or newer are needed; uv is used when present.

CORES ?= 8
ARGS ?=
MINUTES ?= 10
SEED ?=
PORT ?= 8000
RUN ?=
ADVISORIES ?=
BIN := .venv/bin

# Rules call `python`: it has to be the environment's, with that environment's packages alone.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONNOUSERSITE := 1
unexport PYTHONHOME PYTHONPATH PYTHONUSERBASE PYTHONSAFEPATH PYTHONPLATLIBDIR
# Each job would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install install-dev train ask serve watch gpu-check test test-fast torture audit lint docs format generate constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo "  CORES=$(CORES) and ARGS=\"--config ...\" are passed on to Snakemake by \`make train\`."

install: ## make or update .venv (nothing to do when it is current)
	@bash envs/install.sh

install-dev: ## the same, with what tests and checks need
	@bash envs/install.sh --dev

train: install ## install, then run the whole workflow
	$(BIN)/snakemake --cores $(CORES) train $(ARGS)

ask: install ## talk to the base and to the tuned model, side by side; ARGS='--config ask="..."' asks once
	@$(BIN)/snakemake --cores $(CORES) ask $(ARGS)

serve: install ## serve a merged model at PORT=8000 to clients of the OpenAI API; RUN=name, with several
	$(BIN)/python scripts/serve_model.py --port $(PORT) $(if $(RUN),--run $(RUN))

watch: install ## watch running trainings in the terminal; Ctrl-C ends it
	@$(BIN)/python scripts/watch_runs.py

gpu-check: install ## is this machine's GPU fit for training? at most six minutes, nothing downloaded
	$(BIN)/python scripts/gpu_check.py

test: install-dev ## install, then run every test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 5

test-fast: install-dev ## unit and golden tests only, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile tests/unit tests/golden

torture: install-dev ## random faults for MINUTES=10, each followed by the same command and a comparison; SEED=n repeats
	$(BIN)/python tests/faults/torture.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

audit: install-dev ## licences of the pinned packages; ADVISORIES=all.zip also looks for known vulnerabilities
	$(BIN)/python envs/audit.py $(if $(ADVISORIES),--advisories $(ADVISORIES))

lint: install-dev ## check style, types, limits of size, words and workflow; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/mypy
	cd scripts && ../$(BIN)/lint-imports ../pyproject.toml --no-cache
	$(BIN)/python -m pytest tests/unit/test_code_limits.py tests/unit/test_wording.py
	$(BIN)/snakemake --lint

format: install-dev ## put Python and Snakemake files into the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile rules

docs: install-dev ## build the documentation as a site, site/index.html; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

generate: install-dev ## write the generated pages and the configuration's schema again
	$(BIN)/python scripts/generate_docs.py

constraints: ## recompute constraints.txt from the public index (needs uv)
	env -u UV_FIND_LINKS -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_DEFAULT_INDEX \
		UV_CUSTOM_COMPILE_COMMAND="make constraints" \
		uv pip compile --quiet --no-config --universal --python-version 3.11 --upgrade \
		envs/requirements.txt envs/requirements-dev.txt \
		$(filter-out envs/extras/smollm2.txt,$(wildcard envs/extras/*.txt)) --output-file constraints.txt

clean: ## remove caches of tools; results, work, logs and .venv stay
	rm -rf site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find scripts tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
