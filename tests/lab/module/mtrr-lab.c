// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For the lab only: non-coherent DMA without a device, and what KVM makes of it
 *
 * Tells KVM that a VM has non-coherent DMA, as VFIO does for a device that
 * bypasses caches; shows the VM's MTRRs and the leaves of its page tables; and
 * measures what MTRR writes and CR0.CD toggles cost.  The probes are on functions
 * that stock and patched KVM both have, so both are measured in the same way.
 *
 * It reads KVM's own structures, whose layout the patches change: one build per
 * KVM, see scripts/kvm-lab-module.
 */

#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <asm/apicdef.h>
#include <asm/tsc.h>

#include "mtrr-lab.h"
#include "noncoherent-dma.h"

/* As in arch/x86/kvm/mmu/spte.h. */
#define SPTE_PRESENT		BIT_ULL(11)
#define SPTE_HUGE		BIT_ULL(7)
#define SPTE_ADDRESS		GENMASK_ULL(51, 12)

#define APIC_GFN		(APIC_DEFAULT_PHYS_BASE >> PAGE_SHIFT)
#define MAX_RUNS		(1 << 20)

/*
 * NPT has no memory types, so KVM has nothing to zap for guest MTRRs there.  A
 * nonzero shadow_memtype_mask is how it tells: set, KVM does for NPT all the work
 * that it does for EPT, except that the types do not reach the page tables.
 */
static unsigned long honor;
module_param(honor, ulong, 0);
MODULE_PARM_DESC(honor, "address of shadow_memtype_mask, from /proc/kallsyms");
static bool honored;

static struct {
	atomic64_t calls;
	atomic64_t cycles;
	atomic64_t elapsed;
	atomic64_t zaps;
	atomic64_t gfns;
	atomic64_t sptes;
} counts;

/*
 * There are more busy vCPUs than CPUs in the lab.  Where a thread may be
 * rescheduled in the middle says nothing about the cost of a zap, so that time
 * is taken off.  Waiting for a lock or for another vCPU's walk is not.
 */
struct call_data {
	u64 tsc;
	u64 run_delay;
};

static int begin_call(struct kretprobe_instance *ri)
{
	struct call_data *data = (void *)ri->data;

	data->run_delay = current->sched_info.run_delay;
	data->tsc = rdtsc_ordered();
	return 0;
}

/* kvm_mtrr_set_msr(vcpu, msr, data); a nonzero return is "do not measure". */
static int set_msr_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	return (u32)regs->si == MSR_IA32_CR_PAT ? 1 : begin_call(ri);
}

/* kvm_set_cr0(vcpu, cr0) */
static int set_cr0_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct kvm_vcpu *vcpu = (void *)regs->di;

	return (vcpu->arch.cr0 ^ regs->si) & X86_CR0_CD ? begin_call(ri) : 1;
}

static int call_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct call_data *data = (void *)ri->data;
	u64 elapsed = rdtsc_ordered() - data->tsc;
	u64 others = mul_u64_u32_div(current->sched_info.run_delay - data->run_delay,
				     tsc_khz, USEC_PER_SEC);

	atomic64_add(elapsed, &counts.elapsed);
	atomic64_add(elapsed > others ? elapsed - others : 0, &counts.cycles);
	atomic64_inc(&counts.calls);
	return 0;
}

static s64 leaves_of(struct kvm *kvm)
{
	s64 sum = 0;
	int i;

	for (i = 0; i < KVM_NR_PAGE_SIZES; i++)
		sum += atomic64_read(&kvm->stat.pages[i]);
	return sum;
}

/*
 * Of the VM that is measured, one at a time; protected by its mmu_lock, held for
 * write.  A walk drops the lock now and then, and others begin or go on meanwhile.
 * As long as there are any, faults that would map are held off: what the VM has
 * less when the last ends is what all of them have dropped.
 */
static struct {
	unsigned int nr;
	s64 leaves;
} walkers;

/*
 * kvm_tdp_mmu_zap_leafs(kvm, start, end, flush).  KVM also zaps the local APIC's
 * frame by itself, when it stops to emulate it in hardware.
 */
