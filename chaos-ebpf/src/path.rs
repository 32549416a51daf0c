//! Paths of what a call works on, and the patterns they match.

use crate::{
    caller::{Registers, word, words},
    globals::{KC_LAYOUT, KC_PATH_ENDS},
    maps::{KC_ARGUMENTS, KC_PATH_BEGINNINGS, KC_PATH_ENDINGS, KC_PATH_LENGTHS},
    scratch::{self, CallScratch, GIVEN, GIVEN_BYTES, SLOT_BITS, SLOTS, get, set},
};
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user_str};
use chaos_common::{
    layout::{
        BINPRM_FILE, DENTRY_NAME, DENTRY_PARENT, FILE_PATH, FILES_TABLE, FS_PWD, FS_ROOT, MOUNT_NAMESPACE,
        MOUNT_PARENT, MOUNT_POINT, MOUNT_PUBLIC, MOUNT_ROOT, TABLE_FILES, TABLE_LEN, TASK_FILES, TASK_FS,
    },
    limits::PATH_COMPONENTS_MAX,
    syscall_match::{
        Arguments, LENGTHS_MAX, NO_REGISTER, PATTERN_BYTES, SUBJECT_BINPRM, SUBJECT_HIDDEN, SUBJECT_NONE,
        SUBJECT_PATH, matching_patterns,
    },
};

/// A resolved part that would begin before here is too long.
const RESOLVED_MIN: u32 = 256;
/// What is known of a path: it is known.
const KNOWN: u32 = 0;
/// There is none: no such file, or one without a place among the mounted file systems.
pub const NONE: u32 = 1;
/// It could not be read, or is too long.
pub const UNREADABLE: u32 = 2;

/// Offset of a member of [`chaos_common::layout::MEMBERS`].
#[inline(always)]
pub fn offset(member: usize) -> u64 {
    u64::from(KC_LAYOUT[member].load())
}

/// The file behind a descriptor of the current task; 0 if there is none.
#[inline(always)]
pub fn file_of(descriptor: i32) -> u64 {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files = word(task + offset(TASK_FILES)).unwrap_or(0);
    let table = word(files + offset(FILES_TABLE)).unwrap_or(0);
    let length = word(table + offset(TABLE_LEN)).unwrap_or(0) as u32;
    if descriptor < 0 || descriptor as u32 >= length {
        return 0;
    }
    let open = word(table + offset(TABLE_FILES)).unwrap_or(0);
    word(open + 8 * descriptor as u64).unwrap_or(0)
}

/// Address of a byte of the path, for helpers.
#[inline(always)]
fn at(scratch: *mut CallScratch, place: u32) -> *mut u8 {
    // SAFETY: the mask keeps the place within the path, and a longest name behind it too.
    unsafe { (&raw mut (*scratch).path).cast::<u8>().add((place & (GIVEN + GIVEN_BYTES - 1)) as usize) }
}

#[inline(always)]
fn put(scratch: *mut CallScratch, place: u32, byte: u8) {
    // SAFETY: see `at`.
    unsafe { at(scratch, place).write_volatile(byte) };
}

/// Where a path may end that is resolved.
const LAST: u32 = GIVEN - 1;

/// Writes where the base is, seen from the task's root. Ends before the given part.
#[inline(always)]
fn resolve(scratch: *mut CallScratch, slot: u32) {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let [mount, dentry] = words(get!(scratch.base));
    let [root_mount, root_dentry] = words(word(task + offset(TASK_FS)).unwrap_or(0) + offset(FS_ROOT));
    set!(scratch.mount = mount);
    set!(scratch.dentry = dentry);
    set!(scratch.root_mount = root_mount);
    set!(scratch.root_dentry = root_dentry);
    set!(scratch.begin = LAST);
    set!(scratch.end = LAST);
    set!(scratch.state = UNREADABLE);
    put(scratch, LAST, 0);
    for _ in 0..PATH_COMPONENTS_MAX {
        if kc_climb(slot) == 0 {
            break;
        }
    }
    if get!(scratch.begin) == LAST {
        set!(scratch.begin = LAST - 1);
        put(scratch, LAST - 1, b'/');
    }
}

/// One step towards the root in the scratch of this slot. 1 if there is another one.
///
/// Like the other global function here, for the verifier's sake: it follows each once, where it would follow their body anew
/// for every step and path, in every copy of a program (5.6, `do_check_subprogs`, kernel/bpf/verifier.c).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kc_climb(slot: u32) -> u32 {
    let Some(scratch) = scratch::of_slot(slot) else { return 0 };
    climb(scratch).into()
}

