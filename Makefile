# SPDX-License-Identifier: GPL-2.0-or-later
# Thin front of ./configure, ninja and meson; needs only git and make to start with.

root := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
lab := $(root)/tests/lab/lab

.NOTPARALLEL:
.PHONY: all setup boot bench-boot bench-cow bench-latency bench-mmu bench-mtrr bench-populate \
    bench-timeline bench report \
    selftests check \
    check-full check-libvirt check-packages deb check-debug stock kvm-modules check-faults check-upstream check-sanitize soak host-validate \
    clean help

all: setup

help:
	@echo 'make              fetch, configure and build the fork (build/qemu/qemu-system-x86_64)'
	@echo 'make boot         boot a guest stock and with prefault=on, print both (LAB=npt|ept|host)'
	@echo '                  LAB=ept emulates EPT, slowly, with our KVM modules; KVM=stock|patched chooses'
	@echo '                  KERNEL=6.1|6.12|7.3: the kernel of host and guests; 7.3 has no modules of ours'
	@echo 'make bench-boot   the whole boot matrix, build/results/matrix.json'
	@echo 'make bench-cow    pages read, then written, build/results/cow.json'
	@echo 'make bench-latency  first writes and reads in the guest, build/results/latency.json'
	@echo 'make bench-mmu    flushes, zaps and syncs of the MMU, stock and patched modules, build/results/mmu.json'
	@echo 'make bench-mtrr   zaps for guest MTRRs on Linux 6.1, build/results/mtrr.json, mtrr.svg'
	@echo 'make bench-populate  seconds per GiB by each method, build/results/populate.json'
	@echo 'make bench-timeline  RAM faults over time: stock, naive, prefault, build/results/timeline.json'
	@echo 'make bench        all benchmarks'
	@echo 'make report       all results as one page with charts, build/report/index.html'
	@echo 'make selftests    KVM selftests, stock and patched modules (KERNEL=6.1|6.12), build/results/selftests.json'
	@echo 'make check        all tests but the slow ones, last line: N passed, N failed, N skipped'
	@echo 'make check-full   all tests'
	@echo 'make check-libvirt  domains of docs/examples under Debian 12'"'"'s and 13'"'"'s libvirt in the lab'
	@echo 'make check-packages  the Debian packages: contents, and life in a clean Debian 12'
	@echo 'make deb          Debian packages in build/deb: the emulator, and KVM modules for dkms'
	@echo 'make check-debug  guests and KVM selftests under lockdep, KASAN and PROVE_RCU'
	@echo 'make check-faults    system calls of ours that fail, one at a time, build/results/faults.json'
	@echo 'make check-upstream  QEMU'"'"'s own qtests, unchanged source and fork, build/results/upstream-qtest.json'
	@echo 'make check-sanitize  tests and failing calls under ASan and UBSan, life cycles under TSan'
	@echo 'make soak         200 reboots, 100 plugs, 50 migrations (PART=10: a tenth), build/results/soak.json'
	@echo 'make stock        build the unchanged QEMU for comparison (build/stock/qemu)'
	@echo 'make kvm-modules  patched KVM for a stock Debian kernel (KERNEL=6.1|6.12), build/kvm/KERNEL'
	@echo 'make host-validate  check this host: KVM, its parameters, memory, limits (QEMU=PATH asks a QEMU too)'
	@echo 'make clean        remove what was built, keep downloads'
	@echo 'Missing Debian packages are installed when root or through sudo.'

setup:
	@$(root)/scripts/deps install
	@$(root)/configure
	@$(root)/scripts/build fork

# The EPT lab shows our modules, unless told otherwise.
KVM ?= $(if $(filter ept,$(LAB)),patched,stock)

boot: setup
ifeq ($(KVM),patched)
	@$(root)/scripts/kvm-modules $(or $(KERNEL),6.12)
endif
	@$(lab) boot --kvm $(KVM) $(if $(KERNEL),--kernel $(KERNEL)) $(if $(LAB),--lab $(LAB))

bench-boot: setup
	@$(lab) matrix $(if $(LAB),--lab $(LAB))

bench-cow: setup
	@$(root)/scripts/kvm-modules 6.12
	@$(lab) cow $(if $(LAB),--lab $(LAB))

bench-latency: setup
	@$(lab) latency $(if $(LAB),--lab $(LAB))

bench-mmu: setup
	@for kernel in 6.1 6.12; do $(root)/scripts/kvm-modules $$kernel && $(root)/scripts/kvm-selftests $$kernel || exit 1; done
	@$(lab) mmu

bench-mtrr: setup
	@$(root)/scripts/kvm-lab-module 6.1
	@$(lab) mtrr

bench-populate: setup
	@$(lab) populate $(if $(LAB),--lab $(LAB))

bench-timeline: stock
	@$(lab) timeline

bench: bench-boot bench-cow bench-latency bench-mmu bench-mtrr bench-populate bench-timeline

report:
	@$(root)/scripts/deps install
	@$(root)/scripts/report

stock: setup
	@$(root)/scripts/build stock

kvm-modules:
	@$(root)/scripts/deps install
	@$(root)/scripts/kvm-modules $(KERNEL)

host-validate:
	@$(root)/scripts/deps install
	@$(root)/scripts/build host-validate
	@$(root)/build/prefault-host-validate $(if $(QEMU),--qemu $(QEMU))

selftests: KERNEL ?= 6.12
selftests: setup
	@$(root)/scripts/kvm-modules $(KERNEL)
	@$(root)/scripts/kvm-selftests $(KERNEL)
	@$(lab) selftests --full --kernel $(KERNEL) $(if $(LAB),--lab $(LAB))

check: stock
	@$(root)/scripts/check-summary

check-full: stock
	@$(root)/scripts/deps install --deb
	@$(root)/scripts/check-summary --full

check-libvirt: setup
	@$(root)/scripts/run-test avocado test_libvirt.py
	@$(root)/scripts/run-test avocado slow_libvirt.py

deb: setup
	@$(root)/scripts/deps install --deb
	@$(root)/scripts/deb

check-packages: deb
	@$(root)/tests/packages/deb-check
	@$(root)/tests/packages/deb-test

check-debug: setup
	@$(root)/scripts/kvm-lab-module 6.1 debug
	@$(root)/scripts/kvm-lab-module 6.12 debug
	@$(root)/scripts/kvm-selftests 6.1
	@$(root)/scripts/kvm-selftests 6.12
	@$(lab) debug

check-faults: setup
	@$(lab) faults $(if $(LAB),--lab $(LAB))

check-upstream: stock
	@$(root)/scripts/check-upstream

check-sanitize: setup
	@$(root)/scripts/check-sanitize
	@$(root)/scripts/check-sanitize --threads

soak: setup
	@$(lab) soak --divide $(or $(PART),1)

clean:
	@$(root)/scripts/clean
