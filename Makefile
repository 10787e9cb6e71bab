# make demo   sets up, then runs the main job on the embedded base model, offline
# make test   sets up, runs the checks and all tests
# make check  the checks and tests of `make test`, in the environment that is there
# make reliability  every step of every verb cut and failed, eight processes at once, a server under load: docs/reliability.md
# make audit       the installed packages against the public list of known holes; needs the network
# make matrix      the wheel with the lowest and the newest versions of what it needs; needs uv, and gigabytes
# make coverage    lines and branches that the tests run, in the processes that they start too
# make mutation    how many small mistakes the tests of objectives, parsers and metrics notice
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check lint docs reliability audit matrix coverage mutation clean

demo: $(INSTALLED)
	VENV=$(VENV) bash examples/demo.sh

test: check

check: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff format --check src tests examples bench basemodel
	$(BIN)/ruff check src tests examples bench basemodel
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip check
	$(BIN)/python -m kmcli.cli.generate --check

reliability: $(INSTALLED)
	$(BIN)/python tests/reliability.py

audit: $(INSTALLED)
	$(BIN)/python -m pip check
	$(BIN)/python -m pip install --quiet --target $(VENV)/.audit pip-audit
	PYTHONPATH=$(VENV)/.audit $(BIN)/python tests/audit.py "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

matrix: $(INSTALLED)
	$(BIN)/python tests/matrix.py

coverage: $(INSTALLED)
	$(BIN)/python -m pip install --quiet 'coverage>=7.10'
	$(BIN)/python -m coverage erase
	-$(BIN)/python -m coverage run -m pytest -n 2 --dist worksteal
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --sort=cover

mutation: $(INSTALLED)
	$(BIN)/python tests/mutation.py

docs: $(INSTALLED)
	$(BIN)/python -m kmcli.cli.generate

# docs/screenshot.svg from a real run, in the library that `make demo` left
.PHONY: screenshot
screenshot: $(INSTALLED)
	test -d .demo/library || $(MAKE) demo
	$(BIN)/python examples/make_screenshot.py .demo/library

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e . --group dev
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) .demo dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage*
