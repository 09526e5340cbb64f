/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the lab's modules share: non-coherent DMA of a VM, without a device
 *
 * VFIO tells KVM of it when a device is attached that bypasses caches, see
 * kvm_vfio_update_coherency().
 */
#ifndef NONCOHERENT_DMA_H
#define NONCOHERENT_DMA_H

#include <linux/file.h>
#include <linux/kvm_host.h>

/* The file is held during the command, so the VM stays. */
static long with_vm(int fd, long (*command)(struct kvm *kvm, void *args), void *args)
{
	struct file *file = fget(fd);
	long r = -EINVAL;

	if (!file)
		return -EBADF;
	if (file_is_kvm(file))
		r = command(file->private_data, args);
	fput(file);
	return r;
}

static long dma_start(struct kvm *kvm, void *unused)
{
	kvm_arch_register_noncoherent_dma(kvm);
	return 0;
}

/* KVM does not check that there has been a start. */
static long dma_stop(struct kvm *kvm, void *unused)
{
	if (!kvm_arch_has_noncoherent_dma(kvm))
		return -EINVAL;
	kvm_arch_unregister_noncoherent_dma(kvm);
	return 0;
}

#endif /* NONCOHERENT_DMA_H */
