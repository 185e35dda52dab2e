//! The tier over a device that fails.

use tokio::time::timeout;

use super::{
    faulty_device::{Faults, FaultyDevice},
    *,
};
use crate::store::made::{self, key};

const BYTES: u64 = (1 << 20) + 100;
const MAX: u64 = 4 * BYTES;

fn block(number: u64) -> Arc<Block> {
    made::block(number, BYTES)
}

fn over(device: &FaultyDevice) -> GpuTier {
    let patience = Patience {
        copies: 2,
        call_max: Duration::from_secs(5),
        rest: Duration::from_secs(60),
    };
    GpuTier::with_patience(Arc::new(device.clone()), MAX, patience)
}

async fn takes(tier: &GpuTier, number: u64) -> bool {
    tier.put(key(number), block(number)).await.is_ok()
}

/// What a read said, in a word; what is hit is what was put.
async fn reads(tier: &GpuTier, number: u64) -> &'static str {
    match tier.get(key(number)).await {
        Lookup::Hit(read) => {
            assert_eq!(read, block(number));
            "hit"
        }
        Lookup::Miss => "miss",
        Lookup::Busy => "busy",
    }
}

/// The time in which the device is left alone is over.
async fn rested() {
    tokio::time::advance(Duration::from_secs(61)).await;
}

