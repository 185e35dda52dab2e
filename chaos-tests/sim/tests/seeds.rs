//! What every build must pass: some seeds with faults, without a bug.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

/// Run by every build; many more are run by hand (`docs/claims.md`).
const SEEDS: &str = "0..20";

#[test]
fn seeds_have_no_bugs() {
    let swept = Command::new(env!("CARGO_BIN_EXE_kvmesh-sim"))
        .args(["--seeds", SEEDS])
        .output()
        .unwrap();
    let (out, err) = (&swept.stdout, &swept.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(swept.status.success(), "{out}\n{err}");
    println!("{out}");
}
