// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For the lab only: non-coherent DMA without a device
 *
 * For kernels on which guest MTRRs change nothing: there is no more to it than that
 * KVM zaps once when such DMA starts or stops.  mtrr-lab.c is for the others.
 */

#include <linux/miscdevice.h>
#include <linux/module.h>

#include "mtrr-lab.h"
#include "noncoherent-dma.h"

/*
 * KVM zaps because it is to honor the guest's PAT from then on, or no longer.  NPT
 * always does, so the quirk of not doing it is off there: it is switched on, and
 * KVM does all the work that it does for EPT.
 */
static long honor_and_start(struct kvm *kvm, void *unused)
{
	kvm->arch.disabled_quirks &= ~(u64)KVM_X86_QUIRK_IGNORE_GUEST_PAT;
	return dma_start(kvm, unused);
}

static long lab_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	switch (command) {
	case MTRR_LAB_DMA_START:
		return with_vm(arg, honor_and_start, NULL);
	case MTRR_LAB_DMA_STOP:
		return with_vm(arg, dma_stop, NULL);
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
	.name = "dma-lab",
	.fops = &lab_fops,
};

static int __init lab_init(void)
{
	return misc_register(&lab_device);
}

static void __exit lab_exit(void)
{
	misc_deregister(&lab_device);
}

module_init(lab_init);
module_exit(lab_exit);
MODULE_DESCRIPTION("Non-coherent DMA of a VM, for tests");
MODULE_LICENSE("GPL");
