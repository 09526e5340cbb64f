/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that is a hypervisor, in place of firmware and system.
 *
 * It enables VMX or SVM, whichever the CPU has, and from then on executes such
 * instructions in each round of its loop: they work only as long as the CPU is where the
 * guest has put it.  What does not is written down, and the guest halts.  It never runs a
 * guest of its own.
 *
 * agent/hypervisorguest.py reads the mailbox, and asks for more by keys:
 *   f  write to the flash that this program came in: a slot goes and comes back
 *   p  switch the memory at 0xc0000 to RAM, use it, and back (PAM)
 *   t  touch all RAM below 4 GiB    d  touch the DIMM at 4 GiB
 *   v  leave VMX operation, or turn SVM off, and enter it again
 *
 * The chapters are those of Intel's SDM, volume 3C, and of AMD's APM, volume 2.
 */

#define LOAD            0x10000         /* where in RAM the program runs */
#define SIZE            0x10000
#define ROM_SEGMENT     0xf000          /* its last 64 KiB below 1 MiB are in flash at reset */

/* RAM besides; the mailbox is in agent/hypervisorguest.py as well. */
#define MAILBOX         0x500
#define ROUNDS          (MAILBOX + 0)
#define ERROR           (MAILBOX + 4)
#define ERROR_AT        (MAILBOX + 8)
#define ERROR_ROUND     (MAILBOX + 12)
#define OPERATION       (MAILBOX + 16)
#define ACTIONS         (MAILBOX + 20)
#define LIVES           (MAILBOX + 24)
#define IDT             0x20000
#define PAGE_DIRECTORY  0x21000
#define VMXON_REGION    0x22000
#define VMCS            0x23000
#define HOST_SAVE_AREA  0x24000
#define VMCB            0x25000
#define STACK           0x2f000

/* Values of OPERATION */
#define VMX             1
#define SVM             2

/* Values of ERROR; 0x100 and more: an exception, with its vector */
#define NO_HYPERVISOR   1
#define VMX_LOCKED      2
#define VMX_FAILED      3
#define OTHER_VMCS      4
#define OTHER_FIELD     5
#define NO_VMXE         6
#define NO_SVME         7
#define OTHER_HSAVE     8
#define OTHER_STATE     9
#define FLASH_LOST      10
#define RAM_LOST        11
#define EXCEPTION       0x100

#define CODE            0x08
#define DATA            0x10
#define VECTORS         32

#define CR0_PE          (1 << 0)
#define CR0_NE          (1 << 5)
#define CR0_NW_CD       (3 << 29)
#define CR0_PG          (1 << 31)
#define CR4_PSE         (1 << 4)
#define CR4_VMXE        (1 << 13)
#define PDE_4M          0x83            /* present, writable, 4 MiB */
#define PDE_ABOVE_4G    (1 << 13)       /* PSE-36: bit 32 of the address */

#define MSR_FEATURE_CONTROL     0x3a
#define FEATURE_LOCK            (1 << 0)
#define FEATURE_VMXON           (1 << 2)
#define MSR_VMX_BASIC           0x480
#define FIELD_GUEST_RIP         0x681e
#define FIELD_HOST_RIP          0x6c16

#define MSR_EFER                0xc0000080
#define EFER_SVME               (1 << 12)
#define MSR_STAR                0xc0000081
#define MSR_VM_HSAVE_PA         0xc0010117
#define VMCB_STAR               0x600
#define STAR_MARK               0x51a51a00

#define FLASH_BYTE      0x8000          /* nothing else is there */
#define FLASH           (0xffff0000 + FLASH_BYTE)
#define FLASH_PROGRAM   0x40
#define FLASH_READ      0xff
#define FLASH_READY     0x80
#define DIMM_WINDOW     0x80000000      /* virtual; 4 GiB and on */
#define DIMM_SIZE       0x08000000
#define OPTION_ROM      0xc0000
#define PCI_ADDRESS     0xcf8
#define PCI_DATA        0xcfc
#define HOST_BRIDGE     0x80000000      /* bus 0, device 0, function 0 */
#define ID_I440FX       0x12378086
#define PAM_I440FX      (HOST_BRIDGE + 0x58)
#define PAM_Q35         (HOST_BRIDGE + 0x90)
#define PAM_RAM         0x33            /* readable and writable */

