# All tasks of the repository; `make help` lists the targets.

CLUSTER ?= kermode
CLUSTER_TOOL = PYTHONPATH=$(CURDIR)/cluster python3 -m kermode_cluster

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z0-9-]*:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Local Kubernetes (CLUSTER=name selects a cluster, by default kermode; see cluster/README.md)

.PHONY: cluster-up cluster-down cluster-status cluster-load-images cluster-api-up cluster-packages
cluster-packages: ## install the Debian packages that clusters need
	cluster/install-packages

cluster-up: ## start a cluster, or repair it
	@$(CLUSTER_TOOL) up $(CLUSTER)

cluster-api-up: ## start only etcd and an API server
	@$(CLUSTER_TOOL) api-only --name $(CLUSTER) up

cluster-down: ## stop a cluster and remove all its files and network settings
	@$(CLUSTER_TOOL) down $(CLUSTER)

cluster-status: ## show the state of the cluster, and how to use it
	@$(CLUSTER_TOOL) status $(CLUSTER)

cluster-load-images: ## import the built images into a cluster
	@$(CLUSTER_TOOL) load-images $(CLUSTER)

##@ Images (see images/README.md)

.PHONY: images images-push sbom pin-application-packages
images: ## build the images that changed, list their sizes
	@$(CLUSTER_TOOL) images

images-push: ## push the built images to KERMODE_REGISTRY
	@$(CLUSTER_TOOL) images-push

sbom: ## write the bill of materials (CycloneDX) of each program, and the licences of all dependencies, to target/sbom
	@$(CLUSTER_TOOL) sbom

pin-application-packages: ## pin the current Debian packages of the images of applications
	@$(CLUSTER_TOOL) pin-application-packages

##@ Helm chart

.PHONY: chart
chart: ## write the Helm chart of the control plane to deploy/chart
	@rm -rf deploy/chart
	@cargo run --quiet --package kumactl -- install chart --output deploy/chart

##@ Tests

TOOLS = $(or $(KERMODE_CACHE),$(HOME)/.cache/kermode)/tools
CARGO_DENY_VERSION = 0.20.2
CARGO_DENY = $(TOOLS)/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
MDBOOK_VERSION = 0.5.4
MDBOOK = $(TOOLS)/mdbook-$(MDBOOK_VERSION)/bin/mdbook
# The real Envoy, for tests that check configuration against it, and the tool that calls CNI plugins.
ENVOY = export KERMODE_ENVOY; KERMODE_ENVOY=$$($(CLUSTER_TOOL) envoy) && $(CLUSTER_TOOL) cnitool >/dev/null &&
# The programs of the tests: Envoy, the tool that calls CNI plugins, Helm, and the tool that checks rules of Prometheus.
TEST_PROGRAMS = $(ENVOY) $(CLUSTER_TOOL) helm >/dev/null && $(CLUSTER_TOOL) promtool >/dev/null &&

.PHONY: test test-lint test-unit test-conformance test-netns deny conformance conformance-shared
test: cluster-packages ## every suite that guards a merge (root)
	@$(TEST_PROGRAMS) python3 tests/run.py

test-lint: ## format, clippy, dependencies
	@python3 tests/run.py format lint deny

test-unit: ## unit, golden, property, netns and real-Envoy tests (root)
	@$(TEST_PROGRAMS) python3 tests/run.py unit tools

test-netns: ## redirection rules in real network namespaces (root)
	@cargo test --package kermode-netfilter --package kuma-init --package kuma-cni --test netns

test-conformance: ## the conformance corpus in ../shared/conformance, if that folder exists
	@python3 tests/run.py conformance

conformance: ## run a corpus: CORPUS=DIR [SUITE=name]
	@cargo run --quiet --package kermode-conformance -- $(CORPUS) $(if $(SUITE),--suite $(SUITE))

# Called by tests/run.py for the suite `conformance`.
conformance-shared:
	@if [ -d ../shared/conformance ]; then $(MAKE) --no-print-directory conformance CORPUS=../shared/conformance; \
	else echo 'conformance: skipped, no corpus at ../shared/conformance'; echo '0 passed, 0 failed, 1 skipped'; fi

deny: $(CARGO_DENY) ## check the dependencies against deny.toml
	@$(CARGO_DENY) --log-level error check bans licenses sources

$(CARGO_DENY):
	cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked --root $(TOOLS)/cargo-deny-$(CARGO_DENY_VERSION)

.PHONY: fuzz-inject fuzz-properties
fuzz-properties: export PROPTEST_CASES = $(or $(CASES),5000)
fuzz-properties: ## the property tests, with CASES (5000) random inputs each
	@cargo test --package kermode-xds --lib model_tests
	@cargo test --package kermode-k8s --lib index::property
	@cargo test --package kermode-inject --test properties
	@cargo test --package kermode-netfilter --lib interval
	@cargo test --package kermode-agent --lib dns
	@cargo test --package kermode-admission --lib tests::hostile

