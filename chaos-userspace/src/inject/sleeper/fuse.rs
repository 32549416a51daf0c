//! As much of FUSE (include/uapi/linux/fuse.h, 7.31) as a file system with one program needs.

use super::waiting::Waiting;
use crate::host::kernel::monotonic_ns;
use chaos_common::latency::time_ns;
use nix::{errno::Errno, unistd};
use std::{io, os::fd::AsFd};

/// Bytes of the largest request: the kernel wants room for more than it sends (`fuse_dev_do_read`).
pub const REQUEST_BYTES: usize = 1 << 16;

/// Bytes of `fuse_in_header` and `fuse_out_header`.
const HEADER_BYTES: usize = 40;
const ANSWER_BYTES: usize = 16;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const GETXATTR: u32 = 22;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ROOT: u64 = 1;
const PROGRAM: u64 = 2;
/// Name of the program in the file system.
pub const NAME: &std::ffi::CStr = c"kchaos-handle";

/// A program that does nothing: a header, one segment, and `pause()` in a loop.
fn program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // mov eax, 34 (pause); syscall; jmp back
    const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
    let size = HEADERS + CODE.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // ET_EXEC, EM_X86_64, EV_CURRENT; entry, program headers, section headers.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [BASE + HEADERS, 64, 0].iter().for_each(|word: &u64| file.extend(word.to_le_bytes()));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable and executable; offset, addresses, sizes, alignment.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    [0, BASE, BASE, size, size, 4096].iter().for_each(|word: &u64| file.extend(word.to_le_bytes()));
    file.extend(CODE);
    file
}

fn word32(request: &[u8], offset: usize) -> u32 {
    request.get(offset..offset + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn word64(request: &[u8], offset: usize) -> u64 {
    request.get(offset..offset + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Answers what the kernel asks, until it asks no more; requests that are to take time are kept.
pub fn serve(device: &impl AsFd, buffer: &mut [u8], waiting: &mut Waiting) -> io::Result<()> {
    loop {
        let length = match unistd::read(device, buffer) {
            Ok(length) => length,
            Err(Errno::EAGAIN) => return Ok(()),
            // Interrupted before it was read, or by a signal.
            Err(Errno::ENOENT | Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let request = &buffer[..length];
        let (code, unique, body) = (word32(request, 4), word64(request, 8), HEADER_BYTES);
        match code {
            GETXATTR => {
                let time = time_ns(word32(request, body));
                waiting.add(unique, word32(request, 32), monotonic_ns() + time);
            }
            INTERRUPT => waiting.interrupt(word64(request, body)),
            FORGET | BATCH_FORGET => {}
            _ => match reply(code, request) {
                Ok(answer) => send(device, unique, 0, &answer)?,
                Err(errno) => send(device, unique, errno as i32, &[])?,
            },
        }
    }
}

/// Lets a request go: there is no such attribute.
pub fn answer(device: &impl AsFd, unique: u64) -> io::Result<()> {
    send(device, unique, Errno::ENODATA as i32, &[])
}

fn send(device: &impl AsFd, unique: u64, errno: i32, body: &[u8]) -> io::Result<()> {
    let mut answer = ((ANSWER_BYTES + body.len()) as u32).to_le_bytes().to_vec();
    answer.extend((-errno).to_le_bytes());
    answer.extend(unique.to_le_bytes());
    answer.extend(body);
    match unistd::write(device, &answer) {
        // ENOENT: the request is gone.
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What is asked for while the handle's program is started.
fn reply(code: u32, request: &[u8]) -> Result<Vec<u8>, Errno> {
    /// Seconds for which the kernel need not ask again.
    const VALID: u64 = 1 << 32;
    let program = program();
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    match code {
        INIT => {
            // major and minor; max_readahead and flags; max_background and congestion_threshold; max_write and time_gran.
            let mut init = words(&[7 | 31 << 32, 0, u64::from(u16::MAX) | 48 << 16, 65536 | 1 << 32]);
            init[16..20].copy_from_slice(&[64, 0, 48, 0]);
            init.resize(64, 0);
            Ok(init)
        }
        LOOKUP if request.get(HEADER_BYTES..) == Some(NAME.to_bytes_with_nul()) => {
            let mut entry = words(&[PROGRAM, 0, VALID, VALID, 0]);
            entry.extend(attributes(PROGRAM, program.len()));
            Ok(entry)
        }
        LOOKUP => Err(Errno::ENOENT),
        GETATTR => {
            let mut answer = words(&[VALID, 0]);
            answer.extend(attributes(word64(request, 16), program.len()));
            Ok(answer)
        }
        OPEN => Ok(vec![0; 16]),
        READ => {
            let (offset, size) = (word64(request, HEADER_BYTES + 8), word32(request, HEADER_BYTES + 16));
            let begin = (offset as usize).min(program.len());
            let end = (begin + size as usize).min(program.len());
            Ok(program[begin..end].to_vec())
        }
        RELEASE | FLUSH => Ok(vec![]),
        _ => Err(Errno::ENOSYS),
    }
}

/// `struct fuse_attr`.
fn attributes(node: u64, size: usize) -> Vec<u8> {
    let mode: u32 = if node == ROOT { 0o40_555 } else { 0o100_555 };
    let mut attributes = vec![0; 88];
    attributes[..8].copy_from_slice(&node.to_le_bytes());
    attributes[8..16].copy_from_slice(&(size as u64).to_le_bytes());
    attributes[60..64].copy_from_slice(&mode.to_le_bytes());
    attributes[64..68].copy_from_slice(&1u32.to_le_bytes());
    attributes[80..84].copy_from_slice(&4096u32.to_le_bytes());
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_sizes_that_the_kernel_wants() {
        let mut request = vec![0; HEADER_BYTES];
        assert_eq!(reply(INIT, &request).unwrap().len(), 64);
        assert_eq!(reply(GETATTR, &request).unwrap().len(), 104);
        request.extend(NAME.to_bytes_with_nul());
        assert_eq!(reply(LOOKUP, &request).unwrap().len(), 128);
        assert_eq!(reply(LOOKUP, b"").unwrap_err(), Errno::ENOENT);
        assert_eq!(reply(99, b"").unwrap_err(), Errno::ENOSYS);
    }

    #[test]
    fn a_read_ends_where_the_program_does() {
        let mut request = vec![0; HEADER_BYTES + 40];
        request[HEADER_BYTES + 16..HEADER_BYTES + 20].copy_from_slice(&4096u32.to_le_bytes());
        assert_eq!(reply(READ, &request).unwrap(), program());
        request[HEADER_BYTES + 8] = 120;
        assert_eq!(reply(READ, &request).unwrap().len(), program().len() - 120);
    }
}
