use super::*;
use crate::{
    plan::{PlannedRule, SecurityHook},
    spec::{
        network::{self as spec_network, Direction},
        when::When,
    },
};
use chaos_common::rule::{MATCH_PROTOCOL, MATCH_REMOTE, MATCH_REMOTE_PORT};

fn loss(percent: &str, matches: spec_network::Match, direction: Direction) -> Fault {
    Fault::Network(Box::new(spec_network::Fault {
        direction,
        matches,
        effect: Effect::Loss,
        per_flow: false,
        when: When::from_parts([percent].into_iter()).unwrap(),
    }))
}

fn plan(rules: Vec<(Fault, Vec<Mechanism>)>) -> Plan {
    Plan {
        run: "test".into(),
        rules: rules
            .into_iter()
            .map(|(fault, mechanisms)| PlannedRule {
                name: "x".into(),
                calls: match &fault {
                    Fault::Syscall(fault) => SystemCall::all()
                        .filter(|call| fault.calls.contain(*call))
                        .map(|call| (call, mechanisms.clone()))
                        .collect(),
                    Fault::Network(_) => vec![],
                },
                fault,
                mechanisms,
                limits: vec![],
            })
            .collect(),
        duration: None,
        observe: false,
        seed: None,
        task_ancestor: true,
        registers: Registers::default(),
        trees: vec![],
    }
}

fn job<'a>(plan: &'a Plan, targets: &'a [(u64, u32)]) -> Job<'a> {
    Job { plan, targets, await_exec: false }
}

#[test]
fn runs_share_one_engine_without_mixing() {
    let lossy = plan(vec![(
        loss("5%", Default::default(), Direction::Both),
        vec![Mechanism::Tcx, Mechanism::CgroupSkb],
    )]);
    let failing = plan(vec![(
        Fault::Syscall(Box::new("openat=EIO".parse().unwrap())),
        vec![Mechanism::Security { by: SecurityHook::Lsm, hook: "file_open", id: 3 }],
    )]);
    let image =
        encode(&[job(&lossy, &[(10, 2)]), job(&failing, &[(11, 3)]), job(&failing, &[(10, 2)])]).unwrap();
    assert_eq!(
        image.targets,
        [(10, Target { rules: 0b101, runs: 0b101 }), (11, Target { rules: 0b10, runs: 0b10 })]
    );
    assert_eq!((image.egress_rules, image.ingress_rules), (1, 1));
    let call = Call { rules: 0b110, hook: 3, other_hook: 3 };
    let rows = [257, call_row(295, true).unwrap(), ring_row(3, false)];
    assert_eq!(image.calls, BTreeMap::from(rows.map(|row| (row, call))));
    assert_eq!(image.rules.iter().map(|rule| rule.run).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((image.select_skb, image.levels), (SELECT_LEVELS, 0b1100));
}

#[test]
fn what_is_numbered_keeps_its_number_while_others_come_and_go() {
    let lossy = plan(vec![(loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx])]);
    let twice = plan(vec![
        (loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx]),
        (loss("6%", Default::default(), Direction::Egress), vec![Mechanism::Tcx]),
    ]);
    let seat = |slot, rules: &[u32]| Seat { slot, rules: rules.to_vec() };
    let (first, second, third) = (seat(0, &[0, 1]), seat(1, &[2]), seat(0, &[0, 3]));
    let of = |id| vec![(id, 3)];
    let (one, two, three) = (of(10), of(11), of(12));
    let both = share(&[(&first, &job(&twice, &one)), (&second, &job(&lossy, &two))], &Image::default());
    let both = both.unwrap();
    let target = |rules, runs| Target { rules, runs };
    assert_eq!(both.targets, [(10, target(0b011, 0b01)), (11, target(0b100, 0b10))]);
    // The first one goes.
    let left = share(&[(&second, &job(&lossy, &two))], &both).unwrap();
    assert_eq!(left.targets, [EMPTY, (11, target(0b100, 0b10))]);
    assert_eq!(left.rules.iter().map(|rule| rule.kind != 0).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!((left.rules[2], left.runs[1]), (both.rules[2], both.runs[1]));
    // Another one takes what is free, behind which its rules are.
    let again = share(&[(&second, &job(&lossy, &two)), (&third, &job(&twice, &three))], &left).unwrap();
    assert_eq!(again.targets, [(12, target(0b1001, 0b01)), (11, target(0b100, 0b10))]);
    assert_eq!(again.rules.iter().map(|rule| rule.run).collect::<Vec<_>>(), [0, 0, 1, 0]);
    assert_eq!((again.select_skb, again.levels), (SELECT_LEVELS, 0b1000));
    assert!(share(&[], &again).unwrap().targets.is_empty());
}

#[test]
fn draws_are_the_runs_own_wherever_its_rules_are() {
    let mut seeded = plan(vec![(loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx])]);
    seeded.seed = Some(42);
    let targets = [(10, 3)];
    let at = |number| {
        let seat = Seat { slot: 0, rules: vec![number] };
        share(&[(&seat, &job(&seeded, &targets))], &Image::default()).unwrap().rules[number as usize]
    };
    assert_eq!(at(0).seed, at(40).seed);
    assert_eq!(at(40).number, 40);
}

