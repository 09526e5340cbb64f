/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A boot sector instead of an operating system: a KVM without second-level page tables may not
 * be able to run one. It counts in RAM and talks like tests/lab/guest on the serial port:
 * "@@GUEST ready" when it starts, and an answer with the count to "ping". "reboot" resets.
 */
        .code16
        .set    COM1, 0x3f8
        .set    COUNT, 0x500

        .globl  _start
_start:
        ljmp    $0, $1f
1:      cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movl    $0, COUNT
        movw    $ready, %si
        call    print

next_line:
        movb    $0, %bl                 /* the first letter of the line */
wait:
        incl    COUNT
        movw    $(COM1 + 5), %dx
        inb     %dx, %al
        testb   $1, %al
        jz      wait
        movw    $COM1, %dx
        inb     %dx, %al
        cmpb    $'\n', %al
        je      command
        testb   %bl, %bl
        jnz     wait
        movb    %al, %bl
        jmp     wait

command:
        cmpb    $'r', %bl
        je      reset
        cmpb    $'p', %bl
        jne     unknown
        movw    $pong, %si
        call    print
        movl    COUNT, %ecx
        call    print_hex
        jmp     end_of_line
unknown:
        movw    $error, %si
        call    print
end_of_line:
        movb    $'\n', %al
        call    put
        jmp     next_line

reset:
        movb    $0xfe, %al              /* the keyboard controller */
        outb    %al, $0x64
1:      hlt
        jmp     1b

print_hex:
        movw    $8, %di
1:      roll    $4, %ecx
        movb    %cl, %al
        andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     2f
        addb    $('a' - '9' - 1), %al
2:      call    put
        decw    %di
        jnz     1b
        ret

print:
        lodsb
        testb   %al, %al
        jz      1f
        call    put
        jmp     print
1:      ret

put:
        movb    %al, %ah
        movw    $(COM1 + 5), %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        movw    $COM1, %dx
        movb    %ah, %al
        outb    %al, %dx
        ret

ready:  .asciz  "@@GUEST ready\n"
pong:   .asciz  "@@GUEST ok ping count=0x"
error:  .asciz  "@@GUEST error unknown command"

        .org    510
        .word   0xaa55
