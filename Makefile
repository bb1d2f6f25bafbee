# What a developer or packager types; `make help` lists it.
# Everything that mounts needs root and /dev/fuse.

SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help build release deps demo test soak bench fmt fmt-check clippy doc install clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## all programs, for development
	$(CARGO) build --workspace --bins --locked

release: ## all programs, optimised
	$(CARGO) build --workspace --bins --release --locked

deps: ## installs what tests and demo need and is missing (Debian; as root)
	@tests/deps.sh

demo: ## a primary and a replica in a scratch directory, until Ctrl-C (ARGS=--once: check and end)
	@tests/deps.sh demo
	@$(CARGO) build --locked -p litefsd -p litefsctl
	@BIN_DIR=$(TARGET)/debug tests/demo.sh $(ARGS)

test: ## installs what is missing and runs all tests
	@tests/deps.sh
	@CARGO="$(CARGO)" tests/run.sh $(ARGS)

soak: ## the long runs: random kills, random workloads, > 1 GiB; SOAK=n makes them n times longer
	@tests/deps.sh
	@CARGO="$(CARGO)" LITEFS_SOAK=$(or $(SOAK),10) tests/run.sh --soak $(ARGS)

bench: ## this mount against the raw directory (ARGS="--json --only NAME --rounds N --quick")
	@tests/deps.sh >&2
	@$(CARGO) build --release --locked -p litefsd -p litefsctl -p litefs-tests --bins >&2
	@LITEFS_BIN_DIR=$(abspath $(TARGET))/release $(TARGET)/release/bench $(ARGS)

fmt: ## formats
	$(CARGO) fmt --all

fmt-check:
	$(CARGO) fmt --all --check

clippy: ## lints, warnings are errors
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc: ## rustdoc, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

install: release ## programs to $(DESTDIR)$(PREFIX)/bin, `litefs` as the drop-in name
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(TARGET)/release/litefsd $(TARGET)/release/litefsctl $(DESTDIR)$(PREFIX)/bin/
	ln -sf litefsctl $(DESTDIR)$(PREFIX)/bin/litefs

clean: ## what cargo built
	$(CARGO) clean
