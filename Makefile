# The two commands are `make demo` and `make test`; `make help` lists the rest.
#
# Every cargo call has the same profile, the same selection of packages and no RUSTFLAGS: RocksDB
# takes a quarter of an hour to compile, and cargo would compile it again for another combination.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

export LANDFALL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/landfall
# The tools built by scripts/install-tools, and /sbin, which only root has by default.
export PATH := $(LANDFALL_CACHE)/tools/bin:$(PATH):/usr/sbin:/sbin
# .cargo/config.toml says build/, because target/ is a source folder.
BUILD := $(or $(CARGO_TARGET_DIR),$(CURDIR)/build)
export LANDFALL_BIN := $(BUILD)/release/landfall

ALL := --release --workspace --locked
# The models are a workspace of their own, with a folder of their own in every build folder.
MODELS := --release --locked --manifest-path docs/models/Cargo.toml --target-dir $(BUILD)/models
PACKAGES := landfall landfall-disks landfall-retention landfall-protocols landfall-perf landfall-tests

# Test programs long enough to be gates of their own, so that the closing table shows their cost.
SUITES := $(filter simulation crash interop images faults,$(patsubst tests/tests/%.rs,%,\
            $(patsubst %/main.rs,%.rs,$(wildcard tests/tests/*.rs tests/tests/*/main.rs))))
# What `make test` runs, in this order; the first to fail ends it. Each is a target of this file.
GATES := packages format clippy docs build unit doctest deny model history \
           $(filter simulation crash,$(SUITES)) fuzz-smoke $(filter interop images faults,$(SUITES)) demo
NOT_A_SUITE := not (none() $(foreach suite,$(SUITES),+ binary(=$(suite))))

# How many seeds the randomised suites try; SEED=n makes them try that one alone.
export LANDFALL_SIMULATION_SEEDS ?= 200
export LANDFALL_CRASH_SEEDS ?= 100
ifdef SEED
export LANDFALL_SEED := $(SEED)
endif

##@ The two commands
.PHONY: demo test
demo: packages build ## replicate a real disk, boot a VM from a point of its history
	scripts/demo
test: ## every gate, in order, with the time each took
	scripts/gates $(GATES)

##@ Building
.PHONY: build fmt clean
build: ## build everything, optimised
	cargo build $(ALL)
fmt: ## format the source
	cargo fmt --all
	cd tests/fuzz && cargo fmt
	cd docs/models && cargo fmt
clean: ## remove what was built from this workspace, but not RocksDB
	cargo clean --release --locked $(foreach package,$(PACKAGES),-p $(package))
	rm -rf tests/fuzz/build $(BUILD)/models

##@ Gates, one at a time
.PHONY: packages format clippy docs deny model history unit doctest simulation crash interop images faults fuzz-smoke
.PHONY: newer-peers
packages: ## Debian packages, cargo tools and newer peers, installed if missing
	scripts/install-packages
	scripts/install-tools
	scripts/newer-peers
format: ## formatting of the workspace, of the fuzz crate and of the models
	cargo fmt --all -- --check
	cd tests/fuzz && cargo fmt -- --check
	cd docs/models && cargo fmt -- --check
clippy: ## lints, warnings are errors
	cargo clippy $(ALL) --all-targets -- -D warnings
docs: ## API documentation, warnings are errors
	RUSTDOCFLAGS='-D warnings' cargo doc $(ALL) --no-deps --document-private-items
deny: ## licences, sources and banned crates
	cargo deny --locked check bans licenses sources
	cargo deny --locked --manifest-path docs/models/Cargo.toml --config .cargo/deny.toml \
	  check bans licenses sources
model: ## what must be durable before what, in every state a power cut can leave
	cargo clippy $(MODELS) --all-targets -- -D warnings
	cargo test $(MODELS) --tests
unit: ## tests of every package but for the long suites; TEST=expression picks some
	cargo nextest run $(ALL) -E '$(or $(TEST),$(NOT_A_SUITE))'
doctest: ## examples in the documentation
	cargo test $(ALL) --doc
history: build ## a hundredth of a long history, generated, measured, held to its bounds
	$(BUILD)/release/landfall-perf history --bounds
interop: newer-peers
newer-peers:
	scripts/newer-peers
simulation crash interop images faults: ## a long suite; SEED=n repeats one seed of a randomised one
	cargo nextest run $(ALL) -E 'binary(=$@)'
fuzz-smoke: ## every fuzz target for a few seconds
	scripts/fuzz smoke

##@ Longer
.PHONY: perf perf-history soak iscsi-page fuzz
perf: build ## figures beside peers and beside the device; needs root
	# A mount namespace of its own: whatever ends it, no file system it made stays mounted.
	unshare --mount $(BUILD)/release/landfall-perf
perf-history: build ## a hundred million entries, 100,000 points: 14 GB, most of an hour
	$(BUILD)/release/landfall-perf history --full --bounds
soak: build ## the randomised suites with ten times the seeds, and guests killed ten times after a minute each
	$(MAKE) simulation crash LANDFALL_SIMULATION_SEEDS=2000 LANDFALL_CRASH_SEEDS=1000
	LANDFALL_NBD_SEEDS=5000 LANDFALL_LIVE_LIVES=10 LANDFALL_LIVE_SECONDS=60 cargo nextest run $(ALL) --profile soak \
	  -E 'test(=sessions::sessions_of_any_kind_get_what_is_due_and_leave_what_they_wrote) + binary(=interop) & test(live::)'
iscsi-page: ## run libiscsi's conformance tests and write what came of them to docs/interop-iscsi.md
	LANDFALL_WRITE_PAGES=1 cargo nextest run $(ALL) -E 'binary(=interop) & test(iscsi_conformance::)'
fuzz: ## every fuzz target for ten minutes each; TARGET=name for one
	scripts/fuzz long $(TARGET)

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z -]*:.*## / { printf "  %-26s %s\n", $$1, $$2 }' Makefile
