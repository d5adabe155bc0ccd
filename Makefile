# What a person types. CONTRIBUTING.md says more; .ci/run calls `make check` and the tests that it leaves out.

PYTHON ?= python3

# Tests of what functions see and do: nothing in them depends on how a function runs, or it says so.
CONTAINER_TESTS ?= abuse answers deadlines faults figures functions hostile logs network randomness recycling scaling \
	stopping under_load

# Of those, what Podman is asked for besides the tests that are about containers alone.
PODMAN_TESTS ?= container_walls containers answers functions network

.PHONY: help run test test-rust test-python test-containers test-podman test-vm test-matrix test-faults check fmt bench bench-containers bench-sandbox bench-trace fuzz deny

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build and serve faas_config.yaml
	cargo run --release -- faas_config.yaml

test: test-rust test-python ## all tests, Rust and Python

test-rust: ## the server's tests
	cargo test --no-fail-fast

test-python: ## the shim's tests on every Python found, and the benchmark's own
	$(PYTHON) tests/python/run_all.py
	$(PYTHON) -m unittest discover -s benches -p 'test_*.py'

# `cargo test` runs tests/containers.rs, which is about containers alone.
test-containers: ## the tests of functions once more, with each function in a container
	FAAS_TEST_MODE=container cargo test --locked --no-fail-fast $(CONTAINER_TESTS:%=--test %)

test-podman: ## the tests of containers, and some of functions, with Podman for the engine
	FAAS_TEST_MODE=container FAAS_TEST_ENGINE_KIND=podman cargo test --locked --no-fail-fast $(PODMAN_TESTS:%=--test %)

test-vm: ## the sandbox's tests on cgroup v2 and on v1, in a virtual machine
	$(PYTHON) tests/vm/run.py $(VM)

test-matrix: ## every attack with layers of the sandbox, and walls of a container, taken away: docs/sandbox-matrix.md
	cargo test --test abuse -- --ignored
	FAAS_TEST_MODE=container cargo test --test abuse -- --ignored

# The rows are printed as they come, and all of them at the end; the status is that of the rows.
test-faults: ## the table of faults at full size against a release build; FAULTS=NAME for some of the rows
	@table=$$(mktemp); export FAAS_FAULTS=full FAAS_FAULTS_TABLE=$$table; \
	cargo test --locked --release --test fault_table $(FAULTS) -- --nocapture --test-threads=1; status=$$?; \
	echo; echo "| fault | measured | |"; echo "|---|---|---|"; cat $$table; rm $$table; exit $$status

check: ## what every commit passes: format, clippy, documentation, all tests
	cargo fmt --all -- --check
	cargo fmt --manifest-path fuzz/Cargo.toml -- --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	$(MAKE) test

fmt: ## format the Rust code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

# The options that both know are given to both; who wants others of the second asks for it alone.
bench: ## faas and its peers under wrk, cold starts, container mode; BENCH="--quick" for a look
	@$(PYTHON) benches/run.py $(BENCH); status=$$?; echo; \
	$(PYTHON) benches/containers.py $(filter --quick --strict,$(BENCH)) && exit $$status

bench-containers: ## what container mode costs: cold, warm, idle, and what is left of it
	$(PYTHON) benches/containers.py $(BENCH)

bench-trace: ## idle times fixed and adaptive on a synthetic trace of two weeks, in virtual time
	cargo bench --bench trace

bench-sandbox: ## sandboxes by the thousand and what is left of them; a neighbour under attack
	$(PYTHON) benches/sandbox.py $(BENCH)

fuzz: ## the fuzzers, FUZZ_SECONDS=60 each
	fuzz/run

deny: ## advisories, bans, licences and sources of the dependencies, if cargo-deny is there
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; \
	else echo "SKIP deny: cargo-deny is not installed (cargo install --locked cargo-deny)"; fi
