# Everything that CI does is a target here. `make` alone lists them.

GO       ?= go
FUZZTIME ?= 1m

# A tag v1.2.3 is version 1.2.3, for the program, the image and the chart.
VERSION := $(patsubst v%,%,$(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null || echo development))
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The version comes from here and not from Go's own look at git, which refuses a checkout that is another user's.
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)"

LINT_VERSION := $(shell sed -n 's|.*github.com/golangci/golangci-lint/v2 \(v[^ ]*\).*|\1|p' tools/go.mod)
LINT         := .cache/bin/golangci-lint-$(LINT_VERSION)
export GOLANGCI_LINT_CACHE := $(CURDIR)/.cache/golangci-lint

# What was made by a command that failed is not taken for whole the next time.
.DELETE_ON_ERROR:

# The tools of the chart's tests are built from source once, each in the version that its own go.mod pins.
tool = .cache/bin/$(1)-$(shell sed -n 's|^[[:space:]]*$(2) \(v[^ ]*\).*|\1|p' tools/$(1)/go.mod)
HELM        := $(call tool,helm,helm.sh/helm/v4)
KUBECONFORM := $(call tool,kubeconform,github.com/yannh/kubeconform)
KUSTOMIZE   := $(call tool,kustomize,sigs.k8s.io/kustomize/kustomize/v5)
PODSECURITY := $(call tool,podsecurity,k8s.io/pod-security-admission)
GOVULNCHECK := $(call tool,govulncheck,golang.org/x/vuln)

# The image is the same whoever builds it, so the compiler is named, too.
IMAGE_GO := $(shell sed -n 's/^toolchain //p' tools/image/go.mod)
# Where the source is to be found, for the image's label; there is no public address yet.
IMAGE_SOURCE ?=

ADDRESS ?= 127.0.0.1:8080

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## both programs into bin/
	$(BUILD) -o bin/namebridge ./cmd/namebridge
	$(BUILD) -o bin/namebridge-demo ./cmd/namebridge-demo

.PHONY: demo
demo: postgres build ## watch it at work, on a private database and simulated servers
	bin/namebridge-demo demo

.PHONY: test
test: postgres ## every test, with the race detector; DATABASE_URL may name the server for the tests' databases
	$(GO) test -race -parallel 4 -timeout 30m ./sync ./cmd/namebridge ./... # the longest first, beside all others; many tests wait for leases and retries more than they compute

.PHONY: image
image: ## the container image for amd64 and arm64, into bin/image; no Docker needed
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} GOTOOLCHAIN=$(IMAGE_GO) $(GO) -C tools/image run . \
		--source $(CURDIR) --output $(CURDIR)/bin/image --version "$(VERSION)" --commit "$(COMMIT)" --url "$(IMAGE_SOURCE)"

.PHONY: dashboard
dashboard: prometheus ## both dashboards in the browser, of a daemon at ADDRESS=127.0.0.1:8080, without Grafana
	@$(GO) build -o .cache/bin/dashboards ./deploy/dashboards # go run says 1 at Ctrl-C
	@PATH="$$PATH:$(CURDIR)/.cache/prometheus/usr/bin" .cache/bin/dashboards -watch $(ADDRESS)

.PHONY: test-deploy
test-deploy: postgres prometheus $(HELM) $(KUBECONFORM) $(KUSTOMIZE) $(PODSECURITY) .cache/schemas ## chart, manifests, alerts and dashboards before a real Prometheus, image, the release before
	PATH="$$PATH:$(CURDIR)/.cache/prometheus/usr/bin" $(GO) test -tags deploy -count=1 -timeout 15m ./deploy/... ./migrations # Go's cache does not see what helm reads
	$(GO) -C tools/licenses test ./...
	cd tools/image && PATH="$$PATH:$(CURDIR)/.cache/prometheus/usr/bin" GOTOOLCHAIN=$(IMAGE_GO) $(GO) test -timeout 20m ./...

.PHONY: deploy-manifests
deploy-manifests: $(HELM) ## write what is made from the chart: plain manifests, the table of its values
	$(GO) test -tags deploy -count=1 -run Current ./deploy -update

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
	cd tools/image && $(CURDIR)/$(LINT) run ./...

