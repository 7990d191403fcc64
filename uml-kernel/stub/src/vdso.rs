//! Code of the guest's vDSO (vdso(7)): time and CPU functions that need no crossing.
//!
//! The functions call the host's own vDSO, whose pages stay mapped in every guest process, and add
//! the guest's clock offsets from a data page that lies two pages before the code. They use no
//! vector registers and no memory but the caller's stack and the data page.

use core::arch::global_asm;

/// Layout of the data page, all 8 bytes wide.
pub mod data {
    /// Sequence number: odd while the page is being changed.
    pub const SEQ: usize = 0;
    /// Address of the host's `__vdso_clock_gettime`, 0 when calls must enter the kernel.
    pub const HOST_CLOCK_GETTIME: usize = 8;
    /// Address of the host's `__vdso_getcpu` when guest and host CPU numbers are the same, else 0.
    pub const HOST_GETCPU: usize = 16;
    /// Offsets of the guest's clocks: seconds, and nanoseconds in 0..10^9, for wall clocks and
    /// for those that count from boot, CLOCK_BOOTTIME apart.
    pub const REAL_SEC: usize = 24;
    pub const REAL_NSEC: usize = 32;
    pub const MONO_SEC: usize = 40;
    pub const MONO_NSEC: usize = 48;
    pub const BOOT_SEC: usize = 56;
    pub const BOOT_NSEC: usize = 64;
    /// Bytes in use.
    pub const LEN: usize = 72;
}

/// Distance from the data page to the code.
pub const DATA_BEFORE_CODE: u64 = 0x2000;

global_asm!(
    ".pushsection .text.uml_vdso,\"ax\",@progbits",
    ".balign 16",
    ".globl uml_vdso_start",
    "uml_vdso_start:",
    // int clock_gettime(clockid_t edi, struct timespec *rsi)
    ".balign 16",
    ".globl uml_vdso_clock_gettime",
    "uml_vdso_clock_gettime:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "mov ebx, edi",
    "mov r12, rsi",
    "cmp edi, 12",
    "jae 8f",
    // Clocks that are the host's plus an offset: 0 1 4 5 6 7 11.
    "mov eax, 0x8f3",
    "bt eax, edi",
    "jnc 8f",
    "lea r13, [rip + uml_vdso_start - 0x2000]",
    // Wall clocks (0, 5, 11) take the first pair of offsets.
    "mov eax, 0x821",
    "mov ecx, 24",
    "mov edx, 40",
    "bt eax, edi",
    "cmovnc ecx, edx",
    // CLOCK_BOOTTIME takes the third, which differs in time namespaces.
    "mov edx, 56",
    "cmp edi, 7",
    "cmove ecx, edx",
    "mov ebp, ecx",
    "2:",
    "mov r14, [r13]",
    "test r14b, 1",
    "jnz 3f",
    "mov rax, [r13 + 8]",
    "test rax, rax",
    "jz 8f",
    "mov edi, ebx",
    "mov rsi, r12",
    "call rax",
    "test eax, eax",
    "jnz 8f",
    "mov rcx, [r13 + rbp]",
    "mov rdx, [r13 + rbp + 8]",
    "cmp r14, [r13]",
    "jne 3f",
    "add rdx, [r12 + 8]",
    "add rcx, [r12]",
    "cmp rdx, 1000000000",
    "jb 4f",
    "sub rdx, 1000000000",
    "inc rcx",
    "4:",
    "mov [r12], rcx",
    "mov [r12 + 8], rdx",
    "xor eax, eax",
    "9:",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "3:",
    "pause",
    "jmp 2b",
    "8:",
    "mov edi, ebx",
    "mov rsi, r12",
    "mov eax, 228",
    "syscall",
    "jmp 9b",
    // int gettimeofday(struct timeval *rdi, struct timezone *rsi)
    ".balign 16",
    ".globl uml_vdso_gettimeofday",
    "uml_vdso_gettimeofday:",
    "test rsi, rsi",
    "jnz 5f",
    "test rdi, rdi",
    "jz 6f",
    "push rdi",
    "sub rsp, 16",
    "mov rsi, rsp",
    "xor edi, edi",
    "call uml_vdso_clock_gettime",
    "pop rcx",
    "pop rdx",
    "pop rdi",
    "test eax, eax",
    "jnz 7f",
    "mov [rdi], rcx",
    // Nanoseconds to microseconds.
    "mov rax, rdx",
    "xor edx, edx",
    "mov ecx, 1000",
    "div rcx",
    "mov [rdi + 8], rax",
    "6:",
    "xor eax, eax",
    "7:",
    "ret",
    "5:",
    "mov eax, 96",
    "syscall",
    "ret",
    // time_t time(time_t *rdi)
    ".balign 16",
    ".globl uml_vdso_time",
    "uml_vdso_time:",
    "push rdi",
    "sub rsp, 16",
    "mov rsi, rsp",
    "mov edi, 5",
    "call uml_vdso_clock_gettime",
    "pop rax",
    "pop rdx",
    "pop rdi",
    "test rdi, rdi",
    "jz 2f",
    "mov [rdi], rax",
    "2:",
    "ret",
    // int clock_getres(clockid_t edi, struct timespec *rsi)
    ".balign 16",
    ".globl uml_vdso_clock_getres",
    "uml_vdso_clock_getres:",
    "mov eax, 229",
    "syscall",
    "ret",
    // int getcpu(unsigned *rdi, unsigned *rsi, void *rdx)
    ".balign 16",
    ".globl uml_vdso_getcpu",
    "uml_vdso_getcpu:",
    "mov rax, [rip + uml_vdso_start - 0x2000 + 16]",
    "test rax, rax",
    "jz 2f",
    "jmp rax",
    "2:",
    "mov eax, 309",
    "syscall",
    "ret",
    ".globl uml_vdso_end",
    "uml_vdso_end:",
    ".popsection",
);

unsafe extern "C" {
    static uml_vdso_start: u8;
    static uml_vdso_end: u8;
    static uml_vdso_clock_gettime: u8;
    static uml_vdso_gettimeofday: u8;
    static uml_vdso_time: u8;
    static uml_vdso_clock_getres: u8;
    static uml_vdso_getcpu: u8;
}

/// The code, position independent as long as the data page keeps its distance.
pub fn code() -> &'static [u8] {
    // SAFETY: both symbols bound the code above, which is immutable and lives as long as the program.
    unsafe {
        let start = &raw const uml_vdso_start;
        let len = (&raw const uml_vdso_end) as usize - start as usize;
        core::slice::from_raw_parts(start, len)
    }
}

/// The functions: name as programs look it up, offset in [`code`], and a length that covers it.
pub fn functions() -> [(&'static str, usize); 5] {
    let at = |p: *const u8| p as usize - (&raw const uml_vdso_start) as usize;
    [
        ("__vdso_clock_gettime", at(&raw const uml_vdso_clock_gettime)),
        ("__vdso_gettimeofday", at(&raw const uml_vdso_gettimeofday)),
        ("__vdso_time", at(&raw const uml_vdso_time)),
        ("__vdso_clock_getres", at(&raw const uml_vdso_clock_getres)),
        ("__vdso_getcpu", at(&raw const uml_vdso_getcpu)),
    ]
}
