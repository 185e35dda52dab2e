use kvmesh_directory::{Description, Hlc, Policy};

use super::*;

fn namespace(prefill_rate: f64) -> Namespace {
    let description = Description {
        model: "m".to_owned(),
        dtype: String::new(),
        layout: String::new(),
        block_tokens: 16,
        hash_width: 16,
        short_hashes: false,
        shard_count: 1,
        group_count: 1,
        tenant: String::new(),
        salt: Vec::new(),
        residency: Vec::new(),
    };
    Namespace {
        id: description.id(),
        name: "n".to_owned(),
        description,
        policy: Policy {
            prefill_rate,
            ..Policy::default()
        },
        generation: Hlc(0),
        policy_hlc: Hlc(1),
        policy_region: "us-east".parse().unwrap(),
    }
}

fn measured(tokens: u32, prefill_ms: f64) -> Measured {
    Measured {
        tokens,
        work: tokens.into(),
        prefill_ms,
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_learnt_and_outliers_do_not_move_it() {
    let (prefill, namespace) = (Prefill::default(), namespace(0.0));
    assert_eq!(prefill.rate(&namespace), None);
    let honest = [measured(1_000, 100.0); 7];
    assert_eq!(prefill.learn(namespace.id, &honest), 7);
    assert_eq!(prefill.rate(&namespace), None, "too few requests to know");
    let wild = [
        measured(1_000_000, 0.001),
        measured(200, 600_000.0),
        measured(4_000_000, 5.0),
    ];
    assert_eq!(prefill.learn(namespace.id, &wild), 2, "one is impossible");
    assert_eq!(prefill.rate(&namespace), Some(10_000.0));
    // Nothing of these counts: too short, not measured, not a number.
    let useless = [
        measured(127, 1.0),
        measured(900, 0.0),
        measured(900, f64::NAN),
    ];
    assert_eq!(prefill.learn(namespace.id, &useless), 0);
    // The newest requests decide.
    prefill.learn(namespace.id, &[measured(1_000, 50.0); 64]);
    assert_eq!(prefill.rate(&namespace), Some(20_000.0));
}

#[tokio::test(start_paused = true)]
async fn the_declared_rate_wins_and_what_was_learnt_ages() {
    let prefill = Prefill::default();
    let (declared, learnt) = (namespace(77.0), namespace(0.0));
    prefill.learn(learnt.id, &[measured(1_000, 100.0); 8]);
    assert_eq!(prefill.rate(&declared), Some(77.0));
    assert_eq!(prefill.rate(&learnt), Some(10_000.0));
    tokio::time::advance(AGE_MAX).await;
    assert_eq!(prefill.rate(&learnt), None);
}

#[tokio::test(start_paused = true)]
async fn rates_are_bounded_in_number() {
    let prefill = Prefill::default();
    for number in 0..NAMESPACES_MAX as u128 + 5 {
        let id = NamespaceId(number.to_be_bytes());
        prefill.learn(id, &[measured(1_000, 100.0)]);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let windows = prefill.windows.lock().unwrap();
    assert_eq!(windows.len(), NAMESPACES_MAX);
    assert!(!windows.contains_key(&NamespaceId(0_u128.to_be_bytes())));
}