#[inline(always)]
fn climb(scratch: *mut CallScratch) -> bool {
    let (mount, dentry) = (get!(scratch.mount), get!(scratch.dentry));
    if dentry == get!(scratch.root_dentry) && mount == get!(scratch.root_mount) {
        set!(scratch.state = KNOWN);
        return false;
    }
    let top = word(mount + offset(MOUNT_ROOT)).unwrap_or(0);
    if dentry == top {
        let whole = mount - offset(MOUNT_PUBLIC);
        let parent = word(whole + offset(MOUNT_PARENT)).unwrap_or(0);
        if parent == whole {
            // Pipes, sockets and memory files are on mounts of no namespace, or of an invalid one.
            let namespace = word(whole + offset(MOUNT_NAMESPACE)).unwrap_or(0) as i64;
            set!(
                scratch.state = if namespace == 0 || (-4095..0).contains(&namespace) { NONE } else { KNOWN }
            );
            return false;
        }
        set!(scratch.dentry = word(whole + offset(MOUNT_POINT)).unwrap_or(0));
        set!(scratch.mount = parent + offset(MOUNT_PUBLIC));
        return true;
    }
    let parent = word(dentry + offset(DENTRY_PARENT)).unwrap_or(0);
    if parent == dentry || parent == 0 {
        // Not below its mount: removed from under it, or the read failed.
        set!(scratch.state = NONE);
        return false;
    }
    // `struct qstr` (include/linux/dcache.h): hash and length in one word, then the name.
    let [hash_and_length, name] = words(dentry + offset(DENTRY_NAME));
    let length = (hash_and_length >> 32) as u32 & 0xff;
    let begin = get!(scratch.begin).wrapping_sub(length) & LAST;
    if begin <= RESOLVED_MIN {
        return false;
    }
    // SAFETY: `at` leaves room for a longest name.
    if unsafe { bpf_probe_read_kernel(at(scratch, begin).cast(), length, name as *const _) } != 0 {
        return false;
    }
    put(scratch, begin - 1, b'/');
    set!(scratch.begin = begin - 1);
    set!(scratch.dentry = parent);
    true
}

/// Finds out the paths of a call, and the patterns they match. `slot` is the scratch's.
#[inline(always)]
pub fn look_at(scratch: *mut CallScratch, slot: u32, arguments: &Arguments) {
    set!(scratch.patterns = 0);
    set!(scratch.all = if arguments.subject == SUBJECT_HIDDEN { UNREADABLE } else { NONE });
    for index in 0..2 {
        set!(scratch.state = NONE);
        kc_path(slot | (index * SECOND_PATH));
        if get!(scratch.state) == UNREADABLE {
            set!(scratch.all = UNREADABLE);
        }
        if get!(scratch.state) == KNOWN && get!(scratch.all) == NONE {
            set!(scratch.all = KNOWN);
        }
        if arguments.paths[1] == NO_REGISTER {
            break;
        }
    }
}

/// In the argument of [`kc_path`], beside a slot: the second path of a call with two.
const SECOND_PATH: u32 = SLOTS;

/// Finds out one of the paths of the call in a scratch, and the patterns it matches.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kc_path(slot_and_path: u32) -> u32 {
    let Some(scratch) = scratch::of_slot(slot_and_path) else { return 0 };
    let row = get!(scratch.row);
    let Some(arguments) = KC_ARGUMENTS.get(row) else { return 0 };
    let registers = Registers::at(get!(scratch.registers), row);
    let second = slot_and_path & SECOND_PATH != 0;
    one(scratch, slot_and_path & SLOT_BITS, arguments, &registers, usize::from(second));
    if get!(scratch.state) == KNOWN {
        let matching = patterns(scratch);
        set!(scratch.patterns = get!(scratch.patterns) | matching);
    }
    1
}