static int walk_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct kvm **kvm = (void *)ri->data;
	u64 end = min_t(u64, regs->dx, 1ULL << (boot_cpu_data.x86_phys_bits - 12));

	if (regs->si == APIC_GFN && regs->dx == APIC_GFN + 1)
		return 1;
	*kvm = (void *)regs->di;
	if (!walkers.nr++)
		walkers.leaves = leaves_of(*kvm);
	atomic64_add(end > regs->si ? end - regs->si : 0, &counts.gfns);
	atomic64_inc(&counts.zaps);
	return 0;
}

static int walk_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct kvm **kvm = (void *)ri->data;

	if (!--walkers.nr)
		atomic64_add(walkers.leaves - leaves_of(*kvm), &counts.sptes);
	return 0;
}

/* As many may be in one of these at a time, asleep or waiting for mmu_lock. */
#define MAX_ACTIVE 128

static struct kretprobe set_msr_probe = {
	.kp.symbol_name = "kvm_mtrr_set_msr",
	.entry_handler = set_msr_entry, .handler = call_return,
	.data_size = sizeof(struct call_data), .maxactive = MAX_ACTIVE,
};

static struct kretprobe set_cr0_probe = {
	.kp.symbol_name = "kvm_set_cr0",
	.entry_handler = set_cr0_entry, .handler = call_return,
	.data_size = sizeof(struct call_data), .maxactive = MAX_ACTIVE,
};

static struct kretprobe walk_probe = {
	.kp.symbol_name = "kvm_tdp_mmu_zap_leafs",
	.entry_handler = walk_entry, .handler = walk_return,
	.data_size = sizeof(struct kvm *), .maxactive = MAX_ACTIVE,
};

static struct kretprobe *probes[] = { &set_msr_probe, &set_cr0_probe, &walk_probe };

struct leaf_walk {
	struct mtrr_lab_run *run;
	u32 nr;
	u32 max;
};

static int add_leaf(struct leaf_walk *walk, u64 gfn, u64 spte, int level)
{
	struct mtrr_lab_run *last = walk->nr ? &walk->run[walk->nr - 1] : NULL;
	struct mtrr_lab_run leaf = {
		.start = gfn, .end = gfn + KVM_PAGES_PER_HPAGE(level),
		.type = (spte >> 3) & 7, .ipat = (spte >> 6) & 1, .level = level,
	};

	if (last && last->end == leaf.start && last->type == leaf.type &&
	    last->ipat == leaf.ipat && last->level == leaf.level) {
		last->end = leaf.end;
		return 0;
	}
	if (walk->nr == walk->max)
		return -ENOSPC;
	walk->run[walk->nr++] = leaf;
	return 0;
}

/* Goes five levels deep at most. */
static int walk_table(struct leaf_walk *walk, u64 hpa, u64 gfn, int level)
{
	u64 *table = __va(hpa);
	int i, r;

	for (i = 0; i < PTRS_PER_PTE; i++) {
		u64 spte = READ_ONCE(table[i]);
		u64 at = gfn + i * KVM_PAGES_PER_HPAGE(level);

		if (!(spte & SPTE_PRESENT))
			continue;
		if (level == PG_LEVEL_4K || (spte & SPTE_HUGE))
			r = add_leaf(walk, at, spte, level);
		else
			r = walk_table(walk, spte & SPTE_ADDRESS, at, level - 1);
		if (r)
			return r;
	}
	return 0;
}

/* Most vCPUs share a root, which is walked for the first of them. */
static bool root_is_new(struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu *other;
	unsigned long i;

	if (!VALID_PAGE(vcpu->arch.mmu->root.hpa))
		return false;
	kvm_for_each_vcpu(i, other, kvm) {
		if (other == vcpu)
			return true;
		if (other->arch.mmu->root.hpa == vcpu->arch.mmu->root.hpa)
			return false;
	}
	return true;
}

static int walk_roots(struct kvm *kvm, struct leaf_walk *walk)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int r = 0;

	read_lock(&kvm->mmu_lock);
	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (root_is_new(kvm, vcpu))
			r = walk_table(walk, vcpu->arch.mmu->root.hpa, 0,
				       vcpu->arch.mmu->root_role.level);
		if (r)
			break;
	}
	read_unlock(&kvm->mmu_lock);
	return r;
}