fuzz-inject: ## hostile Pods, patches and AdmissionReviews for SECONDS (60), with random seeds
	@KERMODE_FUZZ_SECONDS=$(or $(SECONDS),60) cargo test --package kermode-inject --test hostile -- --nocapture
	@PROPTEST_CASES=$(or $(CASES),2000) cargo test --package kermode-admission --lib tests::hostile

.PHONY: test-repository
test-repository: ## check cited documents, layers of crates, and the size of Python functions
	@cd tests && python3 python.py repository

.PHONY: book test-book
book: $(MDBOOK) ## build the book in target/book
	@$(MDBOOK) build book

test-book: book ## build the book, and check its links
	@cd book && python3 $(CURDIR)/tests/python.py .

# A debug build without search takes half a minute on two cores.
$(MDBOOK):
	cargo install mdbook --version $(MDBOOK_VERSION) --debug --no-default-features --locked --root $(TOOLS)/mdbook-$(MDBOOK_VERSION)

.PHONY: test-cluster test-cluster-unit
test-cluster-unit: ## unit tests of the cluster and image tool
	@cd cluster && python3 $(CURDIR)/tests/python.py tests/unit

test-cluster: ## test-cluster-unit, and tests with two real clusters side by side (root)
	@cd cluster && python3 $(CURDIR)/tests/python.py tests/unit tests/real

.PHONY: test-page
test-page: cluster-packages ## the page in a real headless Chromium, with screenshots in target/page (the first run downloads 170 MB)
	@$(CLUSTER_TOOL) chromium >/dev/null && cargo test --package kermode-page --features browser --test browser

.PHONY: test-api-server
API_TEST_CLUSTER = test-api-server
# The installation comes last, because its webhooks, which do not run, would deny Meshes.
test-api-server: cluster-packages ## the Dataplane writer, schemas, webhook conditions, the corpus and an installation against a real API server (root)
	@$(CLUSTER_TOOL) helm >/dev/null
	@$(CLUSTER_TOOL) api-only --name $(API_TEST_CLUSTER) up >/dev/null
	@export KUBECONFIG; KUBECONFIG=$$($(CLUSTER_TOOL) kubeconfig $(API_TEST_CLUSTER)) && \
		cargo test --package kermode-k8s --features api-server --test api_server && \
		cargo test --package kumactl --features api-server --test api_server; \
	result=$$?; $(CLUSTER_TOOL) down $(API_TEST_CLUSTER) >/dev/null; exit $$result

.PHONY: test-e2e test-apps test-e2e-run
test-e2e: cluster-packages ## end-to-end tests on a real Kubernetes (root); FILTER=text, LONG=1: see tests/e2e/README.md
	@python3 tests/run.py e2e

test-apps: cluster-packages ## Redis, MariaDB, PostgreSQL, etcd and nginx in the mesh, each restarted under load, and Prometheus (root)
	@$(CLUSTER_TOOL) application-images
	@$(MAKE) --no-print-directory test-e2e-run FILTER=applications:: LONG=1

# Called by tests/run.py for the suite `e2e`. The images of applications are built here, because their first build needs
# Debian's archive and may exceed the time limit of a test. If it fails, the test builds them again and reports the error.
test-e2e-run: images
	-@$(if $(FILTER),,$(CLUSTER_TOOL) application-images redis mariadb)
	@cargo test --quiet --package kermode-e2e
	@cargo run --quiet --package kermode-e2e -- $(if $(filter-out file default,$(origin CLUSTER)),--cluster $(CLUSTER)) $(if $(FILTER),--filter '$(FILTER)') $(if $(LONG),--long)

.PHONY: test-cni-starts
test-cni-starts: cluster-packages ## at least 200 starts of Pods with the CNI plugin, under faults; about ten minutes (root)
	@$(MAKE) --no-print-directory test-e2e-run FILTER=cni_starts

##@ Lifecycle scenarios (see tests/lifecycle/README.md)

.PHONY: lifecycle
LIFECYCLE = cargo run --quiet --package kermode-lifecycle --
LIFECYCLE_CLUSTER = $(if $(filter-out file default,$(origin CLUSTER)),$(CLUSTER),lifecycle)
lifecycle: ## failed requests while servers start and end, in a mesh and without it (root); ARGS='--restarts=3' …
ifdef LIFECYCLE_IMAGE
	@$(LIFECYCLE) --image='$(LIFECYCLE_IMAGE)' $(ARGS)
else
	@$(DEMO) install --cluster=$(LIFECYCLE_CLUSTER)
	@$(LIFECYCLE) --cluster=$(LIFECYCLE_CLUSTER) $(ARGS); \
		result=$$?; [ -n "$$KERMODE_KEEP" ] || $(CLUSTER_TOOL) down $(LIFECYCLE_CLUSTER); exit $$result