/* The next instruction runs only if the condition holds, else the guest is over. */
.macro must condition, otherwise
    j\condition .Lgood\@
    movl $\otherwise, %eax
    call failed
.Lgood\@:
.endm

/* SDM 31.2 "Conventions": a VMX instruction that fails sets CF or ZF. */
.macro vmx instruction:vararg
    \instruction
    must a, VMX_FAILED
.endm

    .text
    .globl _start
    .code16
image:
_start:                         /* from flash, in segment ROM_SEGMENT */
    cli
    cld
    movw $ROM_SEGMENT, %ax
    movw %ax, %ds
    movw $(LOAD >> 4), %ax
    movw %ax, %es
    xorw %si, %si
    xorw %di, %di
    movw $(SIZE / 4), %cx
    rep movsl                   /* into RAM: flash cannot be run from while it is written */
    ljmp $(LOAD >> 4), $(1f - image)
1:  movw %ax, %ds
    lgdtl gdt_pointer - image
    movl %cr0, %eax
    orb $CR0_PE, %al
    movl %eax, %cr0
    ljmpl $CODE, $protected

    .code32
protected:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    incl LIVES
    movl $MAILBOX, %edi
    movl $((LIVES - MAILBOX) / 4), %ecx
    xorl %eax, %eax
    rep stosl
    call set_up_exceptions
    call set_up_paging
    call set_up_hypervisor      /* leaves the check of a round in %ebp */

/* Each round leaves the guest for QEMU at least once, by the keyboard's port. */
round:
    call *%ebp
    incl ROUNDS
    inb $0x64, %al
    testb $1, %al
    jz round
    inb $0x60, %al
    movl $keys, %esi
2:  cmpl $0, (%esi)
    je round                    /* some other key */
    cmpb %al, (%esi)
    leal 8(%esi), %esi
    jne 2b
    call *-4(%esi)
    incl ACTIONS
    jmp round

keys:                           /* scan code set 2, which the keyboard has after reset */
    .long 0x2b, write_flash
    .long 0x4d, switch_pam
    .long 0x2c, touch_ram
    .long 0x23, touch_dimm
    .long 0x2a, enter_again
    .long 0

/* Does not return: %eax is what is wrong, the return address where. */
failed:
    popl ERROR_AT
    movl ROUNDS, %ecx
    movl %ecx, ERROR_ROUND
    movl %eax, ERROR            /* last: the agent reads the rest when this is set */
3:  cli
    hlt
    jmp 3b

/* Exceptions ***********************************************************************/

    .balign 16
