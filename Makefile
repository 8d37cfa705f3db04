# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= quickstart

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help install develop docs quickstart test check soak bench clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   corpus, pretraining, probe, publishing and report.html in $(RUN)/ (about 10 minutes on 2 cores)"
	@echo "make test         every test but the long grids (under 20 minutes)"
	@echo "make check        formatting, lint, types and the fast tests (under 2 minutes)"
	@echo "make soak         the long grids (on two processes)"
	@echo "make docs         the documentation as a site, in build/docs"
	@echo "make bench        speed figures, as ratios against a reference in the same run"

# The stamps are renewed whenever what is asked for or what was tested changes. A torch that $(PYTHON) has is kept.
$(VENV)/.installed: pyproject.toml constraints.txt
	if $(PYTHON) -c "import torch, torchaudio" 2>/dev/null; then \
		$(PYTHON) -m venv --system-site-packages $(VENV); \
		grep -vE "^(torch|torchaudio)==" constraints.txt > $(VENV)/constraints.txt; \
	else \
		$(PYTHON) -m venv $(VENV); \
		cp constraints.txt $(VENV)/constraints.txt; \
	fi
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable ".[synth]"
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt \
		--editable ".[deepspeed,lora,onnx,synth,wandb,dev]"
	touch $@

install: $(VENV)/.installed

develop: $(VENV)/.developed

quickstart: install
	$(BIN)/groundbass quickstart $(RUN)

test: develop
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not soak and not gpu" --durations=15

check: develop
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# Mypy wants the folder to be called groundbass, whatever the clone is called.
	@mkdir -p $(VENV)/link && ln -sfn "$(CURDIR)" $(VENV)/link/groundbass
	cd $(VENV)/link && groundbass/$(BIN)/mypy --config-file groundbass/pyproject.toml --cache-dir groundbass/.mypy_cache \
		-p groundbass.data -p groundbass.models -p groundbass.pretrain -p groundbass.probe \
		-m groundbass.cli -m groundbass.arguments -m groundbass.api -m groundbass.plugins -m groundbass.progress \
		-m groundbass.benchmarks -m groundbass.doctor -m groundbass.quickstart -m groundbass.tiny \
		-m groundbass.finetuning -m groundbass.efficiency -m groundbass.publishing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not soak and not gpu"

soak: develop
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "soak" --timeout 3600 --durations=15

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable ".[docs]"
	touch $@

docs: $(VENV)/.documented
	$(BIN)/python docs/site/pages.py build/site
	$(BIN)/python -m sphinx -W --keep-going -q -b html build/site build/docs
	@echo "build/docs/index.html"

bench: develop
	$(BIN)/groundbass bench augment loader data train probe embed

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache
