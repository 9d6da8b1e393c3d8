# make demo: install, train shortly on sample photos, upscale the validation picture
# make test: install, check the style, run the tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test clean

demo: .venv/installed
	$(BIN)/python main.py --mode=srgan --recipe demo --checkpoint-dir checkpoint/demo --samples-dir samples/demo
	$(BIN)/python main.py --mode=evaluate --recipe demo --checkpoint-dir checkpoint/demo --samples-dir samples/demo

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

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
