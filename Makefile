# Everything needs Go, git and make only. Tools are run from their modules at the versions below; the Go command builds
# each once and keeps it in its cache.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BUF                := github.com/bufbuild/buf/cmd/buf@v1.73.0
PROTOC_GEN_GO      := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_GEN_GO_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
GOFUMPT            := mvdan.cc/gofumpt@v0.12.0
GOLANGCI_LINT      := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# The Go modules of the repository that hold code of ours.
MODULES := . test/e2e test/node test/bench packaging/image packaging/packages

# Stamped into the programs. Outside of a git checkout give them on the command line.
VERSION  ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)

# For example: make test TESTFLAGS='-run Selection -v'
TESTFLAGS ?=
BENCHTIME ?= 1s
KUBERNETES ?= $(shell sed -n 's/.*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' test/e2e/kube/go.mod)

.PHONY: help
help: ## shows this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: build
build: ## builds both programs into bin/
	CGO_ENABLED=0 go build -ldflags '-s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)' -o bin/ ./cmd/...

.PHONY: test
test: unit e2e ## runs all tests

.PHONY: unit
unit: ## runs the tests that need no other program
	go test $(TESTFLAGS) ./...
	cd test/bench && go test $(TESTFLAGS) ./...
	cd packaging/image && go test $(TESTFLAGS) ./...
	cd packaging/packages && go test $(TESTFLAGS) ./...
	cd test/node && go test $(TESTFLAGS) ./grafana ./node

.PHONY: race
race: ## runs the unit tests, the long ones shortened, with the race detector (needs a C compiler)
	go test -race -short $(TESTFLAGS) ./...

.PHONY: fuzz
fuzz: MINUTES = 10
fuzz: ## runs every fuzz test, one after the other: make fuzz MINUTES=1 PACKAGES=./inventory/...
	@for package in $$(go list $(or $(PACKAGES),./...)); do \
		for name in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$name"; \
			go test $$package -run '^$$' -fuzz "^$$name$$" -fuzztime $(MINUTES)m || exit 1; \
		done; \
	done

.PHONY: histories
histories: ROUNDS = 20000
histories: ## plays 20,000 random histories of the watcher election, in about three minutes: make histories ROUNDS=300000
	PSEUDO_TEST_ROUNDS=$(ROUNDS) go test ./server/elector -count=1 -timeout 0 -run '^TestSimulation$$'

.PHONY: simulation
simulation: HISTORIES = 1000
simulation: ## plays random histories of whole systems, from agents to storage (docs/simulation.md): make simulation HISTORIES=100000
	PSEUDO_TEST_ROUNDS=$(HISTORIES) go test ./test/simulation -count=1 -timeout 0 -v -run '^TestSimulation$$'

.PHONY: explore
explore: DEPTH = +1
explore: MODELS = reporter server/elector server/store
explore: ## tries every order of events, one deeper than make test does (docs/simulation.md): make explore MODELS=reporter DEPTH=9
	PSEUDO_TEST_DEPTH=$(DEPTH) go test $(addprefix ./,$(MODELS)) -count=1 -timeout 0 -v -run '^TestExplore'

.PHONY: mutants
mutants: MUTANTS = .
mutants: ## breaks one rule of the code after the other and tells which test notices: make mutants MUTANTS=^elector
	go run ./tools/mutants -run '$(MUTANTS)'

# Groups of tests that run beside the others, each on an apiserver of its own. Those of two mostly wait,
E2E_electing := ^Test(WatcherElection|Standby|FrozenLeader|LeaderWithout|LagFollows|PermissionRevoked|ServedVersion)
E2E_losing   := ^Test(APIServerAway|APIServerHangs|HalfOpen|SelectedAggregated|ClientCertificate|ServingAuthority)
# one only waits, for the end of a token's lifetime,
E2E_waiting  := ^TestShortestToken
# one needs a browser, or lies,
E2E_looking  := ^Test(ServerViews|AgentViews|Accessible|Page$$|Pictures|LargePage|FleetPage|HostilePage|Lying|ServerThat)
# one presses every key,
E2E_typing   := ^Test(Keyboard|AgentKeyboard|Questions|StatusPageRenews|PageNobody)
# and one renders and installs charts.
E2E_charts   := ^Test(Chart|Releases|Kustomize|RestrictedV2|ExistingConfigMap|PlainManifest|PodAgentChart)
E2E_GROUPS   := charts looking typing electing waiting losing
E2E_GROUPED  := $(subst $() ,|,$(foreach group,$(E2E_GROUPS),$(E2E_$(group))))
E2E := cd test/e2e && go test -count=1 -timeout 30m -v

.PHONY: e2e
e2e: ## runs the binaries against a real kube-apiserver and etcd; for one test: make e2e TESTFLAGS='-run Platforms'
ifeq ($(TESTFLAGS),)
	@# The first test builds what all of them need.
	$(E2E) -run '^TestProductIsNotImported$$' .
	$(MAKE) --no-print-directory -j6 --output-sync=target e2e-acting $(E2E_GROUPS:%=e2e-%)
else
	$(E2E) $(TESTFLAGS) ./...
endif

.PHONY: e2e-acting
e2e-acting:
	$(E2E) -skip '$(E2E_GROUPED)' ./...

.PHONY: $(E2E_GROUPS:%=e2e-%)
$(E2E_GROUPS:%=e2e-%): e2e-%:
	$(E2E) -run '$(E2E_$*)' .

.PHONY: node
node: ## brings up a cluster of one real node (root, Linux, containerd), prints its kubeconfig, and removes all of it on ^C
	@cd test/node && go build -o ../../bin/node ./cmd/node && exec ../../bin/node

