//! What went wrong with a map and is none of our business: somebody else, a kernel program for one, has removed the key already.

use aya::maps::MapError;
use std::io;

/// That a key was gone already (`ENOENT` of bpf(2)) is no error; all else is.
pub(super) fn ignore_gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if is_gone(&error.io_error) => Ok(()),
        other => other,
    }
}

/// Whether the kernel has no such key.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    fn refused(errno: i32) -> Result<(), MapError> {
        let io_error = io::Error::from_raw_os_error(errno);
        Err(MapError::SyscallError(SyscallError { call: "bpf_map_delete_elem", io_error }))
    }

    #[test]
    fn only_what_is_gone_is_ignored() {
        assert!(ignore_gone(refused(libc::ENOENT)).is_ok());
        assert!(ignore_gone(Err(MapError::KeyNotFound)).is_ok());
        for errno in [libc::EPERM, libc::ENOMEM, libc::EBUSY] {
            assert!(ignore_gone(refused(errno)).is_err(), "{errno}");
        }
    }
}
