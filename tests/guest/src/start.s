# From the PVH entry (32-bit protected mode without paging, EBX has the start info) to ring 3 in 64-bit mode.
#
# Everything else runs in ring 3: some hosts, cloud sandboxes above all, emulate a guest's ring 0 one instruction
# at a time and run its ring 3 at full speed. A port bitmap of zeros lets ring 3 speak to every port; all memory is
# mapped for it, page tables too, so that it maps what it finds.

.section .note.pvh, "a", @note
    .align 4
    .long 4, 8, 18                      # name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad start32

.section .start, "ax"
.code32
.global start32
start32:
    cld
    movl $0x620, %eax                   # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              # EFER: LME
    movl $0x100, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80000033, %eax              # PG, NE, ET, MP, PE
    movl %eax, %cr0
    movl $tss, %eax                     # the descriptor has the address in three pieces
    movw %ax, tss_descriptor + 2
    shrl $16, %eax
    movb %al, tss_descriptor + 4
    movb %ah, tss_descriptor + 7
    lgdt gdt_pointer
    ljmp $0x10, $start64

.code64
start64:
    movw $0x18, %ax
    movw %ax, %ss
    movl $fault_stack_end, %esp
    movl %ebx, %edi                     # first argument of main: the start info
    lidt idt_pointer
    movw $0x30, %ax
    ltr %ax
    movw $0x23, %ax
    movw %ax, %ds
    movw %ax, %es
    pushq $0x23                         # stack segment
    pushq $stack_end - 8
    pushq $0x3002                       # flags: I/O privilege level 3
    pushq $0x2b                         # code segment
    pushq $main
    iretq

# What goes wrong in ring 3 ends up here, one entry of 16 bytes for each vector.
    .align 16
.global exceptions
exceptions:
    .set vector, 0
    .rept 32
    .align 16
    movl $vector, %edi
    jmp exception
    .set vector, vector + 1
    .endr

exception:
    # Some push an error code below the address; the code segment is above it.
    movq (%rsp), %rsi
    cmpq $0x2b, 8(%rsp)
    je 1f
    movq 8(%rsp), %rsi
1:  movq %cr2, %rdx
    call exception_report
2:  jmp 2b

.section .tables, "aw"
    .align 16
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff            # 0x08: code, 32 bits, ring 0
    .quad 0x00af9a000000ffff            # 0x10: code, 64 bits, ring 0
    .quad 0x00cf92000000ffff            # 0x18: data, ring 0
    .quad 0x00cff2000000ffff            # 0x20: data, ring 3
    .quad 0x00affa000000ffff            # 0x28: code, 64 bits, ring 3
tss_descriptor:                         # 0x30
    .word tss_end - tss - 1, 0
    .byte 0, 0x89, 0, 0
    .quad 0
gdt_pointer:
    .word . - gdt - 1
    .quad gdt
idt_pointer:
    .word 32 * 16 - 1
    .quad idt

# The task state segment (Intel SDM volume 3, 8.7): the stack of ring 0, and the port bitmap behind its 104 bytes.
    .align 16
tss:
    .long 0
    .quad fault_stack_end
    .fill 90, 1, 0
    .word 104
    .fill 8192, 1, 0
    .byte 0xff
tss_end:

# The first GiB, for ring 3 too. Entries: present, writable, user; 2 MiB pages.
    .align 4096
.global pml4
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
pdpt:
    .quad pd + 7
    .fill 511, 8, 0
pd:
    .set page, 0
    .rept 512
    .quad page + 0x87
    .set page, page + 0x200000
    .endr

.section .bss.start, "aw", @nobits
    .align 16
.global idt
idt:
    .skip 32 * 16
    .skip 0x2000
fault_stack_end:
    .skip 0x20000
stack_end:
