//! Calls that wait for the disk, answered at once: the disk of a build counts for nothing until the step is over, and
//! then the host writes all of it back and looks whether that worked.
//!
//! `systemd-nspawn --suppress-sync` and mkosi do the same. Package managers, font caches and databases wait for the disk
//! hundreds of times.

use crate::error::StepError;

/// Has the kernel answer `fsync` and its kind with success, for this process and all that it starts.
///
/// Needs CAP_SYS_ADMIN: without it the filter would have to forbid set-uid programs. Programs of another architecture
/// than this one's are left alone.
pub(crate) fn pretend_to_sync() -> Result<(), StepError> {
    let program = filter();
    install(&program).map_err(|source| StepError::System { what: "answer the guest's syncs", source })
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

const CALLS: [libc::c_long; 5] =
    [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs, libc::SYS_sync_file_range];

/// The filter, in the order in which it is run. `struct seccomp_data` has the call's number at 0, the architecture at 4.
fn filter() -> Vec<libc::sock_filter> {
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let answer = |value| statement(libc::BPF_RET | libc::BPF_K, value);
    let calls = u8::try_from(CALLS.len()).expect("a handful");
    // A jump counts the instructions that it leaves out.
    let mut program = vec![load(4), equal(ARCH, 0, calls + 1), load(0)];
    for (index, call) in (0_u8..).zip(CALLS) {
        let call = u32::try_from(call).expect("numbers of calls are small");
        program.push(equal(call, calls - index, 0));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    // Error number 0 is success.
    program.push(answer(libc::SECCOMP_RET_ERRNO));
    program
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("codes have 16 bits"), jt: 0, jf: 0, k }
}

fn equal(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { jt, jf, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k) }
}

#[expect(unsafe_code, reason = "no safe library installs a filter that lets other architectures pass")]
fn install(program: &[libc::sock_filter]) -> std::io::Result<()> {
    let mut program = program.to_vec();
    let len = u16::try_from(program.len()).expect("a handful");
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, 0);
    // SAFETY: the kernel reads `len` instructions behind the pointer, which are there until the call returns.
    match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) } {
        0 => Ok(()),
        _ => match std::io::Error::last_os_error() {
            // A kernel without such filters only makes the step slower.
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says about a call, worked out as the kernel does.
    fn verdict(arch: u32, call: u32) -> u32 {
        let program = filter();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            match u32::from(instruction.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    accumulator = if instruction.k == 0 { call } else { arch };
                }
                code if code == libc::BPF_RET | libc::BPF_K => return instruction.k,
                _ => {
                    let jump = if accumulator == instruction.k { instruction.jt } else { instruction.jf };
                    at += usize::from(jump);
                }
            }
        }
    }

    #[test]
    fn only_syncs_of_this_architecture_are_answered() {
        for call in CALLS {
            assert_eq!(verdict(ARCH, u32::try_from(call).unwrap()), libc::SECCOMP_RET_ERRNO, "{call}");
        }
        for call in [libc::SYS_write, libc::SYS_close, libc::SYS_openat, libc::SYS_seccomp] {
            assert_eq!(verdict(ARCH, u32::try_from(call).unwrap()), libc::SECCOMP_RET_ALLOW, "{call}");
        }
        // 118 is fsync on 32-bit x86.
        assert_eq!(verdict(0x4000_0003, 118), libc::SECCOMP_RET_ALLOW);
        assert_eq!(verdict(0x4000_0003, u32::try_from(libc::SYS_fsync).unwrap()), libc::SECCOMP_RET_ALLOW);
    }
}
