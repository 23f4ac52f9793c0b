# modelgate: `make help` lists the targets. Needed: Go, a C compiler, make, and pip or npm or curl to fetch ONNX Runtime.

GO       ?= go
LISTEN   ?= 127.0.0.1:8080
DATA     ?= ./data
ARGS     ?=
PKG      ?= ./...
TESTARGS ?=
FUZZTIME ?= 20s
SOAK     ?= ^TestMemoryIsFlat$$
BENCH    ?= .
BENCHARGS ?=
COMPAREARGS ?=
GOVULNCHECK ?= v1.9.0
VULNDB   ?=

# The version is stamped in by the linker. VCS stamping by the go command itself is off, since it fails the whole build
# where git does not trust the folder's owner, as in many containers.
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILD     = -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)'

# Without a C compiler the go command silently turns cgo off, and the error it gives then names no cause.
export CGO_ENABLED = 1

# Programs of the benchmarks that ./... leaves out.
YARDSTICKS = ./bench/testdata/hello ./bench/testdata/bare ./bench/testdata/fill

# A program of tests that is a module of its own, so that nothing of it is linked into modelgate.
PROVIDER = auth/testdata/provider

# In a recipe: the path of ONNX Runtime, or the end of the recipe if there is none.
ORT_LIB = lib=$$(sh inference/ort/fetch.sh) || exit 1; export MODELGATE_ONNXRUNTIME_LIB="$$lib"

.DEFAULT_GOAL := help
.PHONY: help build run test race lint sbom deps bench compare parts fuzz soak runtime clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'Variables: LISTEN, DATA, ARGS (run); PKG, TESTARGS (test, race); BENCHARGS (bench); COMPAREARGS (compare); BENCH (parts); FUZZTIME (fuzz)'

build: ## build bin/modelgate, with ONNX Runtime beside it
	@mkdir -p bin
	@$(ORT_LIB); cmp -s "$$lib" bin/libonnxruntime.so || \
		{ cp "$$lib" bin/.libonnxruntime.so.new && mv -f bin/.libonnxruntime.so.new bin/libonnxruntime.so; }
	$(GO) build $(BUILD) -o bin/modelgate ./cmd/modelgate

run: build ## build, then serve the sample models on LISTEN, with the data in DATA
	bin/modelgate serve --listen $(LISTEN) --data $(DATA) --demo --no-access-log $(ARGS)

test: ## fetch ONNX Runtime, vet, run every test
	@$(ORT_LIB); $(GO) vet $(PKG) && $(GO) test -timeout 20m $(TESTARGS) $(PKG)

race: ## the same tests under the race detector
	@$(ORT_LIB); $(GO) test -race -timeout 30m $(TESTARGS) $(PKG)

lint: ## gofmt, no replaced modules, go mod verify, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go' 2>/dev/null || find . -name '*.go')); \
		if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w mends it):"; echo "$$unformatted"; exit 1; fi
	@if grep -nE '^[[:space:]]*(replace|exclude)[[:space:](]' go.mod $(PROVIDER)/go.mod; then echo 'go.mod: what is built must be what its modules were published as'; exit 1; fi
	$(GO) mod verify
	$(GO) vet ./... ./testdata $(YARDSTICKS)
	$(GO) tool staticcheck ./... ./testdata $(YARDSTICKS)
	staticcheck=$$($(GO) tool -n staticcheck) && cd $(PROVIDER) && $(GO) mod verify && $(GO) vet . && "$$staticcheck" .

sbom: build ## write bin/sbom.json: what the build contains, in CycloneDX
	@$(GO) run ./deploy/sbom -version '$(VERSION)' bin/modelgate >bin/.sbom.json.new && mv -f bin/.sbom.json.new bin/sbom.json
	@echo 'bin/sbom.json'

# The scanner asks the Go project's database, or VULNDB. Where it can't be reached, the last line says so; that and whatever
# is found is a failure.
deps: build ## list what is linked, with licences, and look for known vulnerabilities
	@$(GO) run ./deploy/sbom -report bin/modelgate
	@echo; status=0; $(GO) run golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK) $(if $(VULNDB),-db '$(VULNDB)') -mode binary bin/modelgate >bin/.vuln 2>&1 || status=$$?; \
		cat bin/.vuln; looked=$$(grep -cE '^Vulnerability #|^No vulnerabilities found' bin/.vuln); rm -f bin/.vuln; \
		if [ "$$looked" -eq 0 ]; then \
			echo 'Known vulnerabilities: NOT LOOKED FOR, since the database or the scanner can not be used; VULNDB=file:///DIR names a copy'; exit 1; \
		fi; exit $$status

bench: build ## measure the whole against its floor, and write tables and plots of docs/benchmarks.md
	@models=$$(sh bench/models.sh) || exit 1; \
		$(GO) build $(BUILD) -o bin/bench ./bench && $(GO) test -c -o bin/bench-cost ./bench && \
		for name in hello bare fill; do $(GO) build $(BUILD) -o bin/bench-$$name ./bench/testdata/$$name || exit 1; done && \
		bin/bench -models "$$models" -docs docs/benchmarks.md $(BENCHARGS)

compare: build ## measure beside servers of others, installed from PyPI, and write docs/comparison.md
	@models=$$(sh bench/models.sh) && servers=$$(sh bench/compare/install.sh) || exit 1; \
		$(GO) build $(BUILD) -o bin/bench ./bench && \
		bin/bench -models "$$models" -docs docs/comparison.md -duration 1s $(COMPAREARGS) compare "$$servers"

parts: ## benchmarks of the parts, by Go's own tool
	@$(ORT_LIB); $(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m $(PKG)

fuzz: ## run every fuzz test for FUZZTIME
	@$(ORT_LIB); grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "== $$(dirname "$$file") $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x "$$(dirname "$$file")" </dev/null || exit 1; \
		done; \
	done

soak: ## flat memory, 500 crashes of a publishing server, damaged files, requests made of the contract, session histories
	@$(ORT_LIB); MODELGATE_TEST_PREDICTIONS=100000 $(GO) test -run '$(SOAK)' -count 1 -v -timeout 60m ./cmd/modelgate && \
		MODELGATE_TEST_CRASH_ROUNDS=500 $(GO) test -run '^TestCrash$$' -count 1 -timeout 60m ./models && \
		MODELGATE_TEST_UPLOAD_CRASH_ROUNDS=500 $(GO) test -run '^TestCrashedUploads$$' -count 1 -v -timeout 60m ./cmd/modelgate && \
		MODELGATE_TEST_EXAMPLES=150 $(GO) test -run '^TestSchemathesis$$' -count 1 -v -timeout 90m ./cmd/modelgate && \
		MODELGATE_TEST_MUTANTS=10000 $(GO) test -run '^TestMutants$$' -count 1 -v -timeout 60m ./inference/worker && \
		MODELGATE_SOAK=1 $(GO) test -run '^TestNoSequenceLeavesATokenAlive$$|^TestSessionHistory$$|^TestCrashedSessionHistory$$' -count 1 -v -timeout 60m ./auth

runtime: ## fetch ONNX Runtime and print its path
	@sh inference/ort/fetch.sh

clean: ## remove what the build made (data and the cached ONNX Runtime stay)
	rm -rf bin dist
