//! Remote ends by name and by the thousand.

use anyhow::{Context as _, Result, ensure};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::{Kchaos, binary};
use integration_tests::loss::both_ends_in_target;
use integration_tests::netns::NetNs;
use integration_tests::spawn::Place;
use integration_tests::topology::endpoint;
use std::process::Command;

/// What `kchaos plan` prints.
fn plan(words: &str, place: &Place) -> Result<String> {
    let mut command = Command::new(binary()?);
    command.arg("plan").args(words.split_whitespace());
    place.apply(&mut command)?;
    let output = command.output().context("running kchaos plan")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_name_means_all_its_addresses() -> Result<()> {
    let (netns, cgroup) = (NetNs::new()?, TestCgroup::new()?);
    let place = cgroup.runner()?.in_netns(&netns);
    let said = plan("--loss 100% --remote localhost", &place)?;
    ensure!(said.contains("remote localhost (") && said.contains("127.0.0.1"), "{said}");
    for (faults, address, lost) in [
        ("--loss 100% --remote localhost", "127.0.0.1", true),
        ("--loss 100% --remote localhost", "127.0.0.2", false),
        ("--loss 100% --remote 127.0.0.0/8 --remote !localhost", "127.0.0.1", false),
        ("--loss 100% --remote 127.0.0.0/8 --remote !localhost", "127.0.0.2", true),
    ] {
        let run = both_ends_in_target(faults, &place, &endpoint(address, 7001)?, 50, None)?;
        let what = format!("{faults} to {address}");
        if lost {
            run.traffic.check_silent()?;
            ensure!(run.traffic.received == 0, "{what}: {}", run.traffic);
        } else {
            run.check_unmatched(&what)?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn names_without_addresses_are_told_all_at_once() -> Result<()> {
    let (netns, cgroup) = (NetNs::new()?, TestCgroup::new()?);
    let place = Place::default().in_cgroup(cgroup.root()).in_netns(&netns);
    let faults = "--loss 5% --remote nowhere.invalid --remote !neither.invalid";
    let finished = Kchaos::exec(faults, &["true"]).at(&place).run()?;
    finished.expect_status(125)?;
    let error = finished.error()?;
    ensure!(error.code == 2, "{error:?}");
    for name in ["'nowhere.invalid'", "'neither.invalid'"] {
        ensure!(error.message.contains(name), "{error:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_thousand_prefixes_hit_what_the_longest_says() -> Result<()> {
    let (netns, cgroup) = (NetNs::new()?, TestCgroup::new()?);
    netns.ip("-6 addr add fd77:0:1::5/128 dev lo nodad")?;
    netns.ip("-6 addr add fd77:0:1::6/128 dev lo nodad")?;
    let place = cgroup.runner()?.in_netns(&netns);
    let mut faults = "--loss 100%".to_owned();
    for number in 0..1_000 {
        faults += &format!(
            " --remote 127.{}.{}.0/24 --remote fd77:0:{number:x}::/48",
            1 + number / 250,
            number % 250
        );
    }
    faults += " --remote !127.2.77.4/30 --remote 127.2.77.6 --remote !fd77:0:1::4/126 --remote fd77:0:1::6";
    for (address, lost) in [
        ("127.1.0.1", true),
        ("127.4.249.1", true),
        ("127.2.77.1", true),
        ("127.2.77.5", false),
        ("127.2.77.6", true),
        ("127.5.0.1", false),
        ("fd77:0:1::5", false),
        ("fd77:0:1::6", true),
    ] {
        let run = both_ends_in_target(&faults, &place, &endpoint(address, 7001)?, 50, None)?;
        if lost {
            run.traffic.check_silent()?;
            ensure!(run.traffic.received == 0, "{address}: {}", run.traffic);
        } else {
            run.check_unmatched(address)?;
        }
    }
    let said = plan(&faults, &place)?;
    ensure!(said.contains("1986 more"), "{said}");
    Ok(())
}
