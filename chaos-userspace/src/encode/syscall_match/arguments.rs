//! Where the arguments of calls are.

use super::super::Image;
use crate::{
    plan::{
        Mechanism,
        syscall::{arguments, entry, hooks},
    },
    spec::{syscall::Call, syscall_match::Match},
};
use chaos_common::{
    syscall::{HOOK_FILE_PERMISSION, call_row, ring_row},
    syscall_match::{Arguments, SUBJECT_HIDDEN, SUBJECT_NONE},
};

/// Says where the arguments of a call are, in every row in which this hook finds it.
pub fn add_arguments(matches: &Match, call: Call, mechanism: &Mechanism, image: &mut Image) {
    // What only holds back judges nothing.
    if !matches.has_arguments() || mechanism.only_holds() || *mechanism == Mechanism::Notification {
        return;
    }
    let positions = arguments::of(call.name());
    let (subject, ring_hook) = match mechanism {
        Mechanism::Security { hook, id, .. } => {
            (arguments::subject(hook), hooks::in_ring(call.name()).then_some(*id))
        }
        _ => (SUBJECT_NONE, None),
    };
    // What is not in registers, only the hook can say.
    let hidden = Arguments {
        subject: if subject == SUBJECT_NONE { SUBJECT_HIDDEN } else { subject },
        ..Arguments::default()
    };
    let of = |compat| Arguments { subject, ..positions.registers(call.name(), compat) };
    image.arguments.extend(call_row(call.number(), false).map(|row| (row, of(None))));
    for (name, number) in entry::compat(call.name()) {
        let places = if arguments::are_behind(name) { hidden } else { of(Some(name)) };
        image.arguments.extend(call_row(number, true).map(|row| (row, places)));
    }
    if let Some(hook) = ring_hook {
        // A ring's call has its arguments elsewhere.
        let write = hook == HOOK_FILE_PERMISSION && hooks::writes(call.name());
        image.arguments.insert(ring_row(hook, write), hidden);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{EntryHook, SecurityHook},
        spec::syscall_match::Choice,
    };
    use chaos_common::syscall_match::SUBJECT_FILE;

    #[test]
    fn arguments_are_where_the_hook_and_the_caller_leave_them() {
        let mut image = Image::default();
        let matches =
            Match { path: Choice { only: vec!["/a".parse().unwrap()], except: vec![] }, ..Match::default() };
        let by = SecurityHook::Lsm;
        add_arguments(
            &matches,
            "openat".parse().unwrap(),
            &Mechanism::Security { by, hook: "file_open", id: 3 },
            &mut image,
        );
        assert!(
            image.arguments.len() == 3 && image.arguments.values().all(|one| one.subject == SUBJECT_FILE)
        );
        let by_entry = Mechanism::Entry { by: EntryHook::Kprobe, function: String::new() };
        add_arguments(&matches, "mmap".parse().unwrap(), &by_entry, &mut image);
        let old_mmap = call_row(90, true).unwrap();
        assert_eq!(image.arguments[&old_mmap], Arguments { subject: SUBJECT_HIDDEN, ..Arguments::default() });
        let unlink = Mechanism::Security { by, hook: "inode_unlink", id: 4 };
        add_arguments(&matches, "unlinkat".parse().unwrap(), &unlink, &mut image);
        assert_eq!(image.arguments[&263].subject, SUBJECT_NONE);
        assert_eq!(image.arguments[&ring_row(4, false)].subject, SUBJECT_HIDDEN);
    }
}
