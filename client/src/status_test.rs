//! What a server meant is what its caller reads.

use std::time::Duration;

use tonic::{Code, Status};

use super::{Problem, at_address, is_retryable, retry_after};

#[test]
fn problems_travel_whole() {
    let retry_after = Duration::from_millis(1_500);
    let problems = [
        Problem::invalid("chain.width", "it is 8, the namespace's hash_width is 32"),
        Problem::UnknownNamespace("00ff".to_owned()),
        Problem::DescriptionDiffers {
            name: "llama".to_owned(),
            fields: vec!["dtype".to_owned(), "salt".to_owned()],
        },
        Problem::NotInitialised,
        Problem::Exists("region us-east is initialised already".to_owned()),
        Problem::NotNow("blocks still move: wait".to_owned()),
        Problem::StaleEpoch {
            current: 7,
            named: 6,
        },
        Problem::Unavailable {
            what: "two of three owners are silent".to_owned(),
            retry_after,
        },
        Problem::Exhausted {
            limit: "fill_queue_bytes".to_owned(),
            retry_after,
        },
        Problem::Overtaken,
        Problem::Denied("a client may not".to_owned()),
        Problem::Unimplemented("ack DURABLE".to_owned()),
        Problem::Internal("a bug".to_owned()),
    ];
    for problem in problems {
        let status = Status::from(problem.clone());
        assert_eq!(status.code(), problem.code());
        assert_eq!(Problem::from_status(&status), Some(problem));
    }
}

#[test]
fn a_strange_status_is_no_problem_of_ours() {
    assert_eq!(Problem::from_status(&Status::internal("a proxy")), None);
}

#[test]
fn what_may_be_tried_again() {
    let unavailable = Status::from(Problem::unavailable("a node is silent"));
    assert!(is_retryable(&unavailable));
    assert_eq!(retry_after(&unavailable), Some(Duration::from_millis(200)));
    assert!(is_retryable(&Status::from(Problem::Overtaken)));
    assert!(!is_retryable(&Status::resource_exhausted(
        "a message too large"
    )));
    assert!(!is_retryable(&Status::internal("a bug")));
    assert!(!is_retryable(&Status::from(Problem::NotInitialised)));
}

#[test]
fn the_address_is_named_once_and_details_stay() {
    let status = Status::from(Problem::unavailable("a node is silent"));
    let once = at_address(status, "10.0.0.1:7410");
    let twice = at_address(once.clone(), "10.0.0.1:7410");
    assert_eq!(twice.message(), "10.0.0.1:7410: a node is silent");
    assert_eq!(twice.code(), Code::Unavailable);
    assert!(retry_after(&twice).is_some());
}
