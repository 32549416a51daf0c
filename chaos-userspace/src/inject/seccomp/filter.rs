//! The filter that makes the kernel ask the receiver before named calls, and nothing before others.

use super::handover::Handover;
use chaos_common::{
    arch::native::{AUDIT_ARCH, AUDIT_ARCH_COMPAT, X32_BIT},
    syscall::ROW_COMPAT,
};
use std::mem::offset_of;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// A seccomp filter (classic BPF) in front of rows of the call table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    code: Vec<Instruction>,
}

/// `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    k: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    code: *const Instruction,
}

fn instruction(code: u16, k: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, k }
}

/// The next instruction is left out unless the value is `k`.
fn unless(k: u32) -> Instruction {
    Instruction { if_false: 1, ..instruction(IS, k) }
}

/// Asks where the number is one of `numbers`, else allows.
fn body(numbers: impl Iterator<Item = u32>) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD, offset_of!(libc::seccomp_data, nr) as u32),
        // x32 has a bit of its own in front of the same numbers.
        instruction(AND, !X32_BIT),
    ];
    for number in numbers {
        code.extend([unless(number), instruction(RETURN, libc::SECCOMP_RET_USER_NOTIF)]);
    }
    code.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW));
    code
}

impl Filter {
    /// For rows of calls, as in [`chaos_common::syscall::call_row`]: 640 at most fit by far (`BPF_MAXINSNS` is 4096).
    pub fn new(rows: impl Iterator<Item = u32> + Clone) -> Self {
        let native = body(rows.clone().filter(|row| *row < ROW_COMPAT));
        let compat = body(rows.filter_map(|row| row.checked_sub(ROW_COMPAT)));
        let mut code = vec![
            instruction(LOAD, offset_of!(libc::seccomp_data, arch) as u32),
            unless(AUDIT_ARCH),
            // Offsets of conditional jumps have 8 bits, those of plain ones 32.
            instruction(JUMP, 3),
            unless(AUDIT_ARCH_COMPAT),
            instruction(JUMP, 1 + native.len() as u32),
            instruction(RETURN, libc::SECCOMP_RET_ALLOW),
        ];
        code.extend(native);
        code.extend(compat);
        Self { code }
    }

    /// Puts it in front of the calling task, which is about to become the command, and hands its listener over. Makes only
    /// system calls.
    ///
    /// # Safety
    ///
    /// As after fork(2).
    pub unsafe fn install(&self, handover: &Handover) -> std::io::Result<()> {
        let program = Program { length: self.code.len() as u16, code: self.code.as_ptr() };
        let mut listener = -1;
        // The second one keeps signals that are handled from interrupting a call that is held back (5.19).
        for more in [libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0] {
            // SAFETY: a filter that lives through the call.
            listener = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | more,
                    &raw const program,
                )
            };
            if listener >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
                break;
            }
        }
        if listener < 0 {
            return Err(std::io::Error::last_os_error());
        }
        handover.offer(listener as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaos_common::syscall::call_row;
    use proptest::prelude::*;

    /// What the kernel would do (kernel/seccomp.c).
    fn verdict(filter: &Filter, arch: u32, number: u32) -> u32 {
        let (mut place, mut value) = (0, 0);
        loop {
            let Instruction { code, if_true, if_false, k } = filter.code[place];
            place += 1;
            match code {
                LOAD if k == offset_of!(libc::seccomp_data, nr) as u32 => value = number,
                LOAD => value = arch,
                AND => value &= k,
                IS => place += usize::from(if value == k { if_true } else { if_false }),
                JUMP => place += k as usize,
                RETURN => return k,
                _ => panic!("{code}"),
            }
        }
    }

    proptest! {
        #[test]
        fn named_calls_are_asked_for_and_no_others(
            native in proptest::collection::btree_set(0u32..470, 0..400),
            compat in proptest::collection::btree_set(0u32..470, 0..400),
            number in 0u32..480,
        ) {
            let rows = native.iter().filter_map(|number| call_row(*number, false));
            let rows: Vec<_> = rows.chain(compat.iter().filter_map(|number| call_row(*number, true))).collect();
            let filter = Filter::new(rows.iter().copied());
            let asked = |arch, number| verdict(&filter, arch, number) == libc::SECCOMP_RET_USER_NOTIF;
            prop_assert_eq!(asked(AUDIT_ARCH, number), native.contains(&number));
            prop_assert_eq!(asked(AUDIT_ARCH, number | X32_BIT), native.contains(&number));
            prop_assert_eq!(asked(AUDIT_ARCH_COMPAT, number), compat.contains(&number));
            prop_assert!(!asked(0xc000_00b7, number));
            prop_assert!(filter.code.len() < 4096);
        }
    }
}
