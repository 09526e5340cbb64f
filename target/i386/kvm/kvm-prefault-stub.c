/*
 * KVM pre-fault: a few instructions that touch guest memory
 *
 * 32-bit code under PAE paging, which every CPU with second-level page tables
 * executes and which reaches all physical addresses through 2 MiB pages.  Code
 * and tables take 16 KiB; a window of linear addresses per vCPU shows the
 * memory that it works on:
 *
 *   page 0   code, page directory pointer tables
 *   page 1   page directory for 3-4 GiB: the code, at its physical address
 *   page 2   page directory for 1-2 GiB: windows 0 to 15
 *   page 3   page directory for 2-3 GiB: windows 16 to 31
 *
 * Copyright (c) 2026 The qemu-prefault developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "exec/target_page.h"
#include "kvm-prefault-stub.h"

#define STUB_SIZE         (16 * KiB)
#define STUB_PAGE         (4 * KiB)
#define PDPT_OFFSET       0x800
#define PDPT_SIZE         32
#define LARGE_PAGE        (2 * MiB)
#define FIRST_WINDOW      (1 * GiB)
#define ENTRIES_PER_WINDOW (KVM_PREFAULT_STUB_WINDOW_SIZE / LARGE_PAGE)

/* Present, nothing else: the other low bits are reserved in this table */
#define PDPTE_FLAGS       0x001
/*
 * Present, writable, large; accessed and dirty, so that the CPU has nothing
 * to write to the tables.
 */
#define PDE_FLAGS         0x0e3

static MemoryRegion *stub_region;
static uint64_t stub_gpa;
static uint32_t windows_used;

/* Both variants flush the TLB first: the window may have been moved */
static const uint8_t code_write[] = {
    0x0f, 0x20, 0xd8,                   /*    mov  %cr3, %eax        */
    0x0f, 0x22, 0xd8,                   /*    mov  %eax, %cr3        */
    0xf0, 0x83, 0x0f, 0x00,             /* 1: lock orl $0, (%edi)    */
    0x01, 0xd7,                         /*    add  %edx, %edi        */
    0x39, 0xf7,                         /*    cmp  %esi, %edi        */
    0x72, 0xf6,                         /*    jb   1b                */
    0xe6, KVM_PREFAULT_STUB_PORT,       /* 2: out  %al, $port        */
    0xeb, 0xfc,                         /*    jmp  2b                */
};

static const uint8_t code_read[] = {
    0x0f, 0x20, 0xd8,                   /*    mov  %cr3, %eax        */
    0x0f, 0x22, 0xd8,                   /*    mov  %eax, %cr3        */
    0x8b, 0x07,                         /* 1: mov  (%edi), %eax      */
    0x01, 0xd7,                         /*    add  %edx, %edi        */
    0x39, 0xf7,                         /*    cmp  %esi, %edi        */
    0x72, 0xf8,                         /*    jb   1b                */
    0xe6, KVM_PREFAULT_STUB_PORT,       /* 2: out  %al, $port        */
    0xeb, 0xfc,                         /*    jmp  2b                */
};

#define CODE_READ_OFFSET 0x40

QEMU_BUILD_BUG_ON(sizeof(code_write) > CODE_READ_OFFSET);
QEMU_BUILD_BUG_ON(PDPT_OFFSET + KVM_PREFAULT_STUB_WINDOWS * PDPT_SIZE >
                  STUB_PAGE);

static char *stub_host(void)
{
    return memory_region_get_ram_ptr(stub_region);
}

bool kvm_prefault_stub_create(uint64_t gpa, Error **errp)
{
    MemoryRegion *mr = g_new0(MemoryRegion, 1);

    /* not migrated: its content means nothing outside a pass */
    if (!memory_region_init_ram_nomigrate(mr, NULL, "kvm-prefault-stub",
                                          STUB_SIZE, errp)) {
        g_free(mr);
        return false;
    }
    stub_region = mr;
    stub_gpa = gpa;
    memory_region_add_subregion_overlap(get_system_memory(), gpa, mr, 1);
    return true;
}

static uint64_t *directory(int page)
{
    return (uint64_t *)(stub_host() + page * STUB_PAGE);
}

static void write_stub(void)
{
    char *host = stub_host();

    memset(host, 0, STUB_SIZE);
    memcpy(host, code_write, sizeof(code_write));
    memcpy(host + CODE_READ_OFFSET, code_read, sizeof(code_read));
    directory(1)[(stub_gpa % GiB) / LARGE_PAGE] =
        cpu_to_le64(QEMU_ALIGN_DOWN(stub_gpa, LARGE_PAGE) | PDE_FLAGS);
}

/*
 * Each vCPU has a table of its own, written before KVM reads it: a host that
 * QEMU's TCG emulates sets the accessed bit in it.  That bit is reserved, so
 * KVM would not take the table from then on, and inject #PF into the stub.
 */
static void write_pdpt(int window)
{
    uint64_t *pdpt = (uint64_t *)(stub_host() + PDPT_OFFSET +
                                  window * PDPT_SIZE);

    pdpt[1] = cpu_to_le64((stub_gpa + 2 * STUB_PAGE) | PDPTE_FLAGS);
    pdpt[2] = cpu_to_le64((stub_gpa + 3 * STUB_PAGE) | PDPTE_FLAGS);
    pdpt[3] = cpu_to_le64((stub_gpa + STUB_PAGE) | PDPTE_FLAGS);
}

int kvm_prefault_stub_get(void)
{
    int window = ctz32(~windows_used);

    if (window >= KVM_PREFAULT_STUB_WINDOWS) {
        return -EBUSY;
    }
    if (!windows_used) {
        write_stub();
    }
    write_pdpt(window);
    windows_used |= 1u << window;
    return window;
}

void kvm_prefault_stub_put(int window)
{
    windows_used &= ~(1u << window);
    if (!windows_used) {
        memset(stub_host(), 0, STUB_SIZE);
    }
}

uint32_t kvm_prefault_stub_aim(int window, uint64_t gpa)
{
    unsigned first = window * ENTRIES_PER_WINDOW;
    uint64_t *pde = directory(2 + first / 512) + first % 512;
    uint64_t block = QEMU_ALIGN_DOWN(gpa, KVM_PREFAULT_STUB_WINDOW_SIZE);
    unsigned i;

    for (i = 0; i < ENTRIES_PER_WINDOW; i++) {
        pde[i] = cpu_to_le64((block + i * LARGE_PAGE) | PDE_FLAGS);
    }
    return FIRST_WINDOW + window * KVM_PREFAULT_STUB_WINDOW_SIZE +
           (gpa - block);
}

uint32_t kvm_prefault_stub_cr3(int window)
{
    return stub_gpa + PDPT_OFFSET + window * PDPT_SIZE;
}

uint32_t kvm_prefault_stub_entry(bool write)
{
    return stub_gpa + (write ? 0 : CODE_READ_OFFSET);
}

bool kvm_prefault_stub_contains(uint64_t rip)
{
    return rip >= stub_gpa && rip < stub_gpa + PDPT_OFFSET;
}
