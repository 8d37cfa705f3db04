# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= quickstart

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help install quickstart test check soak bench clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   corpus, pretraining, probe, publishing and report.html in $(RUN)/ (about 10 minutes on 2 cores)"
	@echo "make test         every test but the long grids (under 20 minutes)"
	@echo "make check        formatting, lint, types and the fast tests (under 2 minutes)"
	@echo "make soak         the long grids"
	@echo "make bench        speed figures, as ratios against a reference in the same run"

# The stamp is renewed whenever what is asked for or what was tested changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[deepspeed,lora,onnx,synth,wandb,dev]"
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(BIN)/groundbass quickstart $(RUN)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not soak and not gpu" --durations=15

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# Mypy wants the folder to be called groundbass, whatever the clone is called.
	@mkdir -p $(VENV)/link && ln -sfn "$(CURDIR)" $(VENV)/link/groundbass
	cd $(VENV)/link && groundbass/$(BIN)/mypy --config-file groundbass/pyproject.toml --cache-dir groundbass/.mypy_cache \
		-p groundbass.data -p groundbass.models -p groundbass.pretrain -p groundbass.probe \
		-m groundbass.cli -m groundbass.benchmarks -m groundbass.doctor -m groundbass.quickstart -m groundbass.tiny \
		-m groundbass.finetuning -m groundbass.efficiency
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not soak and not gpu"

soak: install
	$(BIN)/python -m pytest -m "soak" --durations=15

bench: install
	$(BIN)/groundbass bench augment loader data train probe embed

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache
