/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VM on raw /dev/kvm whose vCPUs touch memory and write MTRRs
 *
 * vCPUs start as after reset: CR0.CD set, MTRRs disabled.  They run in protected
 * mode without paging and interrupts.  Each has a page of its own that says what
 * to do, and in each page of touched memory a word of its own that it increments.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mtrr.h"

/* Private numbers of patches/kvm; the build host's headers do not have them */
#define CAP_MTRR_ZAP    0x4b570002

#define CODE            0x1000
#define BLOCKS          0x10000
#define CR0_RESET_PE    0x60000011
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/*
 * esi: the block, edi: the vCPU's number; see struct block for the offsets.
 * CD=0 with NW=1 is not allowed, so NW goes with the first toggle.
 */
__asm__(
    ".pushsection .rodata\n"
    ".code32\n"
    "guest_start:\n"
    "    movl 4(%esi), %ebx\n"
    "1:  cmpl 8(%esi), %ebx\n"
    "    jae 2f\n"
    "    incl (%ebx,%edi,4)\n"
    "    addl $4096, %ebx\n"
    "    jmp 1b\n"
    "2:  incl 12(%esi)\n"
    "    leal 32(%esi), %ebp\n"
    "3:  cmpl 16(%esi), %ebp\n"
    "    jae 6f\n"
    "    movl 0(%ebp), %ecx\n"
    "    testl %ecx, %ecx\n"
    "    jnz 4f\n"
    "    movl %cr0, %eax\n"
    "    xorl $0x40000000, %eax\n"
    "    andl $0xdfffffff, %eax\n"
    "    movl %eax, %cr0\n"
    "    jmp 5f\n"
    "4:  movl 4(%ebp), %eax\n"
    "    movl 8(%ebp), %edx\n"
    "    wrmsr\n"
    "5:  addl $16, %ebp\n"
    "    jmp 3b\n"
    "6:  cmpl $0, 20(%esi)\n"
    "    jne guest_start\n"
    "    outb %al, $0x10\n"
    "    jmp guest_start\n"
    "guest_end:\n"
    ".code64\n"
    ".popsection\n");
extern const char guest_start[], guest_end[];

_Static_assert(offsetof(struct block, loops) == 12 &&
               offsetof(struct block, ops_end) == 16 &&
               offsetof(struct block, forever) == 20 &&
               offsetof(struct block, ops) == 32, "as the guest's code has it");

void die(const char *format, ...)
{
    int error = errno;
    va_list ap;

    fflush(stdout);
    va_start(ap, format);
    fputs("mtrr: ", stderr);
    vfprintf(stderr, format, ap);
    va_end(ap);
    if (error) {
        fprintf(stderr, ": %s", strerror(error));
    }
    fputc('\n', stderr);
    exit(1);
}

static void choose_mode(int vm_fd, const char *mode)
{
    static const char *const names[] = { "full", "range", "none" };
    struct kvm_enable_cap cap = { .cap = CAP_MTRR_ZAP };

    if (!strcmp(mode, "stock")) {
        return;
    }
    while (strcmp(names[cap.args[0]], mode)) {
        if (++cap.args[0] == 3) {
            errno = 0;
            die("mode '%s', must be stock, full, range or none", mode);
        }
    }
    if (ioctl(vm_fd, KVM_ENABLE_CAP, &cap)) {
        die("KVM_CAP_MTRR_ZAP, mode '%s'", mode);
    }
}

/* All of it is populated: the host's own page faults are not what is measured */
static void make_memory(struct vm *vm)
{
    const uint64_t align = 2 << 20;
    uint8_t *mem = mmap(NULL, vm->size + align, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct kvm_userspace_memory_region slot = { .memory_size = vm->size };

    if (mem == MAP_FAILED) {
        die("mmap of %llu MiB", (unsigned long long)vm->size >> 20);
    }
    vm->mem = mem + (-(uintptr_t)mem & (align - 1));
    if (madvise(vm->mem, vm->size, MADV_POPULATE_WRITE)) {
        die("population of %llu MiB", (unsigned long long)vm->size >> 20);
    }
    slot.userspace_addr = (uintptr_t)vm->mem;
    if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot)) {
        die("KVM_SET_USER_MEMORY_REGION");
    }
    memcpy(vm->mem + CODE, guest_start, guest_end - guest_start);
}

/* Blocks until the guest is through, which it says by an I/O exit */
static void run_block(struct vcpu *vcpu)
{
    for (;;) {
        if (ioctl(vcpu->fd, KVM_RUN, 0)) {
            if (errno != EINTR && errno != EAGAIN) {
                die("KVM_RUN");
            }
        } else if (vcpu->run->exit_reason == KVM_EXIT_IO) {
            return;
        } else {
            errno = 0;
            die("vCPU %d: exit reason %u", (int)(vcpu - vcpu->vm->vcpu),
                vcpu->run->exit_reason);
        }
    }
}

static void *vcpu_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;

    for (;;) {
        sem_wait(&vcpu->go);
        run_block(vcpu);
        sem_post(&vcpu->done);
    }
    return NULL;
}

