# SPDX-License-Identifier: MIT
# A thin front for Meson: every target does its own set-up (tools/setup). See README.md.
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
IMAGE   ?= $(BUILD)/debian.img
SSH_PORT ?= 2222

.PHONY: all setup run test test-slow check bench fuzz fuzz-cpu fuzz-jit test-kvm bench-kvm shell-kvm asan tsan coverage install deb clean

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet || ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@tools/setup build
	@meson setup $(BUILD) --prefix=$(PREFIX) >/dev/null

# Builds hull, makes a Debian disk once, boots it on this terminal. Ctrl-A x ends it.
run: all
	@tools/setup build run
	@IMAGE=$(IMAGE) BUILD=$(BUILD) SSH_PORT=$(SSH_PORT) tools/run-debian

# What .ci/run counts: unit, CPU, guest, boot, command-line and the short KVM tests.
test: all
	@tools/setup build test
	@tools/run-tests $(BUILD) --suite unit --suite cpu --suite guest --suite boot --suite cli --suite kvm

# Everything that takes minutes: whole systems in guests, kill -9, long workloads.
test-slow: all
	@tools/setup build run test slow
	@tools/run-tests $(BUILD) --suite slow --timeout-multiplier 10

# The KVM engine on a real /dev/kvm: a Debian kernel under QEMU, see doc/kvm.md. shell-kvm: a shell in it.
test-kvm: all
	@tools/setup build test
	@test/kvm/run $(BUILD)

# hull beside QEMU on that KVM: minutes.
bench-kvm: all
	@tools/setup build test
	@test/kvm/bench $(BUILD)

shell-kvm: all
	@tools/setup build test
	@test/kvm/run --shell $(BUILD)

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

fuzz-jit: all
	@$(BUILD)/test/fuzz/jit/jit-fuzz --seconds 3600

fuzz-cpu: all
	@$(BUILD)/test/fuzz/cpu/fuzz-cpu --count 10000000 --jobs $$(nproc)
	@$(BUILD)/test/fuzz/cpu/fuzz-cpu --programs --count 1000000 --jobs $$(nproc)

# Sanitizers, in build folders of their own. ThreadSanitizer runs what has threads.
# soft-smp is left out: its vCPUs race on guest memory, as real CPUs do.
TSAN_TESTS = loop block virtio-queue virtio-virtio virtio-blk virtio-net dev-threads dev-timer soft-engine

asan:
	@tools/setup build test
	@[ -d $(BUILD)-asan ] || meson setup $(BUILD)-asan -Db_sanitize=address,undefined -Db_lundef=false >/dev/null
	@tools/run-tests $(BUILD)-asan --suite unit --suite guest --timeout-multiplier 5

tsan:
	@tools/setup build test
	@[ -d $(BUILD)-tsan ] || meson setup $(BUILD)-tsan -Db_sanitize=thread -Db_lundef=false >/dev/null
	@TSAN_OPTIONS="suppressions=$$PWD/tools/tsan.supp $$TSAN_OPTIONS" \
	    tools/run-tests $(BUILD)-tsan $(TSAN_TESTS) --timeout-multiplier 5

coverage:
	@tools/setup build test coverage
	@[ -d $(BUILD)-coverage ] || meson setup $(BUILD)-coverage -Db_coverage=true >/dev/null
	@tools/run-tests $(BUILD)-coverage --suite unit
	@ninja -C $(BUILD)-coverage coverage-text

install: all
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild

deb:
	@tools/setup build check
	@tools/make-deb

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-coverage $(BUILD)-fuzz