stubs:
    .set vector, 0
    .rept VECTORS
    .balign 16
    .if !((vector == 8) || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
    pushl $0                    /* the CPU has pushed no error code */
    .endif
    pushl $vector
    jmp exception
    .set vector, vector + 1
    .endr

exception:
    popl %eax
    addl $EXCEPTION, %eax
    popl %ecx                   /* the error code; the address is next */
    jmp failed

set_up_exceptions:
    movl $IDT, %edi
    movl $stubs, %eax
    movl $VECTORS, %ecx
4:  movw %ax, (%edi)            /* all stubs are in the first 128 KiB */
    movw $CODE, 2(%edi)
    movw $0x8e00, 4(%edi)       /* present, 32-bit interrupt gate */
    movw $(LOAD >> 16), 6(%edi)
    addl $16, %eax
    addl $8, %edi
    loop 4b
    lidt idt_pointer
    ret

/* Paging ***************************************************************************/

/* The low 4 GiB where they are, but for a window onto a DIMM that may be above them. */
set_up_paging:
    movl $PAGE_DIRECTORY, %edi
    movl $PDE_4M, %eax
    movl $1024, %ecx
5:  movl %eax, (%edi)
    addl $4, %edi
    addl $(4 << 20), %eax
    loop 5b
    movl $(PAGE_DIRECTORY + DIMM_WINDOW / (4 << 20) * 4), %edi
    movl $(PDE_4M | PDE_ABOVE_4G), %eax
    movl $(DIMM_SIZE / (4 << 20)), %ecx
6:  movl %eax, (%edi)
    addl $4, %edi
    addl $(4 << 20), %eax
    loop 6b
    movl %cr4, %eax
    orl $CR4_PSE, %eax
    movl %eax, %cr4
    movl $PAGE_DIRECTORY, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    andl $~CR0_NW_CD, %eax
    orl $(CR0_PG | CR0_NE), %eax    /* SDM 24.8: NE is one of those that VMX wants */
    movl %eax, %cr0
    ret

/* SDM 24.6 "Discovering support for VMX"; APM 15.4 "Enabling SVM" */
set_up_hypervisor:
    movl $0x80000001, %eax
    cpuid
    testl $(1 << 2), %ecx
    jnz set_up_svm
    movl $1, %eax
    cpuid
    testl $(1 << 5), %ecx
    must nz, NO_HYPERVISOR

/* VMX ******************************************************************************/

set_up_vmx:
    /* SDM 24.7 "Enabling and entering VMX operation": firmware's part */
    movl $MSR_FEATURE_CONTROL, %ecx
    rdmsr
    testl $FEATURE_LOCK, %eax
    jnz 7f
    orl $(FEATURE_LOCK | FEATURE_VMXON), %eax
    wrmsr
7:  testl $FEATURE_VMXON, %eax
    must nz, VMX_LOCKED
    movl %cr4, %eax
    orl $CR4_VMXE, %eax
    movl %eax, %cr4
    /* SDM 25.2 "Format of the VMCS region", 25.11.5 "VMXON region": both begin with it */
    movl $MSR_VMX_BASIC, %ecx
    rdmsr
    movl %eax, VMXON_REGION
    movl %eax, VMCS
    call vmx_enter
    movl $VMX, OPERATION
    movl $vmx_round, %ebp
    ret

/* SDM 25.11.3 "Initializing a VMCS": VMCLEAR, then VMPTRLD */
vmx_enter:
    vmx vmxon vmxon_address
    vmx vmclear vmcs_address
    vmx vmptrld vmcs_address
    movl ROUNDS, %ebx
    jmp vmx_mark

/* VMPTRST, VMREAD and VMWRITE work in VMX operation only, SDM 31.3; the first tells which
 * VMCS is current, the other two whether it has what was written to it. */
vmx_round:
    vmptrst stored_address
    movl $VMCS, %eax
    cmpl %eax, stored_address
    must e, OTHER_VMCS
    cmpl $0, stored_address + 4
    must e, OTHER_VMCS
    movl ROUNDS, %ebx
    movl $FIELD_HOST_RIP, %eax
    call vmx_compare
    movl $FIELD_GUEST_RIP, %eax
    call vmx_compare
    movl %cr4, %eax
    testl $CR4_VMXE, %eax
    must nz, NO_VMXE
    incl %ebx                   /* what ROUNDS is going to be */

/* GUEST_RIP is one of those fields that KVM may put into a shadow VMCS, HOST_RIP is not. */
vmx_mark:
    movl $FIELD_HOST_RIP, %eax
    vmx vmwrite %ebx, %eax
    movl $FIELD_GUEST_RIP, %eax
    vmx vmwrite %ebx, %eax
    ret

vmx_compare:
    vmx vmread %eax, %edx
    cmpl %ebx, %edx
    must e, OTHER_FIELD
    ret

/* SVM ******************************************************************************/

set_up_svm:
    call svm_enter
    /* a value that VMSAVE has to find in the CPU */
    movl $MSR_STAR, %ecx
    movl $STAR_MARK, %eax
    xorl %edx, %edx
    wrmsr
    movl $SVM, OPERATION
    movl $svm_round, %ebp
    ret

/* APM 15.4 "Enabling SVM", 15.30.4 "VM_HSAVE_PA" */
svm_enter:
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_SVME, %eax
    wrmsr
    movl $MSR_VM_HSAVE_PA, %ecx
    movl $HOST_SAVE_AREA, %eax
    xorl %edx, %edx
    wrmsr
    ret

/* CLGI, STGI, VMLOAD and VMSAVE: #UD without EFER.SVME, APM 15.17, 15.5.2.  The CPU is
 * outside of the guest with GIF clear about as often as with GIF set. */
svm_round:
    clgi
    inb $0x80, %al
    stgi
    movl $VMCB, %eax
    movl $0, VMCB + VMCB_STAR
    vmsave %eax
    vmload %eax
    cmpl $STAR_MARK, VMCB + VMCB_STAR
    must e, OTHER_STATE
    movl $MSR_EFER, %ecx
    rdmsr
    testl $EFER_SVME, %eax
    must nz, NO_SVME
    movl $MSR_VM_HSAVE_PA, %ecx
    rdmsr
    cmpl $HOST_SAVE_AREA, %eax
    must e, OTHER_HSAVE
    ret

/* What keys ask for ****************************************************************/

/* SDM 31.3 "VMXOFF": #UD outside of VMX operation */
enter_again:
    cmpl $SVM, OPERATION
    je 8f
    vmx vmclear vmcs_address
    vmx vmxoff
    jmp vmx_enter
8:  movl $MSR_EFER, %ecx
    rdmsr
    andl $~EFER_SVME, %eax
    wrmsr
    jmp svm_enter

/* QEMU shows flash as memory until the first command, and again after the last. */
write_flash:
    movl $FLASH, %edi
    movb ROUNDS, %dl
    movb $FLASH_PROGRAM, (%edi)
    movb %dl, (%edi)
9:  testb $FLASH_READY, (%edi)
    jz 9b
    movb $FLASH_READ, (%edi)
    cmpb %dl, (%edi)
    must e, FLASH_LOST
    ret

/* Register PAM 1 of the host bridge: 0x5a of an i440fx, 0x91 of a q35.  The guest uses the
 * RAM while it is there. */
switch_pam:
    movl $HOST_BRIDGE, %eax
    movw $PCI_ADDRESS, %dx
    outl %eax, %dx
    movw $PCI_DATA, %dx
    inl %dx, %eax
    movl $PAM_I440FX, %ecx
    movw $(PCI_DATA + 2), %bx
    cmpl $ID_I440FX, %eax
    je 10f
    movl $PAM_Q35, %ecx
    movw $(PCI_DATA + 1), %bx
10: movl %ecx, %eax
    movw $PCI_ADDRESS, %dx
    outl %eax, %dx
    movw %bx, %dx
    movb $PAM_RAM, %al
    outb %al, %dx
    movl ROUNDS, %ecx
    movl %ecx, OPTION_ROM
    cmpl %ecx, OPTION_ROM
    must e, RAM_LOST
    xorb %al, %al
    outb %al, %dx
    ret

/* One byte of each page is written, and none is changed. */
touch_ram:
    xorl %edi, %edi
    movl $0xa0000, %ecx
    call touch
    /* firmware's way to the size: registers 0x34 and 0x35 of the RTC, above 16 MiB */
    xorl %ecx, %ecx
    movb $0x35, %al
    outb %al, $0x70
    inb $0x71, %al
    movb %al, %ch
    movb $0x34, %al
    outb %al, $0x70
    inb $0x71, %al
    movb %al, %cl
    shll $16, %ecx
    addl $(16 << 20), %ecx
    movl $(1 << 20), %edi
    jmp touch

touch_dimm:
    movl $DIMM_WINDOW, %edi
    movl $(DIMM_WINDOW + DIMM_SIZE), %ecx

touch:                          /* from %edi up to %ecx */
    orb $0, (%edi)
    addl $4096, %edi
    cmpl %ecx, %edi
    jb touch
    ret

/* Data *****************************************************************************/

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    /* code, 4 GiB */
    .quad 0x00cf93000000ffff    /* data, 4 GiB */
gdt_pointer:
    .word . - gdt - 1
    .long gdt
idt_pointer:
    .word VECTORS * 8 - 1
    .long IDT
    .balign 8
vmxon_address:
    .quad VMXON_REGION
vmcs_address:
    .quad VMCS
stored_address:
    .quad 0

    .org FLASH_BYTE, 0xf4
    .org 0xfff0, 0xf4
    .code16
    ljmp $ROM_SEGMENT, $(_start - image)
    .org SIZE, 0xf4
    .section .note.GNU-stack, "", @progbits
