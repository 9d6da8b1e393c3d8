# make demo: install, train shortly on sample photos, upscale the validation image
# make test: install, check the style, run the tests
# make test-export, test-page: tests of what has requirements of its own
# make test-hosts: two hosts, of which one dies
# make walkthrough: the images of docs/walkthrough.md and docs/theory.md, a few minutes
# make gpu-check: six minutes on a GPU that was never tried
# make crash-test, fuzz, soak, mutation: the long tests of docs/reliability.md, half an hour each
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-export test-page test-hosts walkthrough gpu-check crash-test fuzz soak mutation clean

demo: .venv/installed
	$(BIN)/python main.py --mode=srgan --recipe demo --checkpoint-dir checkpoint/demo --samples-dir samples/demo
	$(BIN)/python main.py --mode=evaluate --recipe demo --checkpoint-dir checkpoint/demo --samples-dir samples/demo

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-export: .venv/installed-test
	$(BIN)/python -m pip install --quiet -r requirements-export.txt
	$(BIN)/python -m pytest tests/upscaling/test_export.py tests/upscaling/test_ncnn.py -rs

# Chromium is installed on Debian, which needs root
test-page: .venv/installed-test
	$(BIN)/python -m pip install --quiet -r requirements-page.txt playwright==1.65.2
	command -v chromium >/dev/null || apt-get install --yes --quiet chromium
	$(BIN)/python -m pytest tests/upscaling/test_page.py -rs

test-hosts: .venv/installed-test
	$(BIN)/python -m pytest -m long

walkthrough: .venv/installed
	$(BIN)/python docs/make_figures.py

gpu-check: .venv/installed
	$(BIN)/python bench/gpu_check.py

crash-test: .venv/installed-test
	$(BIN)/python tests/long/crash.py --kills 200 --faults 60

fuzz: .venv/installed-test
	$(BIN)/python tests/long/fuzz.py --files 10000

soak: .venv/installed-test
	$(BIN)/python tests/long/soak.py --minutes 30

mutation: .venv/installed-test
	$(BIN)/python -m pip install --quiet pytest-cov==7.1.0
	$(BIN)/python tests/long/mutation.py --mutants 150

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "error: Python 3.10 to 3.13 is needed: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv || { echo "error: install the venv module (Debian: apt install python3-venv)"; exit 2; }

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-test: requirements-test.txt .venv/installed
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@

clean:
	rm -rf .venv
