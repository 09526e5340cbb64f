/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /dev/mtrr-lab: what the lab's module does for the program host/mtrr
 *
 * All commands are for root on the emulated host, and for VMs whose vCPUs the
 * caller has stopped where that is said.
 */
#ifndef MTRR_LAB_H
#define MTRR_LAB_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MTRR_LAB_NR_VAR		8
#define MTRR_LAB_NR_FIXED	88

/* Since MTRR_LAB_RESET, for all VMs together. */
struct mtrr_lab_counts {
	/*
	 * MTRR writes and changes of CR0.CD, and the TSC cycles they took from
	 * begin to end; @cycles without those in which the thread could have run
	 * but other threads had the CPU.
	 */
	__u64 calls;
	__u64 cycles;
	__u64 elapsed;
	/* Walks of kvm_tdp_mmu_zap_leafs(): number, GFNs, leaf SPTEs dropped. */
	__u64 zaps;
	__u64 gfns;
	__u64 sptes;
};

/* What KVM has for one vCPU; -ENOENT ends the vCPUs. */
struct mtrr_lab_state {
	__s32 vm;
	__u32 vcpu;
	__u64 base[MTRR_LAB_NR_VAR];
	__u64 mask[MTRR_LAB_NR_VAR];
	__u64 deftype;
	__u8 fixed[MTRR_LAB_NR_FIXED];
	__u32 cd;
	__u32 unused;
};

/* Neighbouring leaves of second-level page tables that are alike, [start, end). */
struct mtrr_lab_run {
	__u64 start;
	__u64 end;
	__u8 type;
	__u8 ipat;
	__u8 level;
	__u8 unused[5];
};

/* The leaves of all roots in use; vCPUs stopped.  -ENOSPC: more than @max runs. */
struct mtrr_lab_leaves {
	__s32 vm;
	__u32 max;
	__u64 runs;
};

/* The argument of the first two is a VM's file descriptor. */
#define MTRR_LAB_DMA_START	_IO('m', 1)
#define MTRR_LAB_DMA_STOP	_IO('m', 2)
#define MTRR_LAB_RESET		_IO('m', 3)
#define MTRR_LAB_COUNTS		_IOR('m', 4, struct mtrr_lab_counts)
#define MTRR_LAB_STATE		_IOWR('m', 5, struct mtrr_lab_state)
/* Returns the number of runs. */
#define MTRR_LAB_LEAVES		_IOW('m', 6, struct mtrr_lab_leaves)

#endif /* MTRR_LAB_H */
