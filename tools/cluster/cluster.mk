# Kubernetes, for the tests of what is deployed on it.
cluster-version = $(shell sed -n 's|^[[:space:]]*$(2) \(v[^ ]*\).*|\1|p' tools/cluster/$(1)/go.mod)
KUBERNETES_VERSION := $(call cluster-version,kubernetes,k8s.io/kubernetes)
KUBERNETES := $(foreach program,kube-apiserver kube-controller-manager kube-scheduler kubectl,.cache/bin/$(program)-$(KUBERNETES_VERSION))
ETCD       := .cache/bin/etcd-$(call cluster-version,etcd,go.etcd.io/etcd/server/v3)
KWOK       := .cache/bin/kwok-$(call cluster-version,kwok,sigs.k8s.io/kwok)

.PHONY: test-cluster
test-cluster: postgres $(HELM) $(ETCD) $(KUBERNETES) $(KWOK) ## chart and manifests on a real Kubernetes: a minute and a half; builds it once, ten minutes
	$(GO) test -race -tags cluster -count=1 -timeout 15m ./deploy/cluster # Go's cache does not see what helm reads

$(ETCD): package := go.etcd.io/etcd/server/v3
$(KWOK): package := sigs.k8s.io/kwok/cmd/kwok
$(KUBERNETES): package = k8s.io/kubernetes/cmd/$(patsubst %-$(KUBERNETES_VERSION),%,$(@F))
# Without this a Kubernetes does not know which one it is.
number = $(word $(1),$(subst ., ,$(KUBERNETES_VERSION:v%=%)))
version := k8s.io/component-base/version
$(KUBERNETES): stamp := -X $(version).gitVersion=$(KUBERNETES_VERSION) -X $(version).gitMajor=$(call number,1) -X $(version).gitMinor=$(call number,2)
$(ETCD): | tools/cluster/etcd/go.mod
$(KWOK): | tools/cluster/kwok/go.mod
$(KUBERNETES): | tools/cluster/kubernetes/go.mod
$(ETCD) $(KWOK) $(KUBERNETES):
	@echo "$(@F): building it, once; all of Kubernetes takes ten minutes"
	@mkdir -p $(@D)
	@CGO_ENABLED=0 $(GO) -C $(dir $|) build -ldflags "-s -w $(stamp)" -o $(CURDIR)/$@ $(package)
	@touch $@
