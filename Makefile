# SPDX-License-Identifier: MIT
# A thin front for Meson: every target does its own set-up (tools/setup). See README.md.
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
IMAGE   ?= $(BUILD)/debian.img
SSH_PORT ?= 2222

.PHONY: all setup run test test-slow check bench fuzz fuzz-cpu asan tsan coverage install deb clean

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet || ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@tools/setup build
	@meson setup $(BUILD) --prefix=$(PREFIX) >/dev/null

# Builds hull, makes a Debian disk once, boots it on this terminal. Ctrl-A x ends it.
run: all
	@tools/setup build run
	@IMAGE=$(IMAGE) BUILD=$(BUILD) SSH_PORT=$(SSH_PORT) tools/run-debian

# What .ci/run counts: unit, CPU, guest, boot and command-line tests.
test: all
	@tools/setup build test
	@tools/run-tests $(BUILD) --suite unit --suite cpu --suite guest --suite boot --suite cli

# Everything that takes minutes: whole systems in guests, kill -9, long workloads.
test-slow: all
	@tools/setup build run test
	@tools/run-tests $(BUILD) --suite slow --timeout-multiplier 10

# Style: layers, sizes, layout.
check:
	@tools/setup check
	@tools/check-layers
	@tools/check-size
	@tools/check-format

bench: all
	@tools/setup build run test
	@test/bench/run $(BUILD)

fuzz:
	@tools/setup build check
	@tools/fuzz

fuzz-cpu: all
	@$(BUILD)/test/fuzz/cpu/fuzz-cpu --count 10000000 --jobs $$(nproc)

# The same tests under sanitizers, in build folders of their own.
asan tsan:
	@tools/setup build test
	@[ -d $(BUILD)-$@ ] || meson setup $(BUILD)-$@ -Db_sanitize=$(if $(filter asan,$@),address$(comma)undefined,thread) \
	    -Db_lundef=false >/dev/null
	@ninja -C $(BUILD)-$@ --quiet
	@tools/run-tests $(BUILD)-$@ --suite unit --timeout-multiplier 5

coverage:
	@tools/setup build test
	@[ -d $(BUILD)-coverage ] || meson setup $(BUILD)-coverage -Db_coverage=true >/dev/null
	@ninja -C $(BUILD)-coverage --quiet
	@tools/run-tests $(BUILD)-coverage --suite unit
	@ninja -C $(BUILD)-coverage coverage-text

install: all
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild

deb:
	@tools/setup build check
	@tools/make-deb

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-coverage $(BUILD)-fuzz

comma := ,
