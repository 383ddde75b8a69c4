# Two commands matter: `make demo` shows the main job, `make test` proves it. Each makes the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-slow test-gpu lint bench bench-gpu claims clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,stats,s3,slurm,ray,wandb,tensorboard]"
	touch $@

demo: $(VENV)/ready
	$(BIN)/inlearn run regression preset=demo name=demo
	@echo "open $$($(BIN)/inlearn report demo)"

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 -m slow

test-gpu: $(VENV)/ready
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/ready
	for table in step evaluation references small_costs query sweeps floor stacks compile threads scaling zoo automata_data automata_epoch probe; do $(BIN)/python benchmarks/$$table.py || exit 1; done

bench-gpu: $(VENV)/ready
	$(BIN)/python benchmarks/gpu.py

claims: $(VENV)/ready
	$(BIN)/inlearn reproduce --tier seconds
	$(BIN)/inlearn reproduce --tier minutes

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache
