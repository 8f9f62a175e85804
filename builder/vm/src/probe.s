# The boot sector in accelerator.rs: real mode, long mode, then 0x10 to isa-debug-exit (QEMU ends with status 33).
#
#   as --64 probe.s -o probe.o && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary -o probe.bin probe.o
.code16
.globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    # page tables at 0x1000, 0x2000, 0x3000: the first 2 MiB, one large page
    movw $0x1000, %di
    movw $0x1800, %cx      # 3 pages in words
    rep stosw
    movw $0x2003, 0x1000
    movw $0x3003, 0x2000
    movw $0x0083, 0x3000
    movl $0xa0, %eax       # PAE, PGE
    movl %eax, %cr4
    movl $0x1000, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orw $0x100, %ax        # LME
    wrmsr
    lgdtl gdtr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmpl $8, $long
.code64
long:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %ss
    # a register that only 64-bit code has must survive a round trip through memory
    movq $0x1122334455667788, %r10
    pushq %r10
    popq %rax
    cmpq %r10, %rax
    jne fail
    # Broken nested KVM emulates what it should execute, and its emulator knows no VEX encoding: the first
    # BMI2 instruction of a kernel's decompressor ends such a guest.
    xorl %ecx, %ecx
    movl $7, %eax
    cpuid
    btl $8, %ebx           # BMI2
    jnc done
    movl $4, %ecx
    movl $3, %eax
    shlxl %ecx, %eax, %eax
    cmpl $48, %eax
    jne fail
done:
    movb $0x10, %al
    outb %al, $0xf4
fail:
    hlt
    jmp fail
.balign 8
gdt:
    .quad 0
    .quad 0x00209a0000000000
    .quad 0x0000920000000000
gdtr:
    .word gdtr - gdt - 1
    .long gdt
.org 510
    .word 0xaa55
