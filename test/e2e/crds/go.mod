// The releases whose CustomResourceDefinitions the tests install (package published). They are read as files and never
// built, so that nothing imports them: go mod tidy would empty this file.

module github.com/pseudo-agent/pseudo-agent/test/e2e/crds

go 1.26.0

require (
	github.com/argoproj/argo-rollouts v1.8.3
	github.com/openkruise/kruise v1.8.0
	github.com/openshift/api v0.0.0-20240527133614-ba11c1587003
)
