# Needs nothing but Python 3.11 or later, make and a POSIX shell. `make help` lists what there is.

VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
PYTEST_ARGS =
BENCH_ARGS =
# More processes than four cost more in databases than they save. PARALLEL= runs all in one.
PARALLEL = --numprocesses=logical --maxprocesses=4 --dist=worksteal
# PYTHON=/path/to/python3.12 chooses the interpreter; otherwise a suitable one is looked for.
PYTHON ?=

# Where it is set, each process would compile every package anew, which costs seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run test test-sdk test-survival endurance bench lint format lock sdk release accept-openapi accept-release audit clean docker-up docker-down

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

install: $(STAMP)  ## Make .venv with everything in it; does nothing while that is up to date
	@echo "$(VENV) is up to date."

run: $(STAMP)  ## Run the service and its database; PORT=9000 make run takes another port
	@exec $(BIN)/taskflow serve

test: $(STAMP)  ## Run the tests; PYTEST_ARGS="--cov" measures coverage, PYTEST_ARGS=tests/tasks runs some
	@exec $(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

endurance: $(STAMP)  ## Run what takes minutes: storms, soaks and large data; one at a time
	@exec $(BIN)/pytest -m endurance --capture=no -o faulthandler_timeout=900 $(PYTEST_ARGS)

test-sdk: $(STAMP)  ## Lint the document, and try the client of each language; needs Node, Go, a JDK, Rust
	@exec $(BIN)/pytest -m sdk -o faulthandler_timeout=300 --durations=0 --durations-min=1 $(PYTEST_ARGS)

test-survival: $(STAMP)  ## Test faults, overload, restarts, several machines; one at a time, in minutes
	@exec $(BIN)/pytest -m survival --durations=0 --durations-min=1 $(PYTEST_ARGS)

sdk: $(STAMP)  ## Generate clients in six ways into build/sdk; SDK=/some/folder chooses another
	@exec $(BIN)/python -m tests.sdk.generate $(SDK)

release: sdk  ## Pack the clients and the document into build/release, for those who use them
	@rm -rf build/release && mkdir -p build/release
	@cp $(or $(SDK),build/sdk)/openapi.json build/release/
	@for language in python typescript go java rust; do \
	  tar -czf build/release/taskflow-client-$$language.tar.gz -C $(or $(SDK),build/sdk) $$language || exit 1; \
	done
	@ls -l build/release

accept-openapi: $(STAMP)  ## Accept the present OpenAPI document as the one that is reviewed
	@$(BIN)/taskflow openapi >tests/contract/openapi.json
	@git --no-pager diff --stat -- tests/contract/openapi.json

accept-release: accept-openapi  ## The same, and as that of the release, which later ones must not break
	@cp tests/contract/openapi.json tests/contract/released.json
	@git --no-pager diff --stat -- tests/contract/released.json

bench: $(STAMP)  ## Compare the speed with other services, in 11 minutes; needs wrk. BENCH_ARGS=--help
	@exec $(BIN)/python -m tests.bench $(BENCH_ARGS)

lint: $(STAMP)  ## Check style, types, import directions, workflows and compose.yaml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pip check
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --no-progress --quiet --persona pedantic .github

format: $(STAMP)  ## Put code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-package taskflow --custom-compile-command "make lock" $(UV_ARGS)

lock: $(STAMP)  ## Renew the locks after a change of pyproject.toml; UV_ARGS=--upgrade raises all
	$(COMPILE) --output-file requirements.txt pyproject.toml
	$(COMPILE) --output-file requirements-dev.txt --constraint requirements.txt --extra dev pyproject.toml
	$(COMPILE) --output-file tests/sdk/requirements.txt tests/sdk/requirements.in
	$(COMPILE) --output-file tests/bench/peer/requirements.txt tests/bench/peer/requirements.in

audit: $(STAMP)  ## Look for known vulnerabilities in the production lock (asks a service on the net)
	$(BIN)/pip-audit --progress-spinner off --disable-pip --require-hashes --requirement requirements.txt

clean: export DATABASE_PLACE = $(database_place)
clean:  ## Remove .venv and every cache; the development database stays
	@$(BIN)/python -c "$$DATABASE_PLACE" 2>/dev/null || echo "The development database stays."
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf .coverage .coverage.* coverage.xml htmlcov
	find app alembic tests -name __pycache__ -type d -prune -exec rm -rf {} +

docker-up:  ## Build the image and run service and database in containers; needs Docker and a .env
	@docker compose version >/dev/null 2>&1 || { echo "This needs Docker and its compose plugin." >&2; exit 1; }
	docker compose up --build --detach --wait
	@echo "taskflow runs: http://$$(docker compose port api 8000)/docs"

docker-down:  ## Stop the containers; the volume with the data stays
	docker compose down

# ---- The virtual environment ----------------------------------------------------------------------

# It holds absolute paths, so a moved or copied checkout needs its own; and its interpreter may go.
ifneq ($(shell [ -x $(BIN)/python ] && cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): export JUDGE = $(judge)
$(STAMP): export LOCKED = $(locked)
$(STAMP): export PROGRESS = $(progress)

ifndef INSTALLING
# Two of these at once take turns; the second then finds nothing left to do.
$(STAMP): pyproject.toml requirements-dev.txt
	@for newest in 13 99; do \
	  for python in "$${PYTHON:-python3}" $${PYTHON:-python3.13 python3.12 python3.11}; do \
	    complaint=$$("$$python" -c "$$JUDGE" $$newest 2>&1) && break 2; \
	    case $$complaint in "taskflow "*) said=$${said:-$$complaint} ;; esac; \
	    python=; \
	  done; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "$${said:-taskflow needs Python 3.11 or later, and none was found.}" >&2; \
	  echo "To name one: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	exec "$$python" -c "$$LOCKED" $(VENV) $(MAKE) -s --no-print-directory INSTALLING=1 PYTHON="$$python" $@
else
# Without a stamp an installation was interrupted, or never was: it starts from nothing.
$(STAMP): pyproject.toml requirements-dev.txt
	@if [ ! -x $(BIN)/python ] || [ "$$(cat $@ 2>/dev/null)" != "$(CURDIR)" ]; then \
	  rm -rf $(VENV)/bin $(VENV)/lib && \
	  echo "Making $(VENV) with $$("$(PYTHON)" --version)" && "$(PYTHON)" -m venv $(VENV); \
	fi
	@rm -f $@ $(VENV)/install.log
	@echo "Installing the locked packages"
	@( sed -n '/^pip==/,/# via/p' requirements-dev.txt | $(PIP_INSTALL) -r /dev/stdin && \
	  $(PIP_INSTALL) -r requirements-dev.txt || echo FAILED ) 2>&1 | \
	  sh -c "$$PROGRESS" sh $$(grep -c == requirements-dev.txt) $(VENV)/install.log
	@$(PIP_INSTALL) --quiet --no-build-isolation --editable .
	@printf '%s' "$(CURDIR)" >$@
endif

# Wheels only, so that no compiler is ever needed. The lock is complete, so nothing is resolved. The
# pip of the lock goes first: it is much faster than the one that Python 3.11 brings.
PIP_INSTALL = PIP_USER=0 PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check \
	--no-color --progress-bar off --no-compile --no-deps --only-binary :all:

# Runs under any Python: says why this one will not do.
define judge
import sys
if sys.version_info < (3, 11):
    sys.exit("taskflow needs Python 3.11 or later; %s is %s." % (sys.executable, sys.version.split()[0]))
if sys.version_info[:2] > (3, int(sys.argv[1])):
    sys.exit(1)
if sys.platform not in ("linux", "darwin"):
    sys.exit("taskflow is developed on Linux and macOS, not on %s. On Windows, use WSL." % sys.platform)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("taskflow needs the venv module, which %s lacks. On Debian or Ubuntu: apt-get install python3-venv" % sys.executable)
endef

# Runs a command while it holds a lock that the kernel lets go of however the command ends.
define locked
import fcntl, os, sys
folder, command = sys.argv[1], sys.argv[2:]
try:
    os.makedirs(folder, exist_ok=True)
    lock = os.open(os.path.join(folder, ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
except OSError as error:
    sys.exit("taskflow cannot write to %s: %s." % (os.path.abspath(folder), error.strerror))
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Waiting for another installation into %s" % folder, flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
os.set_inheritable(lock, True)
os.execvp(command[0], command)
endef

# Turns pip's hundreds of lines into a count, and its failures into a sentence.
define progress
total=$$1 log=$$2 count=-1 offline="" cause=""
while IFS= read -r line; do
  printf '%s\n' "$$line" >>"$$log"
  case $$line in
    Collecting\ *|Ignoring\ *|"Requirement already satisfied:"*)
      count=$$((count + 1))
      if [ -t 1 ]; then
        printf '\r  %s of %s' "$$count" "$$total"
      elif [ $$count -gt 0 ] && [ $$((count % 25)) -eq 0 ]; then
        echo "  $$count of $$total"
      fi ;;
    "Installing collected packages:"*) if [ $$count -gt 1 ]; then printf '\n  unpacking\n'; fi ;;
    *"Retrying ("*) offline=1 ;;
    *"No matching distribution"*|*"Max retries exceeded"*)
      if [ "$$offline" ]; then
        cause="No package index can be reached. Check the network, and pip's settings for a mirror or proxy: pip config list"
      else
        cause="The locked packages come prebuilt for Linux with glibc (x86_64, arm64) and macOS on Apple silicon, under Python 3.11 to 3.13. This machine is none of these, or the index lacks a file."
      fi ;;
    ERROR:*) cause=$${cause:-$$line} ;;
    FAILED)
      printf '\n%s\nThe words of pip are in %s\n' "$${cause:-The installation failed.}" "$$log" >&2
      exit 1 ;;
  esac
done
endef

define database_place
from app.core.settings import load_settings
print("The development database stays, in", load_settings(environment="testing").data_dir)
endef
