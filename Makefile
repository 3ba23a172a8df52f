SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(PATH):/usr/local/go/bin

# Said before anything else: what an old Go says of newer code is riddles.
ifneq ($(filter-out help clean install uninstall,$(or $(MAKECMDGOALS),help)),)
go_complaint := $(shell .ci/check-go)
ifneq ($(go_complaint),)
$(error $(go_complaint))
endif
endif

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PKG     ?= ./...
BENCH   ?= .
FUZZTIME ?= 10m
FUZZJOBS ?= 1
IMAGE   ?= eniagent:$(VERSION)
DOCKER  ?= docker
PREFIX  ?= /usr/local
OUT     ?= bin/agent

.PHONY: demo
demo: build ## Show the main job on a simulated node; needs nothing but Go
	@deploy/demo.sh bin/agent

.PHONY: demo-vm
demo-vm: vm-deps ## Show the main job on a real kernel in a VM, with a power cut
	@go run ./recovery/chaos/demo

.PHONY: demo-kube
demo-kube: vm-deps kube-deps ## Show it as a node of a real Kubernetes API, by kubectl, on a real kernel, with a power cut
	@cd .ci/kube && GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0 ENIAGENT_REQUIRE_KUBE=1 ENIAGENT_REQUIRE_VM=1 \
		go test -trimpath -count=1 -timeout 15m -v -run '^TestANodeOnARealKernel$$' .

.PHONY: build
build: ## Build bin/agent, one static binary (OUT= elsewhere)
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$(VERSION)" -o $(OUT) ./cmd/agent

.PHONY: test
test: ## Run vet, lint and all tests, race detector and VM included (PKG=./journal for one package)
	@.ci/test $(PKG)

.PHONY: test-short
test-short: ## Run the quick tests only: no race detector, no VM (PKG= as above)
	go test -short $(PKG)

.PHONY: lint
lint: ## Run the linters (PKG= as above)
	@linter=$$(.ci/linter); "$$linter" run $(PKG); "$$linter" run --build-tags crashpoint,guest $(PKG)

.PHONY: fmt
fmt: ## Format the code
	@linter=$$(.ci/linter); "$$linter" fmt

.PHONY: crash
crash: ## Crash every operation at every boundary (REPLAY='...' repeats one, SEED= chooses others)
	go test ./agent/engine -count=1 -timeout 60m -v -run '^TestEvery$(if $(REPLAY),,|^TestBroken)' -args \
		$(if $(REPLAY),-replay '$(REPLAY)',-seconds 1 -thirds 10 -disk 1) -crash-seed $(or $(SEED),1)
	$(if $(REPLAY),,go test ./agent -count=1 -timeout 60m -v -run '^TestPoolsThroughCrashes$$' -args -pool-crashes 1)

.PHONY: kill
kill: ## Kill the agent on a simulated node, at random moments and at every system call (KILLS=1000 SEED=)
	ENIAGENT_KILLS=$(or $(KILLS),1000) ENIAGENT_SEED=$(SEED) go test ./cmd/agent -count=1 -timeout 120m -v -run '^TestKill$$'

.PHONY: crash-journal
crash-journal: ## Crash images, damage, full disks and kills of the journal's file, all there are
	ENIAGENT_CAMPAIGN=1 go test -count=1 -v -timeout 60m ./journal/...

.PHONY: same
same: vm-deps ## Hold the simulated kernel against the real one, in 1,000 random walks
	ENIAGENT_WALKS=1000 ENIAGENT_REQUIRE_VM=1 go test -count=1 -v -timeout 120m -run '^TestSimulatorIsTheKernel$$' ./recovery/chaos

.PHONY: chaos
chaos: vm-deps ## Kill, cut off, reboot and crash a node on a real kernel, at every label and on two file systems
	go run ./recovery/chaos/campaign $(CHAOS)

.PHONY: churn
churn: vm-deps ## Change what is desired at random on a real kernel, kill the agent, release all, and compare (CHURN='-for 10m -seeds 5')
	go run ./recovery/chaos/churn $(CHURN)