#[tokio::test]
async fn what_is_put_is_read_as_it_was_within_the_budget() {
    let device = FaultyDevice::default();
    let tier = over(&device);
    for number in 0..4 {
        assert!(takes(&tier, number).await);
    }
    assert!(!takes(&tier, 4).await, "it is full");
    assert!(takes(&tier, 3).await, "it is there already");
    for number in 0..5 {
        let want = if number < 4 { "hit" } else { "miss" };
        assert_eq!(reads(&tier, number).await, want);
    }
    assert_eq!(device.held() as u64, MAX);
    let usage = tier.usage();
    assert_eq!((usage.used, usage.max, usage.copies), (MAX, MAX, 4));
    assert_eq!((usage.copied_in, usage.copied_out), (MAX, MAX));
    assert_eq!((usage.skipped, usage.failures), (1, 0));
    tier.forget(&key(1));
    assert_eq!(tier.usage().used, MAX, "until its bytes have left");
    tier.tend().await;
    assert_eq!(
        (tier.usage().used, device.held() as u64),
        (3 * BYTES, 3 * BYTES)
    );
    assert!(takes(&tier, 4).await);
    let brief = tier.renamed(&key(4), key(9)).unwrap();
    assert_eq!(brief, Brief::of(&block(4).meta));
    assert_eq!(reads(&tier, 4).await, "miss");
    assert!(matches!(tier.get(key(9)).await, Lookup::Hit(read) if read == block(4)));
    drop(tier);
    assert_eq!(device.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_bit_that_flips_is_a_miss_and_is_not_asked_for_again() {
    let device = FaultyDevice::default();
    let tier = over(&device);
    assert!(takes(&tier, 1).await && takes(&tier, 2).await);
    device.fail(Faults {
        flips: true,
        ..Faults::default()
    });
    assert_eq!(reads(&tier, 1).await, "miss");
    device.fail(Faults::default());
    let calls = device.calls();
    assert_eq!(reads(&tier, 1).await, "miss");
    assert_eq!(device.calls(), calls);
    assert_eq!(reads(&tier, 2).await, "hit");
    tier.tend().await;
    let usage = tier.usage();
    assert_eq!((usage.corrupt, usage.failures), (1, 0));
    assert_eq!((usage.used, device.held() as u64), (BYTES, BYTES));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_fails_is_left_alone_for_a_while() {
    let faults = [
        Faults {
            copies_in: true,
            ..Faults::default()
        },
        Faults {
            bytes_max: Some(BYTES as usize),
            ..Faults::default()
        },
        Faults {
            panics: true,
            ..Faults::default()
        },
    ];
    for faults in faults {
        let device = FaultyDevice::default();
        let tier = over(&device);
        assert!(takes(&tier, 1).await);
        device.fail(faults);
        assert!(!takes(&tier, 2).await);
        device.fail(Faults::default());
        let calls = device.calls();
        assert!(!takes(&tier, 3).await, "it rests");
        assert_eq!(reads(&tier, 1).await, "busy", "it may be there yet");
        assert_eq!((device.calls(), reads(&tier, 2).await), (calls, "miss"));
        assert_eq!(tier.usage().used, BYTES, "what failed takes no room");
        rested().await;
        assert!(takes(&tier, 2).await);
        assert_eq!(reads(&tier, 1).await, "hit");
        let usage = tier.usage();
        assert_eq!((usage.failures, usage.skipped, usage.copies), (1, 2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_always_fails_is_given_up_with_what_was_on_it() {
    let device = FaultyDevice::default();
    let tier = over(&device);
    assert!(takes(&tier, 1).await && takes(&tier, 2).await);
    let broken = Faults {
        copies_out: true,
        ..Faults::default()
    };
    for round in 0..FAILURES_MAX {
        assert_eq!(tier.departed(), [], "round {round}");
        device.fail(broken);
        assert_eq!(reads(&tier, 1).await, "busy");
        // One success between failures makes them few again.
        if round == 0 {
            device.fail(Faults::default());
            rested().await;
            assert_eq!(reads(&tier, 2).await, "hit");
            device.fail(broken);
            assert_eq!(reads(&tier, 1).await, "busy");
        }
        rested().await;
    }
    assert_eq!(tier.departed(), [key(1), key(2)]);
    assert_eq!(tier.departed(), [], "once");
    device.fail(Faults::default());
    assert_eq!(reads(&tier, 1).await, "miss");
    tier.tend().await;
    assert_eq!((tier.usage().used, device.held()), (0, 0));
    assert!(takes(&tier, 1).await, "it may have come back");
}

#[tokio::test]
async fn a_device_that_hangs_holds_up_its_callers_for_a_time_only() {
    let device = FaultyDevice::default();
    let patience = Patience {
        copies: 1,
        call_max: Duration::from_millis(20),
        rest: Duration::ZERO,
    };
    let tier = GpuTier::with_patience(Arc::new(device.clone()), MAX, patience);
    // A slow machine may take its time before the device hangs.
    let patience = Duration::from_secs(30);
    timeout(patience, async { while !takes(&tier, 1).await {} })
        .await
        .unwrap();
    device.fail(Faults {
        hangs: true,
        ..Faults::default()
    });
    let failures = tier.usage().failures;
    assert!(!timeout(patience, takes(&tier, 2)).await.unwrap());
    assert_eq!(tier.usage().failures, failures + 1);
    assert_eq!(
        tier.usage().used,
        2 * BYTES,
        "nobody knows what it does yet"
    );
    // The only turn is taken.
    assert_eq!(timeout(patience, reads(&tier, 1)).await.unwrap(), "busy");
    tier.forget(&key(1));
    timeout(patience, tier.tend()).await.unwrap();
    assert_eq!(
        tier.usage().used,
        2 * BYTES,
        "it is not freed by who must not wait"
    );
    device.fail(Faults::default());
    let freed = async {
        while tier.usage().used > 0 {
            tier.tend().await;
        }
    };
    timeout(patience, freed).await.unwrap();
    assert_eq!(device.held(), 0, "what came too late is let go");
    assert_eq!(reads(&tier, 2).await, "miss");
    timeout(patience, async { while !takes(&tier, 2).await {} })
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_forgotten_on_its_way_does_not_stay() {
    let device = FaultyDevice::default();
    let tier = over(&device);
    device.fail(Faults {
        hangs: true,
        ..Faults::default()
    });
    let coming = tier.put(key(1), block(1));
    let forgetting = async {
        while device.calls() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!tier.has(&key(1)));
        tier.forget(&key(1));
        device.fail(Faults::default());
    };
    let (put, ()) = tokio::join!(coming, forgetting);
    put.unwrap();
    assert_eq!(reads(&tier, 1).await, "miss");
    timeout(Duration::from_secs(10), tier.wished())
        .await
        .unwrap();
    tier.tend().await;
    assert_eq!((tier.usage().used, device.held()), (0, 0));
}
