//! Members of kernel structures that programs read, found by user space in the kernel's type information.

/// Structure and member; the place in this list is the member's index. Members of anonymous parts count as the
/// structure's own.
pub const MEMBERS: [(&str, &str); MEMBERS_COUNT] = [
    ("task_struct", "fs"),
    ("fs_struct", "root"),
    ("fs_struct", "pwd"),
    ("task_struct", "files"),
    ("files_struct", "fdt"),
    ("fdtable", "fd"),
    ("fdtable", "max_fds"),
    ("file", "f_path"),
    ("dentry", "d_parent"),
    ("dentry", "d_name"),
    ("vfsmount", "mnt_root"),
    ("mount", "mnt"),
    ("mount", "mnt_parent"),
    ("mount", "mnt_mountpoint"),
    ("mount", "mnt_ns"),
    ("linux_binprm", "file"),
    ("file", "f_inode"),
    ("inode", "i_mode"),
    ("file", "f_mode"),
    ("file", "private_data"),
    ("socket", "sk"),
    ("sock_common", "skc_family"),
    ("sock_common", "skc_dport"),
    ("sock_common", "skc_daddr"),
    ("sock_common", "skc_v6_daddr"),
    ("sock", "sk_cgrp_data"),
    ("sock_cgroup_data", "cgroup"),
    ("cgroup", "kn"),
    ("cgroup", "level"),
    ("cgroup", "ancestors"),
    ("kernfs_node", "id"),
];

/// Members in use.
pub const MEMBERS_COUNT: usize = 31;

/// `task_struct.fs`.
pub const TASK_FS: usize = 0;
/// `fs_struct.root`.
pub const FS_ROOT: usize = 1;
/// `fs_struct.pwd`.
pub const FS_PWD: usize = 2;
/// `task_struct.files`.
pub const TASK_FILES: usize = 3;
/// `files_struct.fdt`.
pub const FILES_TABLE: usize = 4;
/// `fdtable.fd`.
pub const TABLE_FILES: usize = 5;
/// `fdtable.max_fds`.
pub const TABLE_LEN: usize = 6;
/// `file.f_path`.
pub const FILE_PATH: usize = 7;
/// `dentry.d_parent`.
pub const DENTRY_PARENT: usize = 8;
/// `dentry.d_name`.
pub const DENTRY_NAME: usize = 9;
/// `vfsmount.mnt_root`.
pub const MOUNT_ROOT: usize = 10;
/// `mount.mnt`, the `vfsmount` in it.
pub const MOUNT_PUBLIC: usize = 11;
/// `mount.mnt_parent`.
pub const MOUNT_PARENT: usize = 12;
/// `mount.mnt_mountpoint`.
pub const MOUNT_POINT: usize = 13;
/// `mount.mnt_ns`.
pub const MOUNT_NAMESPACE: usize = 14;
/// `linux_binprm.file`.
pub const BINPRM_FILE: usize = 15;
/// `file.f_inode`.
pub const FILE_INODE: usize = 16;
/// `inode.i_mode`.
pub const INODE_MODE: usize = 17;
/// `file.f_mode`.
pub const FILE_MODE: usize = 18;
/// `file.private_data`: of a socket, its `struct socket`.
pub const FILE_PRIVATE: usize = 19;
/// `socket.sk`.
pub const SOCKET_SK: usize = 20;
/// `sock_common.skc_family`, of the `sock_common` that a `sock` begins with.
pub const SOCK_FAMILY: usize = 21;
/// `sock_common.skc_dport`.
pub const SOCK_REMOTE_PORT: usize = 22;
/// `sock_common.skc_daddr`.
pub const SOCK_REMOTE_V4: usize = 23;
/// `sock_common.skc_v6_daddr`; without CONFIG_IPV6 there is none.
pub const SOCK_REMOTE_V6: usize = 24;
/// `sock.sk_cgrp_data`.
pub const SOCK_CGROUP: usize = 25;
/// `sock_cgroup_data.cgroup`, the pointer (5.15).
pub const SOCK_CGROUP_POINTER: usize = 26;
/// `cgroup.kn`.
pub const CGROUP_NODE: usize = 27;
/// `cgroup.level`.
pub const CGROUP_LEVEL: usize = 28;
/// `cgroup.ancestors`, itself included (6.1).
pub const CGROUP_ANCESTORS: usize = 29;
/// `kernfs_node.id`.
pub const NODE_ID: usize = 30;
/// The members that lead from a socket to its ancestor cgroups.
pub const SOCKET_TO_CGROUPS: [usize; 6] =
    [SOCK_CGROUP, SOCK_CGROUP_POINTER, CGROUP_NODE, CGROUP_LEVEL, CGROUP_ANCESTORS, NODE_ID];

/// Offset of a member that the kernel's type information does not have.
pub const UNKNOWN: u32 = u32::MAX;

/// The same for what tells of the signals of a task and its process.
pub const SIGNAL_MEMBERS: [(&str, &str); 4] = [
    ("task_struct", "ptrace"),
    ("task_struct", "jobctl"),
    ("signal_struct", "shared_pending"),
    ("sigpending", "signal"),
];
/// `task_struct.ptrace`.
pub const TASK_PTRACE: usize = 0;
/// `task_struct.jobctl`.
pub const TASK_JOBCTL: usize = 1;
/// `signal_struct.shared_pending`.
pub const SIGNAL_PENDING: usize = 2;
/// `sigpending.signal`.
pub const PENDING_SET: usize = 3;
