// SPDX-License-Identifier: BSD-3-Clause
//
// What runs before Linux on the simulated machine: from reset in EL3 to the kernel in non-secure EL1, and afterwards as
// much of the power interface (PSCI 0.2, by SMC) as Linux needs: other cores on, the machine off, the machine reset.
//
//   reset, every core:  interrupt controller of the core, what EL3 and EL2 must allow EL1
//   core 0:             distributor; then the kernel, with the device tree's address in x0, as Linux's
//                       Documentation/arch/arm64/booting.rst asks
//   the others:         sleep until CPU_ON names them
//
// Numbers come from layout.py: BOOT_KERNEL, BOOT_DEVICE_TREE, BOOT_GICD, BOOT_GICR, BOOT_COUNTER_HZ, BOOT_CORES,
// BOOT_POWERED_OFF, BOOT_RESET. Sources: Arm Architecture Reference Manual (DDI 0487), GICv3 (IHI 0069), PSCI (DEN 0022).

#define M5_FAIL 0x22

.macro m5op function
    .inst 0xFF000110 | (\function << 16)
.endm

.macro mov64 register, value
    movz \register, #((\value) & 0xFFFF)
    movk \register, #(((\value) >> 16) & 0xFFFF), lsl #16
    movk \register, #(((\value) >> 32) & 0xFFFF), lsl #32
.endm

    .section .text, "ax"
    .global _start
