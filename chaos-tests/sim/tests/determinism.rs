//! A seed means one history and one sequence of bytes on the wire: twice in one process, and
//! in another one, with faults and without.
//!
//! Asks the program: std's clocks are the simulation's in a process that links the library.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

fn kvmesh_sim(arguments: &[&str]) -> (bool, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kvmesh-sim"));
    let ran = program.args(arguments).output().unwrap();
    let (out, err) = (&ran.stdout, &ran.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    (ran.status.success(), format!("{out}\n{err}"))
}

#[test]
fn a_seed_is_one_history_in_this_process_and_in_another() {
    for more in [&["--seeds", "0..6"][..], &["--seeds", "90..93", "--calm"]] {
        let (well, told) = kvmesh_sim(&[&["--repeat"], more].concat());
        assert!(well, "{told}");
        println!("{told}");
    }
    let fingerprint = |seed| {
        let (_, told) = kvmesh_sim(&["--brief", "--load-s", "3", "--seed", seed]);
        let line = told.lines().find(|line| line.starts_with("seed ")).unwrap();
        line.split(' ').nth(2).unwrap().to_owned()
    };
    assert_ne!(fingerprint("1"), fingerprint("2"));
}
