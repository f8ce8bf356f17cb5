# Two targets do all the set-up on a fresh machine: `make demo` and `make test`. The rest is for developers.
SHELL := /bin/bash
.DEFAULT_GOAL := help
TOOLS := $(CURDIR)/.tools/bin
export PATH := $(TOOLS):$(PATH):/usr/sbin:/sbin
export WEIR_TOOLS := $(TOOLS)
# Seconds the demo runs before it ends by itself; 0 = until Ctrl-C.
DEMO_SECONDS ?= 0
# Of the scenarios and the churn: which engine (both if empty), and what decides the random changes (printed if empty).
ENGINE ?=
SEED ?=
# Of the benchmarks: runs a case and seconds a run; which cases and peers (all if empty); series of the store; requests of the soak test.
RUNS ?= 5
SECONDS ?= 4
ONLY ?=
PEERS ?=
SCALE ?= 100000,500000
REQUESTS ?= 20000000
# Of the control plane's benchmark: `label` or `scale` for one half, and the sizes.
ARGS ?=
# Of the fuzzer: which target (all if empty), and seconds for each.
TARGET ?=

.PHONY: help demo test unit e2e scenarios churn conformance tools tools-demo tools-bench build lint fmt tidy bench-up bench-proxy bench-control soak fuzz promql-diff crash-test bench-metrics clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: tools-demo build ## build and run the mesh with the bookinfo sample under load (DEMO_SECONDS=n to end by itself)
	@DEMO_SECONDS=$(DEMO_SECONDS) ./hack/demo

test: tools lint unit build e2e ## everything: lints, unit and golden tests, end-to-end tests with the real programs

unit: ## unit, golden and property tests
	cargo test --workspace --no-fail-fast

e2e: tools build ## end-to-end tests: real kubectl, Envoy and Prometheus
	.tools/venv/bin/python -m pytest -p no:cacheprovider e2e $(E2E_ARGS)

scenarios: tools build ## what users rely on, with real requests, on both engines (ENGINE=weir|envoy ONLY=2,10-route)
	.tools/venv/bin/python e2e/scenarios/run $(if $(ENGINE),--engine $(ENGINE)) --only "$(ONLY)"

churn: SECONDS = 60
churn: tools build ## steady load during random changes: not one failed request (ENGINE=weir|envoy SEED=n SECONDS=60)
	.tools/venv/bin/python e2e/churn/run --seconds $(SECONDS) $(if $(ENGINE),--engine $(ENGINE)) $(if $(SEED),--seed $(SEED))

conformance: tools build ## what our proxy, Envoy and HAProxy do with each raw HTTP/1 exchange (CONFORMANCE_ARGS="--only chunk")
	.tools/venv/bin/python e2e/conformance/table.py $(CONFORMANCE_ARGS)

tools-demo: ## only what the demo needs: nftables and kubectl
	@./hack/tools demo

tools: ## install the programs that the tests use into .tools/bin (and Debian packages where needed)
	@./hack/tools all

tools-bench: ## the proxies and load generators that `make bench-proxy` and `make soak` use
	@./hack/tools bench

build: ## the release binaries target/release/{weir,bookinfo}
	cargo build --release -p weir -p bookinfo
	@ln -sf weir target/release/kubectl-traffic

lint: fmt tidy ## formatting, clippy, invariants
	cargo clippy --workspace --all-targets -- -D warnings

fmt:
	cargo fmt --all --check

tidy: ## check the invariants of ARCHITECTURE.md
	cargo run -q -p xtask -- tidy

bench-up: tools-demo build ## time from `weir up` to figures, and the memory of each process
	./bench/up

bench-proxy: tools-bench build ## the proxy beside Envoy, HAProxy and nginx: CPU a request, memory (RUNS=5 SECONDS=4 ONLY=case,.. PEERS=peer,..)
	@RUNS=$(RUNS) SECONDS=$(SECONDS) ONLY=$(ONLY) PEERS=$(PEERS) ./bench/proxy/run

bench-metrics: SECONDS = 60
bench-metrics: RUNS = 3
bench-metrics: tools-bench ## the store beside Prometheus and VictoriaMetrics: CPU a sample, memory a series, queries (SCALE=100000,500000 RUNS=3 SECONDS=60 PEERS=..)
	cargo build --release -p weir
	cargo build --release -p weir-series --example bench_targets
	@SCALE=$(SCALE) RUNS=$(RUNS) SECONDS=$(SECONDS) PEERS=$(PEERS) ./bench/metrics/run

bench-control: tools-demo build ## the control plane: from a label to its effect; 1,000 Services and 1,000 clients (ARGS="scale --clients 1000")
	cargo build --release -p weir-control --example bench_control
	./bench/control $(ARGS)

soak: tools-bench build ## the proxy under long load while endpoints come and go: does anything grow? (REQUESTS=20000000)
	@REQUESTS=$(REQUESTS) ./bench/soak/run

promql-diff: ## PromQL against a real Prometheus: the table and 2,000 random queries (SEED=n)
	@seed=$${SEED:-$$RANDOM}; echo "SEED=$$seed"; \
	WEIR_PROMQL_RANDOM=2000 WEIR_PROMQL_SEED=$$seed cargo test --release -p weir-promql --test all differential -- --nocapture

crash-test: ROUNDS = 50
crash-test: ## the store is killed under load, its files are damaged, its disk fills up: nothing that was safe is lost (ROUNDS=50 SEED=n)
	WEIR_CRASH_ROUNDS=$(ROUNDS) $(if $(SEED),WEIR_CRASH_SEED=$(SEED)) cargo test -p weir-tsdb --test crash

fuzz: SECONDS = 60
fuzz: ## look for bytes that break what reads bytes of strangers (TARGET=h1_request SECONDS=60)
	@TARGET=$(TARGET) ./hack/fuzz $(SECONDS)

clean: ## remove what builds made (not the installed tools)
	cargo clean