void vcpu_go(struct vcpu *vcpu)
{
    sem_post(&vcpu->go);
}

void vcpu_wait(struct vcpu *vcpu)
{
    while (sem_wait(&vcpu->done)) {
        /* a signal */
    }
}

void vm_run_all(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nr; i++) {
        vcpu_go(&vm->vcpu[i]);
    }
    for (unsigned i = 0; i < vm->nr; i++) {
        vcpu_wait(&vm->vcpu[i]);
    }
}

static void set_registers(struct vcpu *vcpu, unsigned index)
{
    const struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1,
        .db = 1, .s = 1, .g = 1,
    };
    /*
     * Interrupts on: nobody sends any, but Bochs 2.7 takes those of the host only
     * when it sees the flag change.  KVM enters with it clear, and a vCPU that has
     * it clear as well, and no faults, would run on forever.
     */
    struct kvm_regs regs = {
        .rip = CODE, .rflags = 0x202, .rdi = index, .rsi = BLOCKS + index * PAGE,
    };
    struct kvm_segment data = code;
    struct kvm_sregs sregs;

    data.selector = 16;
    data.type = 3;
    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs)) {
        die("KVM_GET_SREGS");
    }
    sregs.cr0 = CR0_RESET_PE;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) ||
        ioctl(vcpu->fd, KVM_SET_REGS, &regs)) {
        die("registers of vCPU %u", index);
    }
}

static struct kvm_cpuid2 *supported_cpuid(int kvm, unsigned *address_bits)
{
    const int max = 256;
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) +
                                      max * sizeof(cpuid->entries[0]));

    cpuid->nent = max;
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid)) {
        die("KVM_GET_SUPPORTED_CPUID");
    }
    *address_bits = 36;
    for (unsigned i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == 0x80000008) {
            *address_bits = cpuid->entries[i].eax & 0xff;
        }
    }
    return cpuid;
}

static void make_vcpu(struct vm *vm, unsigned index, int run_size,
                      struct kvm_cpuid2 *cpuid)
{
    struct vcpu *vcpu = &vm->vcpu[index];
    pthread_t thread;

    vcpu->vm = vm;
    vcpu->block = (struct block *)(vm->mem + BLOCKS + index * PAGE);
    block_clear_ops(vcpu);
    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (long)index);
    if (vcpu->fd < 0) {
        die("KVM_CREATE_VCPU %u", index);
    }
    vcpu->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                     vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED || ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid)) {
        die("vCPU %u", index);
    }
    set_registers(vcpu, index);
    if (sem_init(&vcpu->go, 0, 0) || sem_init(&vcpu->done, 0, 0) ||
        pthread_create(&thread, NULL, vcpu_thread, vcpu)) {
        die("thread of vCPU %u", index);
    }
}

void vm_create(struct vm *vm, const char *mode, unsigned vcpus, unsigned mib)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), run_size;
    struct kvm_cpuid2 *cpuid;

    errno = kvm < 0 ? errno : 0;
    if (kvm < 0 || !vcpus || vcpus > MAX_VCPUS || mib < 2 || mib > 3072) {
        die("%u vCPUs (1 to %d), %u MiB (2 to 3072), /dev/kvm", vcpus,
            MAX_VCPUS, mib);
    }
    vm->nr = vcpus;
    vm->size = (uint64_t)mib << 20;
    vm->lab = lab_open();
    vm->fd = ioctl(kvm, KVM_CREATE_VM, 0);
    run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vm->fd < 0 || run_size < 0) {
        die("KVM_CREATE_VM");
    }
    choose_mode(vm->fd, mode);
    if (ioctl(vm->lab, MTRR_LAB_DMA_START, vm->fd)) {
        die("MTRR_LAB_DMA_START");
    }
    make_memory(vm);
    cpuid = supported_cpuid(kvm, &vm->address_bits);
    for (unsigned i = 0; i < vcpus; i++) {
        make_vcpu(vm, i, run_size, cpuid);
    }
    free(cpuid);
}

void block_touch(struct vcpu *vcpu, uint64_t start, uint64_t end)
{
    vcpu->block->start = start;
    vcpu->block->end = end;
}

void block_clear_ops(struct vcpu *vcpu)
{
    unsigned index = vcpu - vcpu->vm->vcpu;

    vcpu->block->ops_end = BLOCKS + index * PAGE + offsetof(struct block, ops);
}

void block_op(struct vcpu *vcpu, uint32_t msr, uint64_t value)
{
    unsigned used = vcpu->block->ops_end % PAGE - offsetof(struct block, ops);
    struct op *op = &vcpu->block->ops[used / sizeof(*op)];

    if (op == vcpu->block->ops + MAX_OPS - 1) {
        errno = 0;
        die("more than %d operations in one run", MAX_OPS - 1);
    }
    *op = (struct op) { .msr = msr, .low = value, .high = value >> 32 };
    vcpu->block->ops_end += sizeof(*op);
}