.PHONY: mutants
mutants: ## Break the journal, plan, engine and recovery in one place at a time; their tests must notice
	go run ./recovery/chaos/mutants $(MUTANTS)

.PHONY: evidence
evidence: ## Run all campaigns (hours), and write recovery/EVIDENCE.md
	@.ci/evidence

.PHONY: bench
bench: ## Run the benchmarks (BENCH=regexp)
	@dirs=$$(find . -name '*_test.go' -not -path './.*' -exec grep -l '^func Benchmark' {} + | xargs -r dirname | sort -u); \
	[ -z "$$dirs" ] || go test -run '^$$' -bench '$(BENCH)' -benchmem $$dirs

.PHONY: fuzz
fuzz: ## Run each fuzz target and the model for FUZZTIME (10m), FUZZJOBS=1 at a time
	@FUZZTIME=$(FUZZTIME) FUZZJOBS=$(FUZZJOBS) .ci/fuzz

.PHONY: cover
cover: ## Measure the tests' coverage, into bin/cover.html
	@mkdir -p bin
	go test -coverprofile bin/cover.out -coverpkg ./... $(PKG)
	@go tool cover -html bin/cover.out -o bin/cover.html
	@go tool cover -func bin/cover.out | tail -n 1

.PHONY: sizes
sizes: ## Print the size of the stripped binary, and the memory of a running agent with its children
	@.ci/sizes

.PHONY: image
image: ## Build the container image (IMAGE=name:tag DOCKER=podman)
	$(DOCKER) build --build-arg VERSION=$(VERSION) -t $(IMAGE) .

.PHONY: image-oci
image-oci: ## Build it without a daemon, for amd64 and arm64, into bin/eniagent-image.tar
	@mkdir -p bin
	@cd .ci/image && GOFLAGS=-mod=readonly GOWORK=off go run . -version '$(VERSION)' -o ../../bin/eniagent-image.tar

.PHONY: test-image
test-image: ## Hold that image against the Dockerfile, and against itself built elsewhere
	cd .ci/image && GOFLAGS=-mod=readonly GOWORK=off go test -count=1 -v -timeout 15m ./...

.PHONY: install
install: ## Install bin/agent and its systemd service, built anew where its sources are newer (root; PREFIX= DESTDIR= as usual)
	@deploy/systemd/fresh.sh
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' deploy/systemd/install.sh install

.PHONY: uninstall
uninstall: ## Remove what install laid, once all functions are given back (FORCE=1: whatever the agent has)
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' FORCE='$(FORCE)' deploy/systemd/install.sh uninstall

.PHONY: vm-deps
vm-deps: ## Install what the VM tests need (root, Debian or Ubuntu)
	@.ci/vm-deps >/dev/null

.PHONY: kube-deps
kube-deps: ## Build the Kubernetes API that test-kube runs; minutes, once
	@.ci/kube-deps >/dev/null && .ci/helm >/dev/null

.PHONY: test-kube
test-kube: kube-deps ## Hold what is for Kubernetes against a real API: the sources, the manifests, the chart, the roles
	cd .ci/kube && GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0 ENIAGENT_REQUIRE_KUBE=1 go test -trimpath -count=1 -timeout 15m ./...

.PHONY: kube-scale
kube-scale: kube-deps ## Hold 200 nodes against one Kubernetes API (CHANGES=10000)
	cd .ci/kube && GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0 ENIAGENT_REQUIRE_KUBE=1 ENIAGENT_CAMPAIGN=1 ENIAGENT_CHANGES=$(CHANGES) \
		go test -trimpath -count=1 -v -timeout 120m -run '^TestScale$$' ./...

.PHONY: generate
generate: ## Generate the definitions of the resources from their types
	@.ci/kube-generate

.PHONY: clean
clean: ## Remove what was built here; caches stay
	rm -rf bin

.PHONY: help
help: ## Print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