static long lab_leaves(struct kvm *kvm, void *opaque)
{
	const struct mtrr_lab_leaves *args = opaque;
	struct leaf_walk walk = { .max = min_t(u32, args->max, MAX_RUNS) };
	long r;

	walk.run = vzalloc(array_size(walk.max, sizeof(*walk.run)));
	if (!walk.run)
		return -ENOMEM;
	r = walk_roots(kvm, &walk);
	if (!r)
		r = walk.nr;
	if (copy_to_user(u64_to_user_ptr(args->runs), walk.run,
			 walk.nr * sizeof(*walk.run)))
		r = -EFAULT;
	vfree(walk.run);
	return r;
}

static long lab_state(struct kvm *kvm, void *opaque)
{
	struct mtrr_lab_state *state = opaque;
	struct kvm_vcpu *vcpu = kvm_get_vcpu(kvm, state->vcpu);
	const struct kvm_mtrr *mtrr;
	int i;

	if (!vcpu)
		return -ENOENT;
	mtrr = &vcpu->arch.mtrr_state;
	BUILD_BUG_ON(KVM_NR_VAR_MTRR != MTRR_LAB_NR_VAR);
	BUILD_BUG_ON(sizeof(mtrr->fixed_ranges) != sizeof(state->fixed));
	for (i = 0; i < KVM_NR_VAR_MTRR; i++) {
		state->base[i] = mtrr->var_ranges[i].base;
		state->mask[i] = mtrr->var_ranges[i].mask;
	}
	memcpy(state->fixed, mtrr->fixed_ranges, sizeof(state->fixed));
	state->deftype = mtrr->deftype;
	state->cd = !!(vcpu->arch.cr0 & X86_CR0_CD);
	return 0;
}

static long lab_counts(void __user *to)
{
	struct mtrr_lab_counts now = {
		.calls = atomic64_read(&counts.calls),
		.cycles = atomic64_read(&counts.cycles),
		.elapsed = atomic64_read(&counts.elapsed),
		.zaps = atomic64_read(&counts.zaps),
		.gfns = atomic64_read(&counts.gfns),
		.sptes = atomic64_read(&counts.sptes),
	};

	return copy_to_user(to, &now, sizeof(now)) ? -EFAULT : 0;
}

static long state_ioctl(void __user *user)
{
	struct mtrr_lab_state state;
	long r;

	if (copy_from_user(&state, user, sizeof(state)))
		return -EFAULT;
	r = with_vm(state.vm, lab_state, &state);
	if (!r && copy_to_user(user, &state, sizeof(state)))
		r = -EFAULT;
	return r;
}

static long leaves_ioctl(void __user *user)
{
	struct mtrr_lab_leaves args;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	return with_vm(args.vm, lab_leaves, &args);
}

static long lab_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	switch (command) {
	case MTRR_LAB_DMA_START:
		return with_vm(arg, dma_start, NULL);
	case MTRR_LAB_DMA_STOP:
		return with_vm(arg, dma_stop, NULL);
	case MTRR_LAB_RESET:
		memset(&counts, 0, sizeof(counts));
		return 0;
	case MTRR_LAB_COUNTS:
		return lab_counts((void __user *)arg);
	case MTRR_LAB_STATE:
		return state_ioctl((void __user *)arg);
	case MTRR_LAB_LEAVES:
		return leaves_ioctl((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations lab_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = lab_ioctl,
};

static struct miscdevice lab_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mtrr-lab",
	.fops = &lab_fops,
};

static int __init lab_init(void)
{
	int r = register_kretprobes(probes, ARRAY_SIZE(probes));

	if (r)
		return r;
	r = misc_register(&lab_device);
	if (r) {
		unregister_kretprobes(probes, ARRAY_SIZE(probes));
		return r;
	}
	if (honor && !*(u64 *)honor) {
		*(u64 *)honor = 1;
		honored = true;
	}
	return 0;
}

static void __exit lab_exit(void)
{
	if (honored)
		*(u64 *)honor = 0;
	misc_deregister(&lab_device);
	unregister_kretprobes(probes, ARRAY_SIZE(probes));
}

module_init(lab_init);
module_exit(lab_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Non-coherent DMA without a device, for tests");
