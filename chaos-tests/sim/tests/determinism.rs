//! A seed means one history and one sequence of bytes on the wire: twice in one process, and
//! in another one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{process::Command, time::Duration};

use kvmesh_sim::{Order, Shape, run};

fn order(seed: u64) -> Order {
    Order {
        seed,
        shape: Shape {
            regions: 1,
            nodes: 3,
            gateways: 1,
            clients: 2,
        },
        load: Duration::from_secs(5),
        faults: false,
        mutation: None,
        keep_lines: true,
        keep_segments: false,
    }
}

#[test]
fn a_seed_is_one_history_in_this_process_and_in_another() {
    for seed in [1, 2] {
        let (first, second) = (run(&order(seed)), run(&order(seed)));
        let differs = first.lines.iter().zip(&second.lines).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}");
        assert!(first.history.ops.len() > 5, "seed {seed} did nothing");
        let elsewhere = Command::new(env!("CARGO_BIN_EXE_kvmesh-sim"))
            .args([
                "--seed",
                &seed.to_string(),
                "--load-s",
                "5",
                "--calm",
                "--regions",
                "1",
            ])
            .output()
            .unwrap();
        let printed = String::from_utf8(elsewhere.stdout).unwrap();
        let fingerprint = first.fingerprint.to_string();
        assert!(printed.contains(&fingerprint), "{fingerprint}:\n{printed}");
    }
    assert_ne!(run(&order(1)).fingerprint, run(&order(2)).fingerprint);
}
