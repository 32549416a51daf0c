//! Which of a target's calls a rule applies to.

/// Bytes of a task's name with its end (`TASK_COMM_LEN` of include/linux/sched.h).
pub const COMM_BYTES: usize = 16;

/// Different path patterns one engine holds: one bit each.
pub const PATTERNS_MAX: usize = 64;
/// Bytes of a path that are compared with patterns at its beginning, and at its end: the longest key of a prefix tree
/// (`LPM_DATA_SIZE_MAX`, kernel/bpf/lpm_trie.c).
pub const PATTERN_BYTES: usize = 256;
/// Entries of the table of lengths: what is longer has room for the beginning and the end of every pattern.
pub const LENGTHS_MAX: u32 = 512;

/// Where the facts of a call are: one row for each of the call table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// What the hook's first argument is: one of the `SUBJECT_*` values.
    pub subject: u8,
    /// Registers with paths.
    pub paths: [u8; 2],
    /// Registers with the descriptors of the directories that relative paths start from.
    pub directories: [u8; 2],
    /// Register with a descriptor.
    pub file: u8,
    /// Register with a number of bytes.
    pub size: u8,
    /// Register with what `open` is to do.
    pub flags: u8,
    /// What is in that register: one of the `FLAGS_*` values.
    pub flags_kind: u8,
    /// Register with the address of a peer.
    pub peer: u8,
    /// Explicit padding.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<Arguments>() == 16);

/// The flags of open(2).
pub const FLAGS_DIRECT: u8 = 0;
/// The address of a `struct open_how`, which begins with them.
pub const FLAGS_BEHIND: u8 = 1;
/// There are none: the call always opens for writing.
pub const FLAGS_WRITE: u8 = 2;

/// Opening for reading only.
pub const ACCESS_READ: u32 = 1;
/// Opening for writing, or for both.
pub const ACCESS_WRITE: u32 = 2;

/// No register: the call has no such argument. Others are places in `struct pt_regs`, counted in registers from 1.
pub const NO_REGISTER: u8 = 0;

/// The hook does not say what the call is about: its registers do.
pub const SUBJECT_NONE: u8 = 0;
/// `struct file *`.
pub const SUBJECT_FILE: u8 = 1;
/// `struct path *`.
pub const SUBJECT_PATH: u8 = 2;
/// `struct linux_binprm *`.
pub const SUBJECT_BINPRM: u8 = 3;

/// What the call is about cannot be known: its registers do not say (io_uring).
pub const SUBJECT_HIDDEN: u8 = 255;

/// What a rule asks for, beyond what is in its own record: one per rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Patterns of which the path has to match one; 0 for any path.
    pub paths: u64,
    /// Patterns that the path must not match.
    pub paths_except: u64,
    /// Least number of bytes.
    pub size_min: u64,
    /// Greatest number of bytes.
    pub size_max: u64,
    /// Kinds of files, one bit for each value of the file type in `i_mode` (`S_IFMT`).
    pub kinds: u32,
    /// Set of `ACCESS_*`.
    pub access: u32,
    /// Explicit padding.
    pub reserved: [u64; 3],
}

const _: () = assert!(size_of::<Wanted>() == 64);

/// Whether patterns in `matching` are what a rule wants. Pure: the hook finds out which patterns match.
#[inline(always)]
pub fn path_matches(wanted: &Wanted, matching: u64) -> bool {
    matching & wanted.paths_except == 0 && (wanted.paths == 0 || matching & wanted.paths != 0)
}

/// Whether a number of bytes is what a rule wants.
#[inline(always)]
pub fn size_matches(wanted: &Wanted, bytes: u64) -> bool {
    bytes >= wanted.size_min && bytes <= wanted.size_max
}

/// The bit of a file's kind, from `i_mode`.
#[inline(always)]
pub fn kind(mode: u32) -> u32 {
    1 << (mode >> 12 & 15)
}

/// The access that the flags of open(2) ask for (`O_ACCMODE`: anything but O_RDONLY writes, or may).
#[inline(always)]
pub fn access(flags: u64) -> u32 {
    if flags & 3 == 0 { ACCESS_READ } else { ACCESS_WRITE }
}

/// Patterns that match a path: those whose beginning is the path's, whose end is the path's, and that have room in it.
#[inline(always)]
pub fn matching_patterns(beginning: u64, end: u64, length: u64) -> u64 {
    beginning & end & length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_win() {
        let wanted = Wanted { paths: 0b011, paths_except: 0b100, ..Wanted::default() };
        let cases =
            [(0, false), (0b001, true), (0b010, true), (0b101, false), (0b100, false), (0b1000, false)];
        for (matching, expected) in cases {
            assert_eq!(path_matches(&wanted, matching), expected, "{matching:b}");
        }
        let sized = Wanted { size_min: 10, size_max: 20, ..Wanted::default() };
        assert_eq!([9, 10, 20, 21].map(|bytes| size_matches(&sized, bytes)), [false, true, true, false]);
        assert_eq!((kind(0o140_777), kind(0o100_644), kind(0)), (1 << 12, 1 << 8, 1));
        assert_eq!([0, 1, 2, 3].map(access), [ACCESS_READ, ACCESS_WRITE, ACCESS_WRITE, ACCESS_WRITE]);
        let others = Wanted { paths: 0, ..wanted };
        assert!(path_matches(&others, 0b011) && !path_matches(&others, 0b100));
        assert_eq!(matching_patterns(0b111, 0b110, 0b011), 0b010);
    }
}
