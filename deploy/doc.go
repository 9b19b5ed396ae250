// Package deploy holds what is needed to run namebridge: the Helm chart, plain manifests made from it, and the tests of both. The tests need tools that take
// minutes to build the first time, so they have the build tag deploy: make test-deploy.
package deploy