.PHONY: format
format: $(LINT) ## format the code as lint wants it
	$(LINT) fmt ./...

# Tools are built from source once. Which version is in the name of the file, so a go.mod that is only newer, as after a checkout, builds none anew.
$(LINT): | tools/go.mod
	@echo "golangci-lint $(LINT_VERSION): building it, once; this takes some minutes"
	@mkdir -p $(@D)
	@cd tools && $(GO) build -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: generate
generate: ## write the generated parts of the documentation, and the dashboards
	$(GO) run ./internal/config/readme README.md
	$(GO) run ./deploy/dashboards
	$(GO) -C tools/licenses run . -source $(CURDIR)

.PHONY: generated
generated: ## check that they are the current ones
	$(GO) run ./internal/config/readme -check README.md
	$(GO) run ./deploy/dashboards -check

.PHONY: modules
modules: ## check go.mod, go.sum and what was downloaded
	$(GO) mod tidy -diff
	$(GO) -C tools/image mod tidy -diff # it uses packages of ours
	$(GO) mod verify

.PHONY: licenses
licenses: ## that everything linked in may be given on, and that docs/licenses.md is current
	@$(GO) -C tools/licenses run . -source $(CURDIR) -check

.PHONY: vulnerabilities
vulnerabilities: $(GOVULNCHECK) ## known vulnerabilities in what is called; asks vuln.go.dev, so it is no part of ci
	@GOTOOLCHAIN=$(IMAGE_GO) $(GOVULNCHECK) ./... || { code=$$?; [ $$code = 3 ] || echo "vulnerabilities: nothing was looked at; it needs https://vuln.go.dev" >&2; exit $$code; }

.PHONY: release
release: image $(HELM) ## what a release consists of, into bin/release; at its tag only
	@tools/release.sh "$(VERSION)" $(HELM)

.PHONY: fetch
fetch: ## get the modules of the program and of its tools, trying again where the network fails
	@for module in . tools tools/helm tools/image tools/kubeconform tools/kustomize tools/licenses tools/podsecurity; do \
		for pause in 5 20 end; do \
			$(GO) -C $$module mod download && break; \
			[ $$pause != end ] || exit 1; \
			echo "fetch: again in $$pause s"; sleep $$pause; \
		done; \
	done

.PHONY: ci
ci: fetch modules licenses generated build lint test test-deploy ## what has to pass before a change is taken

$(HELM): package := helm.sh/helm/v4/cmd/helm
$(KUBECONFORM): package := github.com/yannh/kubeconform/cmd/kubeconform
$(KUSTOMIZE): package := sigs.k8s.io/kustomize/kustomize/v5
$(PODSECURITY): package := .
$(GOVULNCHECK): package := golang.org/x/vuln/cmd/govulncheck
$(HELM): | tools/helm/go.mod
$(KUBECONFORM): | tools/kubeconform/go.mod
$(KUSTOMIZE): | tools/kustomize/go.mod
$(PODSECURITY): tools/podsecurity/main.go | tools/podsecurity/go.mod
$(GOVULNCHECK): | tools/govulncheck/go.mod
$(HELM) $(KUBECONFORM) $(KUSTOMIZE) $(PODSECURITY) $(GOVULNCHECK):
	@echo "$(@F): building it, once; helm takes some minutes"
	@mkdir -p $(@D)
	@cd $(dir $|) && $(GO) build -trimpath -ldflags "-s -w" -o ../../$@ $(package)
	@touch $@

# The schemas of the kinds that the chart has, from what Kubernetes and the Prometheus operator publish.
.cache/schemas: tools/kubeconform/schemas/main.go
	@cd tools/kubeconform && $(GO) run ./schemas ../../$@
	@touch $@

.PHONY: prometheus
prometheus: ## find a Prometheus, or get one
	@tools/prometheus.sh

.PHONY: postgres
postgres: ## find a Postgres, or get one
	@tools/postgres.sh

include tools/cluster/cluster.mk

.PHONY: clean
clean: ## remove what make made, the linter and a fetched Postgres included
	rm -rf bin .cache coverage.out
