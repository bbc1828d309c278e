# SPDX-License-Identifier: MIT
# A thin front for Meson: see README.md.
BUILD ?= build
.PHONY: all test clean
all: $(BUILD)/build.ninja
	ninja -C $(BUILD)
$(BUILD)/build.ninja:
	meson setup $(BUILD)
test: all
	meson test -C $(BUILD)
clean:
	rm -rf $(BUILD)