endif

##@ Demo (CLUSTER=name selects a local cluster; KUBECONFIG and KERMODE_REGISTRY select your own: see demo/README.md)

DEMO = PYTHONPATH=$(CURDIR)/cluster:$(CURDIR)/demo python3 -m kermode_demo

.PHONY: demo demo-show demo-down install test-demo
demo: ## install the mesh and a demo application, show a report
	@$(DEMO) up --cluster=$(CLUSTER)

demo-show: ## show the report of the running demo again
	@$(DEMO) show --cluster=$(CLUSTER)

demo-down: ## remove the demo and the mesh; a local cluster is removed entirely
	@$(DEMO) down --cluster=$(CLUSTER)

install: ## install the mesh without the demo application
	@$(DEMO) install --cluster=$(CLUSTER)

test-demo: ## unit tests of the demo
	@cd demo && PYTHONPATH=$(CURDIR)/cluster python3 $(CURDIR)/tests/python.py tests

##@ Benchmarks (root; QUICK=1 shortens them; figures in target/bench/NAME.json)

# The flags are those of the image builder, so images and benchmarks share one build. `nice` gives a benchmark, and the
# programs that it starts, priority over other processes.
HOST_TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE_FLAGS = $(shell $(CLUSTER_TOOL) rustflags)
RELEASE = RUSTFLAGS='$(RELEASE_FLAGS)' cargo build --quiet --release --target $(HOST_TRIPLE)
BENCH = $(or $(CARGO_TARGET_DIR),target)/$(HOST_TRIPLE)/release

.PHONY: bench-dataplane
bench-dataplane: cluster-packages ## Dataplanes of 1,000 and 10,000 Pods: time, API calls, CPU time, memory
	@$(RELEASE) --package kuma-cp --package kumactl --package kermode-bench
	@nice -n -10 $(BENCH)/dataplane

.PHONY: bench-control-plane
bench-control-plane: cluster-packages ## configuration of 100 to 10,000 sidecars: convergence, propagation, CPU time, memory (SIZES=100,1000)
	@$(RELEASE) --package kuma-cp --package kumactl --package kermode-bench
	@nice -n -10 $(BENCH)/control-plane

.PHONY: bench-cni
bench-cni: cluster-packages ## the CNI plugin: time that it adds to the start of a Pod's network
	@$(RELEASE) --package kuma-cni --package kermode-bench
	@$(CLUSTER_TOOL) cnitool >/dev/null
	@nice -n -10 $(BENCH)/cni

.PHONY: bench-direct-access
bench-direct-access: ## direct access to 10, 100 and 1,000 Pods: listeners, clusters, memory, time of calls (SIZES=1000)
	@$(RELEASE) --package kermode-bench
	@$(ENVOY) nice -n -10 $(BENCH)/direct-access

.PHONY: bench-dns
bench-dns: cluster-packages ## the sidecar's DNS beside the cluster's DNS: added latency, CPU time, memory
	@$(RELEASE) --package kuma-dp --package kermode-bench
	@export KERMODE_COREDNS; KERMODE_COREDNS=$$($(CLUSTER_TOOL) coredns) && nice -n -10 unshare --net $(BENCH)/dns

.PHONY: bench-exchange
bench-exchange: ## the transport alone: CPU time to send a message to each of 100 and 1,000 clients (SIZES=1000)
	@$(RELEASE) --package kermode-bench
	@nice -n -10 $(BENCH)/exchange

.PHONY: bench-latency
bench-latency: ## what two sidecars cost a request, beside two bare Envoys: latency, CPU time, memory (PROTOCOLS=http,grpc, SIZES=16; INGREDIENTS=1: parts of the configuration; INSTRUCTIONS=1: counts instructions instead, with valgrind)
	@$(RELEASE) --package kermode-bench
	@$(ENVOY) nice -n -10 unshare --net $(BENCH)/latency

.PHONY: bench-soak
bench-soak: cluster-packages ## memory, descriptors and threads of kuma-dp over 1,000 reconnections and churn, a quarter of an hour
	@$(RELEASE) --package kuma-cp --package kuma-dp --package kumactl --package kermode-bench
	@$(ENVOY) $(BENCH)/soak

.PHONY: bench-start
bench-start: cluster-packages ## time until a sidecar is ready, with its milestones, with 10 and 1,000 services (SIZES=1000)
	@$(RELEASE) --package kuma-cp --package kuma-dp --package kumactl --package kermode-bench
	@$(ENVOY) nice -n -10 $(BENCH)/start

.PHONY: bench-webhook
bench-webhook: cluster-packages ## the injection webhook over HTTPS: latency, CPU time, memory
	@$(RELEASE) --package kuma-cp --package kumactl --package kermode-bench
	@nice -n -10 $(BENCH)/webhook
