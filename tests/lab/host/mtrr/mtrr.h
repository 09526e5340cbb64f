/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guest MTRRs under raw /dev/kvm: VMs of our own, and other processes' VMs. */
#ifndef LAB_MTRR_H
#define LAB_MTRR_H

#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "mtrr-lab.h"
/* The model is the one that tests the kernel's range computation. */
#include "mtrr-model.h"

#define PAGE            4096
#define MAX_VCPUS       33
/* Guest memory below is for code and blocks; from here on it is touched. */
#define TOUCH_START     0xa0000

/* What guest code does in a run; its offsets are known to the code in vm.c. */
struct op {
    uint32_t msr;               /* 0: toggle CR0.CD instead */
    uint32_t low;
    uint32_t high;
    uint32_t unused;
};

#define MAX_OPS ((PAGE - 32) / (int)sizeof(struct op))

struct block {
    uint32_t unused;
    uint32_t start;             /* of the memory to touch */
    uint32_t end;
    uint32_t loops;             /* how often it has been touched */
    uint32_t ops_end;           /* guest address behind the last op */
    uint32_t forever;           /* start again, until the host clears this */
    uint32_t unused2[2];
    struct op ops[MAX_OPS];
};

struct vm;

struct vcpu {
    struct vm *vm;
    int fd;
    struct kvm_run *run;
    struct block *block;
    sem_t go, done;
};

struct vm {
    int fd;
    int lab;                    /* /dev/mtrr-lab */
    unsigned nr;
    uint8_t *mem;
    uint64_t size;
    unsigned address_bits;
    struct vcpu vcpu[MAX_VCPUS];
};

/* vm.c */
void die(const char *format, ...)
    __attribute__((noreturn, format(printf, 1, 2)));
/* mode: stock (do not ask for one), full, range or none. DMA has been started */
void vm_create(struct vm *vm, const char *mode, unsigned vcpus, unsigned mib);
/* Let a vCPU run its block until it is through, and wait for that */
void vcpu_go(struct vcpu *vcpu);
void vcpu_wait(struct vcpu *vcpu);
void vm_run_all(struct vm *vm);
/* What the next run is about; ops follow with block_op() */
void block_touch(struct vcpu *vcpu, uint64_t start, uint64_t end);
void block_op(struct vcpu *vcpu, uint32_t msr, uint64_t value);
void block_clear_ops(struct vcpu *vcpu);
/* Print the VM's statistics of zaps, and of pages mapped, as JSON members */
void vm_print_stats(struct vm *vm);

/* leaves.c */
struct leaf_check {
    uint64_t leaves;            /* in frames of 4 KiB */
    uint64_t huge;              /* of these in larger pages */
    uint64_t wrong;
    uint64_t types[8];
    uint64_t ipat;
    char sample[160];           /* the first that is wrong */
};

int lab_open(void);
void lab_reset(int lab);
/* As JSON members */
void lab_print_counts(int lab);
/*
 * Add every leaf of the VM, whose vCPUs are not running, to the check: its type
 * must be that of the state or, if MTRRs are to be ignored, WB
 */
void check_leaves(int lab, int vm_fd, const struct mtrr_ranges_state *state,
                  bool ignore_mtrrs, struct leaf_check *check);
void print_check(const struct leaf_check *check);

/* state.c */
/* address_bits: of guest physical addresses */
void state_random(struct mtrr_ranges_state *state, uint64_t memory,
                  unsigned address_bits);
void state_firmware(struct mtrr_ranges_state *state, unsigned address_bits);
/* Append the MSR writes that make the state; random order if shuffled */
void state_write(struct vcpu *vcpu, const struct mtrr_ranges_state *state,
                 bool shuffled);
uint32_t random_below(uint32_t limit);
void random_seed(uint64_t seed);

/* attach.c: VMs of other processes */
void attach_dma(int pid, bool start);
int attach_check(int pid, bool ignore_mtrrs);

/* commands.c */
int command_burst(const char *mode, unsigned vcpus, unsigned mib,
                  unsigned passes);
int command_verify(const char *mode, unsigned vcpus, unsigned mib,
                   unsigned rounds, uint64_t seed);
int command_stress(const char *mode, unsigned vcpus, unsigned mib,
                   unsigned seconds, uint64_t seed);

#endif /* LAB_MTRR_H */