#[inline(always)]
fn one(scratch: *mut CallScratch, slot: u32, arguments: &Arguments, registers: &Registers, index: usize) {
    set!(scratch.given = 1);
    set!(scratch.base = 0);
    let (kind, subject) = (arguments.subject, get!(scratch.subject));
    if kind == SUBJECT_HIDDEN {
        return;
    }
    if kind == SUBJECT_PATH {
        set!(scratch.base = subject);
    } else if kind != SUBJECT_NONE {
        let file =
            if kind == SUBJECT_BINPRM { word(subject + offset(BINPRM_FILE)).unwrap_or(0) } else { subject };
        set!(scratch.base = path_of_file(file));
    } else if arguments.paths[index] != NO_REGISTER {
        if !given(scratch, registers.get(arguments.paths[index])) {
            return;
        }
        let directory = arguments.directories[index];
        let directory = if directory == NO_REGISTER { -1 } else { registers.get(directory) as i32 };
        if directory < 0 {
            // SAFETY: the helper has no preconditions.
            let task = unsafe { bpf_get_current_task() };
            set!(scratch.base = word(task + offset(TASK_FS)).unwrap_or(0) + offset(FS_PWD));
        } else {
            set!(scratch.base = path_of_file(file_of(directory)));
        }
    } else if arguments.file != NO_REGISTER {
        set!(scratch.base = path_of_file(file_of(registers.get(arguments.file) as i32)));
    }
    if get!(scratch.base) == 0 {
        return;
    }
    resolve(scratch, slot);
    let given = get!(scratch.given);
    // An empty path means the directory itself (AT_EMPTY_PATH).
    if get!(scratch.state) != KNOWN || given == 1 {
        return;
    }
    // Join them; "/" itself ends in a slash already.
    if get!(scratch.begin) == LAST - 1 {
        set!(scratch.begin = LAST);
    }
    put(scratch, LAST, b'/');
    set!(scratch.end = GIVEN + given - 1);
}

/// Reads a path as the caller gives it. Whether it is relative; otherwise it is known, or cannot be read.
#[inline(always)]
fn given(scratch: *mut CallScratch, address: u64) -> bool {
    if !read_given(scratch, address) {
        return false;
    }
    if given_byte(scratch, 0) == b'/' {
        set!(scratch.begin = GIVEN);
        set!(scratch.end = GIVEN + get!(scratch.given) - 1);
        set!(scratch.state = KNOWN);
        return false;
    }
    let has_dot = given_byte(scratch, 0) == b'.' && given_byte(scratch, 1) == b'/';
    !has_dot || read_given(scratch, address + 2)
}

/// Address of the `struct path` in a `struct file`; 0 if there is no file.
#[inline(always)]
fn path_of_file(file: u64) -> u64 {
    if file == 0 { 0 } else { file + offset(FILE_PATH) }
}

#[inline(always)]
fn given_byte(scratch: *mut CallScratch, place: u32) -> u8 {
    // SAFETY: see `at`.
    unsafe { at(scratch, GIVEN + place).read_volatile() }
}

/// Reads a path from user space, fault-tolerantly. Whether that worked.
#[inline(always)]
fn read_given(scratch: *mut CallScratch, address: u64) -> bool {
    // One byte more, to see what is too long.
    // SAFETY: the given part of the path has room for a name more.
    let length =
        unsafe { bpf_probe_read_user_str(at(scratch, GIVEN).cast(), GIVEN_BYTES + 1, address as *const _) };
    if length < 0 || length > i64::from(GIVEN_BYTES) {
        set!(scratch.state = UNREADABLE);
        return false;
    }
    // Until 6.13, the 0 that ends an empty string is not counted (`strncpy_from_user_nofault`, mm/maccess.c).
    set!(scratch.given = if length == 0 { 1 } else { length as u32 });
    true
}

/// Patterns that the path matches.
#[inline(always)]
fn patterns(scratch: *mut CallScratch) -> u64 {
    // SAFETY: pointers to a map value.
    let key = unsafe { &raw mut (*scratch).key };
    // SAFETY: as above.
    let bytes = unsafe { (&raw mut (*key).bytes).cast::<u8>() };
    // SAFETY: as above.
    unsafe { (&raw mut (*key).bits).write_volatile(8 * PATTERN_BYTES as u32) };
    let (begin, end) = (get!(scratch.begin), get!(scratch.end));
    // SAFETY: the key has room for so many bytes.
    unsafe { bpf_probe_read_kernel(bytes.cast(), PATTERN_BYTES as u32, at(scratch, begin).cast()) };
    // SAFETY: the key is complete.
    let beginnings = KC_PATH_BEGINNINGS.get(unsafe { &*key.cast() }).copied().unwrap_or(0);
    if KC_PATH_ENDS.load() == 0 {
        return beginnings;
    }
    // No pattern goes on behind this.
    put(scratch, begin.wrapping_sub(1), 0);
    for index in 0..PATTERN_BYTES as u32 {
        let byte = at(scratch, end.wrapping_sub(1 + index));
        // SAFETY: see `at`; the index is within the key.
        unsafe { bytes.add(index as usize).write_volatile(byte.read_volatile()) };
    }
    // SAFETY: the key is complete.
    let endings = KC_PATH_ENDINGS.get(unsafe { &*key.cast() }).copied().unwrap_or(0);
    let length = end.wrapping_sub(begin);
    let length = if length < LENGTHS_MAX { length } else { LENGTHS_MAX - 1 };
    matching_patterns(beginnings, endings, KC_PATH_LENGTHS.get(length).copied().unwrap_or(0))
}
