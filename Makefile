# Two commands do all the set-up on a fresh machine with Python 3.11 or newer and pip:
#   make run    runs a broker, a far side and two routes between them
#   make test   runs all tests (as root on a Debian or Ubuntu it installs the real peers they need)
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: run test interpreted conformance check format bench bench-quick soak chaos power docs clean

run: $(VENV)/installed
	$(BIN)/isthmus demo

# As it is installed: compiled where there is a C compiler; what is compiled, once more interpreted.
# Four processes share the files of tests, most of which wait for something; those that measure time
# or memory have the machine to themselves. What fails is run again by itself, as a busy machine can
# be too slow for a test's deadlines; what passes only then is named at the end (tests/run_again.py).
SHARED   := -n 4 --dist loadfile --no-loadscope-reorder -m 'not alone'
AGAIN    := --last-failed --last-failed-no-failures none
PASSED   := .pytest_cache/passed-again
FORGET   := @rm -f $(PASSED)
SHOW     := @if [ -s $(PASSED) ]; then echo 'These failed first, and passed when they were run again:'; cat $(PASSED); fi
TEST     := $(BIN)/pytest
SLOW     := ISTHMUS_INTERPRETED=1 $(TEST)
CODEC    := $(addprefix tests/,mqtt delivery)
BOTHWAYS := $(CODEC) $(addprefix tests/,net broker connectors routing)
test: $(VENV)/installed-test
	tests/peers.sh
	$(FORGET)
	$(TEST) $(SHARED) || $(TEST) $(AGAIN)
	$(TEST) -m alone || $(TEST) $(AGAIN)
	$(SLOW) $(SHARED) $(CODEC) || $(SLOW) $(AGAIN) $(CODEC)
	$(SHOW)

# The same of all that the compiled files serve, interpreted as it is without a C compiler.
interpreted: $(VENV)/installed-test
	tests/peers.sh
	$(FORGET)
	$(SLOW) $(SHARED) $(BOTHWAYS) || $(SLOW) $(AGAIN) $(BOTHWAYS)
	$(SLOW) -m alone $(BOTHWAYS) || $(SLOW) $(AGAIN) $(BOTHWAYS)
	$(SHOW)

# Which normative statements of MQTT have a test, and what is missing.
conformance: $(VENV)/installed-test
	$(BIN)/python -m tests.conformance

check: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-test
	tests/peers.sh
	$(BIN)/python -m bench

bench-quick: $(VENV)/installed-test
	tests/peers.sh
	$(BIN)/python -m bench --quick

soak: $(VENV)/installed-test
	tests/peers.sh
	$(BIN)/python -m bench.soak

# Kills, cuts and delays at random; `make chaos ROUNDS=200 CHAOS='--qos 2 --save'`.
ROUNDS ?= 50
CHAOS  ?=
chaos: $(VENV)/installed-test
	tests/peers.sh
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) $(CHAOS)

# Power is lost at CUTS moments; `make power CUTS=1000 POWER='--mqtt 3.1.1 --seed 2'`.
CUTS  ?= 200
POWER ?=
power: $(VENV)/installed-test
	tests/peers.sh
	$(BIN)/python -m tests.power --cuts $(CUTS) $(POWER)

docs: $(VENV)/installed-test
	$(BIN)/python -m isthmus schema --markdown > docs/reference.md

# The hot files are compiled where there is a C compiler, so a change of one installs again.
TYPES := $(shell find src -name '*.pxd')
HOT := $(TYPES) $(wildcard $(TYPES:.pxd=.py))

# Debian's Python has no pip for a new environment without its package python3-venv; the pip that is
# there can install one.
PIP := --quiet --disable-pip-version-check
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Isthmus needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip $(PIP) --python $@ install pip; } \
	  || { rm -rf $(VENV); \
	  echo 'No virtual environment could be made. On Debian or Ubuntu: apt install python3-venv'; exit 1; }

$(VENV)/installed: pyproject.toml setup.py $(HOT) | $(BIN)/python
	@echo 'Installing into $(VENV), and compiling the hot files if there is a C compiler: takes a few minutes'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml setup.py $(HOT) | $(BIN)/python
	@echo 'Installing into $(VENV), and compiling the hot files if there is a C compiler: takes a few minutes'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