.PHONY: node-test
node-test: ## runs what we ship as Pods on a real node; says what is missing if this machine cannot run one
	cd test/node && go test -count=1 -timeout 30m -p 1 -v $(TESTFLAGS) . ./attach

.PHONY: demo
demo: ## brings up a sample cluster and both programs and shows changes arrive; DEMO_ONESHOT=1 ends by itself
	@cd test/e2e && go run ./cmd/demo

.PHONY: attack
attack: MINUTES = 10
attack: MEMORY = 512,2048
attack: ## attacks a pseudo-server in cgroups of 512 MiB and 2 GiB, ten minutes each: make attack MINUTES=1 MEMORY=512
	cd test/bench && go run ./attack -minutes $(MINUTES) -memory $(MEMORY) $(ATTACKFLAGS)

.PHONY: bench
bench: ## measures pseudo-agent beside other ways to watch (docs/performance.md): make bench PODS=100000 RUNS=3
	cd test/bench && go build -o ../../bin/bench . && ../../bin/bench

.PHONY: fleet
fleet: CLUSTERS = 1000
fleet: PODS = 1000
fleet: ## measures pseudo-server with many clusters and agents (docs/fleet.md): make fleet CLUSTERS=10000 PODS=1000; FLEETFLAGS="-dir FOLDER -phases load,restart"
	cd test/bench && go build -o ../../bin/bench . && ../../bin/bench fleet -clusters $(CLUSTERS) -pods $(PODS) $(FLEETFLAGS)

.PHONY: microbench
microbench: ## runs the benchmarks of single functions
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(TESTFLAGS) ./...

.PHONY: release
release: ## makes reproducible tarballs, images, debs, rpms for Linux on amd64 and arm64, and charts in dist/: make release VERSION=v1.0.0
	VERSION=$(VERSION) REVISION=$(REVISION) PUSH=$(PUSH) packaging/release.sh tarballs images packages charts

# For example registry.example/observability/, of which `docker login` or `podman login` gave the password.
PUSH ?=

.PHONY: image
image: ## makes the images alone, without a container builder: make image VERSION=v1.0.0 PUSH=registry.example/observability/
	VERSION=$(VERSION) REVISION=$(REVISION) PUSH=$(PUSH) packaging/release.sh images

.PHONY: verify-release
verify-release: ## makes a release from two clones of this commit in different places, and compares every byte
	tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	for dir in one another/one; do \
	  git clone --quiet --no-checkout . "$$tmp/$$dir"; \
	  git -C "$$tmp/$$dir" checkout --quiet --detach $(REVISION); \
	  $(MAKE) --no-print-directory -C "$$tmp/$$dir" release VERSION=$(VERSION) REVISION=$(REVISION) PUSH=; \
	done; \
	diff "$$tmp/one/dist/SHA256SUMS" "$$tmp/another/one/dist/SHA256SUMS" && echo 'both releases are the same'

.PHONY: generate
generate: generate-protocol generate-docs generate-kustomize ## makes all generated files again

.PHONY: generate-protocol
generate-protocol: OUT = .
generate-protocol: plugin = {"local": ["go", "run", "$(1)"], "out": "$(OUT)", "opt": "paths=source_relative"}
generate-protocol:
	@# buf compiles the definitions as protoc does, but is fetched like any other Go module.
	go run $(BUF) generate --path protocol --template \
	  '{"version": "v2", "plugins": [$(call plugin,$(PROTOC_GEN_GO)), $(call plugin,$(PROTOC_GEN_GO_GRPC))]}'

.PHONY: generate-docs
generate-docs:
	go run ./tools/docgen

.PHONY: generate-kustomize
generate-kustomize:
	cd test/e2e && go run ./cmd/kustomize

.PHONY: kubernetes
kubernetes: ## pins the apiserver of the e2e tests to another release: make kubernetes KUBERNETES=v1.35.4
	test/e2e/kube/update.sh $(KUBERNETES)

.PHONY: lint
lint: ## runs golangci-lint
	for m in $(MODULES); do (cd $$m && go run $(GOLANGCI_LINT) run ./...); done

.PHONY: verify
verify: verify-generated verify-modules verify-dependencies verify-format lint ## fails if a generated file, go.mod, a dependency or the format is not what it should be

.PHONY: verify-generated
verify-generated:
	tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; mkdir "$$tmp/ours" "$$tmp/kube"; \
	$(MAKE) --no-print-directory generate-protocol OUT="$$tmp/ours"; \
	for f in $$(cd "$$tmp/ours" && find . -type f); do \
	  diff -u "$$f" "$$tmp/ours/$$f" || { echo "$$f is not what its source says: run make generate" >&2; exit 1; }; \
	done; \
	go run ./tools/docgen -check; \
	cp test/e2e/kube/update.sh "$$tmp/kube"; "$$tmp/kube/update.sh" $(KUBERNETES); \
	for f in go.mod go.sum; do \
	  diff -u "test/e2e/kube/$$f" "$$tmp/kube/$$f" || { echo "test/e2e/kube/$$f has drifted: run make kubernetes" >&2; exit 1; }; \
	done

.PHONY: verify-modules
verify-modules:
	for m in $(MODULES); do (cd $$m && go mod tidy -diff && go vet ./...); done

.PHONY: verify-dependencies
verify-dependencies: ## names dependencies that were retracted, are deprecated or had no release for three years; asks the module proxy
	go run ./tools/modules $(MODULES)

.PHONY: verify-format
verify-format:
	out=$$(git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs go run $(GOFUMPT) -l); \
	[[ -z $$out ]] || { echo "not formatted (run make format):"; echo "$$out"; exit 1; } >&2

.PHONY: format
format: ## formats the Go code
	git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs go run $(GOFUMPT) -w

.PHONY: clean
clean: ## removes what build made
	rm -rf bin dist
