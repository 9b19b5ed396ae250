// Package cluster tests what deploy holds on a real Kubernetes: an API server with its etcd, controllers and scheduler, in a namespace whose Pod Security
// Standard is "restricted". The programs take minutes to build the first time, so the tests have the build tag cluster: make test-cluster.
//
// What is real: everything that accepts, refuses, defaults, schedules, replaces, counts and collects objects, and Helm and kubectl before it. What kwok pretends:
// that the nodes and their pods run. On one node nothing is pretended: its kubelet is the tests' own, which starts the pod's command as a process of this machine, with
// the environment and the files that the API server hands out, asks its probes, and ends it as a kubelet would. There is no container around it, and no network:
// whether a NetworkPolicy holds, and whether the image can be pulled, is not seen here.
package cluster
