# castiron: `make demo` shows it, `make test` tests it. Needs Rust (rustup or a distribution's), a C linker, make.
# Everything else is brought by castiron itself: see `target/release/castiron doctor`.

CARGO ?= cargo
TARGET := x86_64-unknown-linux-gnu
CASTIRON := target/release/castiron
NODE := target/lib/castiron/castiron-node
# Packages leave the archive when newer ones land, so demo and tests resolve a lock of their own.
DEMO_LOCK := out/demo/castiron.lock

.PHONY: help build demo test test-full bench lint deny clean FORCE
help:
	@echo "make build       castiron and the static castiron-node"
	@echo "make demo        build an installer ISO, have a machine install itself from it, show that it is healthy"
	@echo "make test        all tests and the shorter scenarios (under an hour)"
	@echo "make test-full   all scenarios, power cuts included"
	@echo "make bench       figures, as ratios against rivals in the same run"
	@echo "make lint deny   rustfmt and clippy; licences, bans and advisories"

build: $(CASTIRON) $(NODE)

$(CASTIRON): FORCE
	$(CARGO) build --release --bin castiron

# Static, so that neither the operator's toolchain nor noble's libc matters; paths of this checkout stay out of it.
$(NODE): FORCE
	RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/castiron --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo" \
	$(CARGO) build --release --no-default-features --bin castiron-node --target $(TARGET) --target-dir target/node
	@install -D -m 0755 target/node/$(TARGET)/release/castiron-node $(NODE).new
	@cmp -s $(NODE).new $(NODE) && rm $(NODE).new || mv $(NODE).new $(NODE)

demo: build
	@scripts/demo

test: build
	@scripts/test

test-full: build
	@scripts/test --full

bench: build
	@scripts/bench

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings

deny:
	$(CARGO) deny check

clean:
	rm -rf target out
