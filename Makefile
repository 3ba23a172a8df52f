SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(PATH):/usr/local/go/bin

# Said before anything else: what an old Go says of newer code is riddles.
ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),help)),)
go_complaint := $(shell .ci/check-go)
ifneq ($(go_complaint),)
$(error $(go_complaint))
endif
endif

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PKG     ?= ./...
BENCH   ?= .
IMAGE   ?= eniagent:$(VERSION)
DOCKER  ?= docker

.PHONY: demo
demo: build ## Show the main job on a simulated node; needs nothing but Go
	@deploy/demo.sh bin/agent

.PHONY: demo-vm
demo-vm: vm-deps ## Show the main job on a real kernel in a VM, with a power cut
	@go run ./recovery/chaos/demo

.PHONY: build
build: ## Build bin/agent, one static binary
	CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/agent ./cmd/agent

.PHONY: test
test: ## Run vet, lint and all tests, race detector and VM included (PKG=./journal for one package)
	@.ci/test $(PKG)

.PHONY: test-short
test-short: ## Run the quick tests only: no race detector, no VM (PKG= as above)
	go test -short $(PKG)

.PHONY: lint
lint: ## Run the linters (PKG= as above)
	@linter=$$(.ci/linter); "$$linter" run $(PKG)

.PHONY: fmt
fmt: ## Format the code
	@linter=$$(.ci/linter); "$$linter" fmt

.PHONY: bench
bench: ## Run the benchmarks (BENCH=regexp)
	@dirs=$$(find . -name '*_test.go' -not -path './.*' -exec grep -l '^func Benchmark' {} + | xargs -r dirname | sort -u); \
	[ -z "$$dirs" ] || go test -run '^$$' -bench '$(BENCH)' -benchmem $$dirs

.PHONY: cover
cover: ## Measure the tests' coverage, into bin/cover.html
	@mkdir -p bin
	go test -coverprofile bin/cover.out -coverpkg ./... $(PKG)
	@go tool cover -html bin/cover.out -o bin/cover.html
	@go tool cover -func bin/cover.out | tail -n 1

.PHONY: image
image: ## Build the container image (IMAGE=name:tag DOCKER=podman)
	$(DOCKER) build --build-arg VERSION=$(VERSION) -t $(IMAGE) .

.PHONY: vm-deps
vm-deps: ## Install what the VM tests need (root, Debian or Ubuntu)
	@.ci/vm-deps >/dev/null

.PHONY: clean
clean: ## Remove what was built here; caches stay
	rm -rf bin

.PHONY: help
help: ## Print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