_start:
    mrs     x9, CurrentEL
    cmp     x9, #(3 << 2)
    b.ne    not_el3

    adr     x9, vectors
    msr     vbar_el3, x9
    mov64   x9, 0x30C50830              // MMU, caches off; all RES1 bits
    msr     sctlr_el3, x9
    mov64   x9, 0x30531                 // NS, RES1, HCE, RW, APK, API: the lower levels are non-secure AArch64, SMC and
                                        // pointer authentication allowed
    msr     scr_el3, x9
    msr     cptr_el3, xzr
    msr     mdcr_el3, xzr
    mov64   x9, BOOT_COUNTER_HZ
    msr     cntfrq_el0, x9

    mrs     x20, mpidr_el1
    and     x20, x20, #0xFF             // the core's number: layout.py allows no more than BOOT_CORES

    // Distributor, core 0: affinity routing on, all shared interrupts in the non-secure group, all groups enabled.
    mov64   x10, BOOT_GICD
    cbnz    x20, 2f
    mov     w11, #0x30                  // GICD_CTLR: ARE_S, ARE_NS
    str     w11, [x10]
    mov     w11, #0x37                  // and the three groups
    str     w11, [x10]
    ldr     w12, [x10, #4]              // GICD_TYPER: ITLinesNumber
    and     w12, w12, #0x1F
    add     x13, x10, #0x80             // GICD_IGROUPR<n>, n from 1
    mov     w14, #-1
1:  cbz     w12, 2f
    add     x13, x13, #4
    str     w14, [x13]
    sub     w12, w12, #1
    b       1b

    // Redistributor: the frame whose affinity is this core's.
2:  mov64   x10, BOOT_GICR
3:  ldr     x11, [x10, #8]              // GICR_TYPER
    lsr     x12, x11, #32
    cmp     x12, x20
    b.eq    4f
    tbnz    x11, #4, not_el3            // the last frame
    add     x10, x10, #0x20000
    b       3b
4:  str     wzr, [x10, #0x14]           // GICR_WAKER: awake
5:  ldr     w11, [x10, #0x14]
    tbnz    w11, #2, 5b                 // until its children are
    mov     w14, #-1
    add     x10, x10, #0x10000
    str     w14, [x10, #0x80]           // GICR_IGROUPR0: its own interrupts in the non-secure group

    // The interrupt controller by system registers, in EL3, EL2 and EL1.
    mov     x9, #0xF
    msr     S3_6_C12_C12_5, x9          // ICC_SRE_EL3
    isb
    msr     S3_4_C12_C9_5, x9           // ICC_SRE_EL2
    isb
    msr     S3_4_C12_C11_0, xzr         // ICH_HCR_EL2

    // EL2 lets everything of EL1 pass.
    mov64   x9, 0x30080000000           // HCR_EL2.RW, APK, API
    msr     hcr_el2, x9
    mov64   x9, 0x30C50830
    msr     sctlr_el2, x9
    mov     x9, #0x33FF
    msr     cptr_el2, x9
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    mov     x9, #3
    msr     cnthctl_el2, x9             // EL1 reads the physical counter and timer
    msr     cntvoff_el2, xzr
    mrs     x9, midr_el1
    msr     vpidr_el2, x9
    mrs     x9, mpidr_el1
    msr     vmpidr_el2, x9
    mov64   x9, 0x30D00800
    msr     sctlr_el1, x9
    isb

    adr     x21, mailboxes
    add     x21, x21, x20, lsl #4
    cbnz    x20, sleep
    mov64   x22, BOOT_KERNEL
    mov64   x0, BOOT_DEVICE_TREE
    str     x22, [x21]                  // core 0 is on
    b       enter

sleep:
    wfe
    ldr     x22, [x21]
    cbz     x22, sleep
    ldr     x0, [x21, #8]
enter:                                  // x22: where, x0: what the kernel gets in x0
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    msr     elr_el3, x22
    mov     x9, #0x3C5                  // EL1h, interrupts masked
    msr     spsr_el3, x9
    isb
    eret

not_el3:
    mov     x0, xzr
    mov     x1, #BOOT_RESET
    m5op    M5_FAIL
hang:
    wfi
    b       hang

// PSCI. x0: function and answer, x1 to x3: arguments; x9 to x17 are free (SMC calling convention, DEN 0028).
smc:
    mov64   x9, 0x84000000
    cmp     w0, w9
    b.eq    version
    mov64   x9, 0xC4000003
    cmp     w0, w9
    b.eq    cpu_on
    mov64   x9, 0xC4000004
    cmp     w0, w9
    b.eq    affinity_info
    mov64   x9, 0x84000006
    cmp     w0, w9
    b.eq    migrate_info_type
    mov64   x9, 0x84000008
    cmp     w0, w9
    b.eq    system_off
    mov64   x9, 0x84000009
    cmp     w0, w9
    b.eq    system_reset
    mov     x0, #-1                     // NOT_SUPPORTED
    eret

version:
    mov     x0, #2                      // 0.2
    eret

migrate_info_type:
    mov     x0, #2                      // no trusted OS that would have to migrate
    eret

cpu_on:                                 // x1: core, x2: entry, x3: what it gets in x0
    cmp     x1, #BOOT_CORES
    b.hs    invalid
    adr     x9, mailboxes
    add     x9, x9, x1, lsl #4
    ldr     x10, [x9]
    cbnz    x10, already_on
    str     x3, [x9, #8]
    dsb     sy
    str     x2, [x9]
    dsb     sy
    sev
    mov     x0, xzr
    eret

affinity_info:                          // 0: on, 1: off
    cmp     x1, #BOOT_CORES
    b.hs    invalid
    adr     x9, mailboxes
    add     x9, x9, x1, lsl #4
    ldr     x10, [x9]
    cmp     x10, #0
    cset    x0, eq
    eret

invalid:
    mov     x0, #-2
    eret

already_on:
    mov     x0, #-4
    eret

system_off:
    mov     x0, xzr
    mov     x1, #BOOT_POWERED_OFF
    m5op    M5_FAIL
    b       hang

system_reset:                           // Linux resets the machine when it panics (panic=-1)
    mov     x0, xzr
    mov     x1, #BOOT_RESET
    m5op    M5_FAIL
    b       hang

// Only an SMC of a lower level has business here.
.macro vector target
    .balign 0x80
    b       \target
.endm

    .balign 0x800
vectors:
    .rept 8
    vector  not_el3
    .endr
    .balign 0x80
    mrs     x9, esr_el3
    lsr     x9, x9, #26
    cmp     x9, #0x17                   // SMC from AArch64
    b.eq    smc
    b       not_el3
    .rept 7
    vector  not_el3
    .endr

    .balign 16
mailboxes:                              // entry (0: the core sleeps) and x0, by core
    .fill   2 * BOOT_CORES, 8, 0
