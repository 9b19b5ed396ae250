# Everything that CI does is a target here. `make` alone lists them.

GO       ?= go
FUZZTIME ?= 1m

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The version comes from here and not from Go's own look at git, which refuses a checkout that is another user's.
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)"

LINT_VERSION := $(shell sed -n 's|.*github.com/golangci/golangci-lint/v2 \(v[^ ]*\).*|\1|p' tools/go.mod)
LINT         := .cache/bin/golangci-lint-$(LINT_VERSION)
export GOLANGCI_LINT_CACHE := $(CURDIR)/.cache/golangci-lint

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## both programs into bin/
	$(BUILD) -o bin/namebridge ./cmd/namebridge
	$(BUILD) -o bin/namebridge-demo ./cmd/namebridge-demo

.PHONY: demo
demo: postgres build ## watch it at work, on a private database and simulated servers
	bin/namebridge-demo demo

.PHONY: test
test: postgres ## every test, with the race detector; DATABASE_URL may name the server for the tests' databases
	$(GO) test -race -parallel 4 ./... # many tests wait for leases and retries more than they compute

.PHONY: chaos
chaos: postgres ## two replicas killed every few seconds for ten minutes, while both sides change and requests fail
	$(GO) test -race -count=1 -v -timeout 40m -run 'ReplicasThatAreKilled' ./cmd/namebridge -chaos 10m

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (1m) each
	@for package in $$($(GO) list ./...); do \
		targets=$$($(GO) test -list '^Fuzz' $$package) || { echo "$$targets"; exit 1; }; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

.PHONY: bench
bench: postgres ## every benchmark
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: lint
lint: $(LINT) ## formatting, linters and import rules (.golangci.yaml)
	$(LINT) run ./...

.PHONY: format
format: $(LINT) ## format the code as lint wants it
	$(LINT) fmt ./...

# Built from source once: its version and all that it depends on stand in tools/go.sum.
$(LINT): tools/go.mod tools/go.sum
	@echo "golangci-lint $(LINT_VERSION): building it, once; this takes some minutes"
	@mkdir -p $(@D)
	@cd tools && $(GO) build -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: generate
generate: ## write the generated parts of the documentation
	$(GO) run ./internal/config/readme README.md

.PHONY: generated
generated: ## check that they are the current ones
	$(GO) run ./internal/config/readme -check README.md

.PHONY: modules
modules: ## check go.mod, go.sum and what was downloaded
	$(GO) mod tidy -diff
	$(GO) mod verify

.PHONY: ci
ci: modules generated build lint test ## what has to pass before a change is taken

.PHONY: postgres
postgres: ## find a Postgres, or get one
	@tools/postgres.sh

.PHONY: clean
clean: ## remove what make made, the linter and a fetched Postgres included
	rm -rf bin .cache coverage.out
