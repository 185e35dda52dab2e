//! Links: their delay, their bandwidth, and how they are cut, changed and mended.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};

use super::*;

async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

fn links(scale: f64) -> Links {
    let regions = rtt::REGIONS[..3].iter().map(|name| name.parse().unwrap());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    Links::new(regions.collect(), scale, tasks, stop)
}

async fn ping(io: &mut BoxedIo) -> io::Result<Duration> {
    let started = Instant::now();
    io.write_all(b"ping").await?;
    io.read_exact(&mut [0; 4]).await?;
    Ok(started.elapsed())
}

#[tokio::test]
async fn a_round_trip_takes_the_published_time() {
    let (links, address) = (links(1.0), echo().await);
    links.settle(&address, 0);
    let started = Instant::now();
    let mut far = links.connector(1).connect(&address).await.unwrap();
    let rtt = Duration::from_micros(78_500);
    assert!(started.elapsed() >= rtt, "the handshake costs one, too");
    assert!(ping(&mut far).await.unwrap() >= rtt);
    let mut near = links.connector(0).connect(&address).await.unwrap();
    assert!(ping(&mut near).await.unwrap() < rtt);
    let crossed = links.crossed();
    assert!(crossed.iter().all(|crossed| crossed.bytes == 4));
    assert_eq!(crossed.len(), 2, "inside of a region nothing crosses");
}

#[tokio::test]
async fn a_link_changes_under_connections_that_stand() {
    let (links, address) = (links(0.1), echo().await);
    links.settle(&address, 0);
    let connector = links.connector(1);
    let mut far = connector.connect(&address).await.unwrap();
    let change = |change: Change| {
        let between = Some(["us-east".to_owned(), "eu-west".to_owned()]);
        links.change(&Change { between, ..change })
    };
    let rtt_ms = Some(150.0);
    change(Change {
        rtt_ms,
        ..Change::default()
    })
    .unwrap();
    assert!(ping(&mut far).await.unwrap() >= Duration::from_millis(150));
    let bandwidth = Some(20);
    change(Change {
        rtt_ms: Some(0.0),
        bandwidth,
        ..Change::default()
    })
    .unwrap();
    // Four bytes at 20 a second, there and back.
    assert!(ping(&mut far).await.unwrap() >= Duration::from_millis(400));
    change(Change {
        up: Some(false),
        ..Change::default()
    })
    .unwrap();
    assert!(ping(&mut far).await.is_err());
    assert!(connector.connect(&address).await.is_err());
    change(Change {
        up: Some(true),
        ..Change::default()
    })
    .unwrap();
    ping(&mut connector.connect(&address).await.unwrap())
        .await
        .unwrap();
    let state = &links.states()[0];
    assert_eq!((state.rtt_ms, state.bandwidth, state.up), (0.0, 20, true));

    assert!(
        change(Change {
            rtt_ms: Some(-1.0),
            ..Change::default()
        })
        .is_err()
    );
    for regions in [["us-east", "mars"], ["us-east", "us-east"]] {
        let between = Some(regions.map(str::to_owned));
        assert!(
            links
                .change(&Change {
                    between,
                    ..Change::default()
                })
                .is_err()
        );
    }
}

#[tokio::test]
async fn a_plain_link_that_gets_a_shape_makes_its_connections_anew() {
    let (links, address) = (links(0.0), echo().await);
    links.settle(&address, 0);
    let connector = links.connector(1);
    let mut plain = connector.connect(&address).await.unwrap();
    ping(&mut plain).await.unwrap();
    let change = Change {
        between: Some(["eu-west".to_owned(), "us-east".to_owned()]),
        rtt_ms: Some(50.0),
        ..Change::default()
    };
    links.change(&change).unwrap();
    assert!(ping(&mut plain).await.is_err());
    let mut shaped = connector.connect(&address).await.unwrap();
    assert!(ping(&mut shaped).await.unwrap() >= Duration::from_millis(50));
}

#[tokio::test]
async fn a_region_that_is_cut_off_is_reset_and_refused() {
    for scale in [0.0, 0.1] {
        let (links, address) = (links(scale), echo().await);
        links.settle(&address, 0);
        let connector = links.connector(2);
        let mut far = connector.connect(&address).await.unwrap();
        ping(&mut far).await.unwrap();
        links.cut(0);
        assert!(ping(&mut far).await.is_err());
        assert!(connector.connect(&address).await.is_err());
        let mut near = links.connector(0).connect(&address).await.unwrap();
        ping(&mut near).await.unwrap();
        links.mend(0);
        let mut far = connector.connect(&address).await.unwrap();
        ping(&mut far).await.unwrap();
    }
}
