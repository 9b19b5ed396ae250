module namebridge/tools/cluster/operator

go 1.26.0

// Only its CustomResourceDefinitions are used.
require github.com/prometheus-operator/prometheus-operator v0.85.0