#[test]
fn few_targets_of_one_level_are_compared() {
    let lossy = plan(vec![(loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx])]);
    let targets: Vec<_> = (1..=9).map(|id| (id, 4)).collect();
    let jobs: Vec<_> = targets[..8].iter().map(|one| job(&lossy, std::slice::from_ref(one))).collect();
    let image = encode(&jobs).unwrap();
    assert_eq!(
        (image.select_skb, image.fast_level, image.fast_ids),
        (SELECT_FAST, 4, [1, 2, 3, 4, 5, 6, 7, 8])
    );
    assert_eq!(encode(&[job(&lossy, &targets[..8])]).unwrap().fast_ids, image.fast_ids);
    assert_eq!(encode(&[job(&lossy, &targets)]).unwrap().select_skb, SELECT_LEVELS);
}

#[test]
fn a_target_that_is_made_anew_is_what_it_was() {
    let lossy = plan(vec![(loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx])]);
    for count in [2, 9] {
        let mut targets: Vec<_> = (1..=count).map(|id| (id, 4)).collect();
        let image = encode(&[job(&lossy, &targets)]).unwrap().with_target(2, 70);
        targets[1].0 = 70;
        assert_eq!(image, encode(&[job(&lossy, &targets)]).unwrap());
    }
}

#[test]
fn many_targets_of_one_run_are_subject_to_the_same() {
    let lossy = plan(vec![(loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx])]);
    let targets: Vec<_> = (1..=u64::from(TARGETS_MAX)).map(|id| (id, 4)).collect();
    let image = encode(&[job(&lossy, &targets), job(&lossy, &[(7, 4)])]).unwrap();
    assert_eq!((image.rules.len(), image.runs.len(), image.targets.len()), (2, 2, targets.len()));
    assert_eq!(image.targets[6].1, Target { rules: 0b11, runs: 0b11 });
    let kinds = [Target { rules: 1, runs: 1 }, Target { rules: 0b11, runs: 0b11 }];
    assert_eq!(image.slots(), kinds);
    let more: Vec<_> = (1..=u64::from(TARGETS_MAX) + 1).map(|id| (id, 4)).collect();
    let refused = encode(&[job(&lossy, &more)]).unwrap_err().to_string();
    assert!(refused.contains("16385 targets are above the limit of 16384"), "{refused}");
}

#[test]
fn only_calls_have_few_targets_on_old_kernels() {
    let mut lossy = plan(vec![(loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx])]);
    let mut failing = plan(vec![(
        Fault::Syscall(Box::new("openat=EIO".parse().unwrap())),
        vec![Mechanism::Security { by: SecurityHook::Lsm, hook: "file_open", id: 3 }],
    )]);
    (lossy.task_ancestor, failing.task_ancestor) = (false, false);
    let targets: Vec<_> = (1..=65).map(|id| (id, 4)).collect();
    assert_eq!(encode(&[job(&lossy, &targets)]).unwrap().targets.len(), 65);
    let image = encode(&[job(&failing, &targets[..64])]).unwrap();
    assert_eq!((image.select_task, image.slots().len()), (SELECT_WALK, 64));
    assert!(encode(&[job(&failing, &targets)]).unwrap_err().to_string().contains("below 5.12"));
}

#[test]
fn matches_become_bits() {
    let matches = spec_network::Match {
        protocol: Some(spec_network::Protocol::Tcp),
        remote: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        remote_ports: spec_network::Ports { only: vec![80..=81], ..Default::default() },
        ..spec_network::Match::default()
    };
    let lossy = plan(vec![
        (loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx]),
        (loss("5%", matches, Direction::Egress), vec![Mechanism::Tcx]),
    ]);
    let image = encode(&[job(&lossy, &[(1, 1)])]).unwrap();
    assert_eq!(image.rules[0].matches, 0);
    assert_eq!(image.rules[1].matches, MATCH_PROTOCOL | MATCH_REMOTE | MATCH_REMOTE_PORT);
    assert_eq!(image.ports, BTreeMap::from([(80, 2), (81, 2)]));
    assert_eq!(image.remote4, [("10.0.0.0/8".parse().unwrap(), 2)]);
    assert_eq!(image.remote6, [("fd00::/8".parse().unwrap(), 2)]);
    assert!(image.parse && image.remote && image.remote_port);
}

#[test]
fn what_does_not_fit_is_refused() {
    let lossy = plan(vec![(loss("5%", Default::default(), Direction::Egress), vec![Mechanism::Tcx])]);
    let jobs: Vec<_> = (0..64).map(|_| job(&lossy, &[(1, 1)])).collect();
    assert!(encode(&jobs).unwrap_err().to_string().contains("64 runs are above the limit of 63"));
    assert!(matches!(encode(&[job(&lossy, &[(1, 32)])]), Err(Error::TooDeep { level: 32 })));
}
