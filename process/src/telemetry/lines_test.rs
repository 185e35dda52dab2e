use std::{
    io,
    sync::{Arc, Mutex},
};

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{info, info_span, subscriber::with_default, warn};
use tracing_subscriber::layer::SubscriberExt;

use super::super::{
    SPANS,
    limit::LINES_BURST,
    place::place,
    subscriber::{log_layers, parsed, span_layer},
};
use super::*;

/// Lines as they were written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn json(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }
}

/// What is logged while something is done, with traces on.
fn logged(filter: &str, json: bool, act: impl FnOnce()) -> Written {
    let written = Written::default();
    let out = written.clone();
    let traces = SdkTracerProvider::builder().build();
    let mut layers = log_layers(parsed(filter).unwrap(), json, move || out.clone());
    layers.push(span_layer(traces.tracer("test")));
    with_default(tracing_subscriber::registry().with(layers), act);
    written
}

#[test]
fn each_line_says_of_which_server_and_trace_it_is() {
    let written = logged("info", true, || {
        let (here, there) = (place("us-east/node-1"), place("eu-west/gateway"));
        here.in_scope(|| {
            let call = info_span!(target: SPANS, "call");
            call.in_scope(|| {
                warn!(
                    region = "ap-south",
                    blocks = 3,
                    whole = true,
                    "a \"far\" gateway failed"
                );
                there.in_scope(|| info!("elsewhere"));
            });
            info!(share = 0.5, "apart from calls");
        });
        info!("of nobody");
    });
    let lines = written.json();
    assert_eq!(lines.len(), 4);
    let first = &lines[0];
    assert_eq!(first["message"], "a \"far\" gateway failed");
    assert_eq!(
        (&first["level"], &first["target"]),
        (&"WARN".into(), &module_path!().into())
    );
    assert!(first["timestamp"].as_str().unwrap().ends_with('Z'));
    let place = |line: &Value| (line["region"].clone(), line["instance"].clone());
    assert_eq!(place(first), ("us-east".into(), "us-east/node-1".into()));
    assert_eq!(first["fields"]["region"], "ap-south");
    assert_eq!(first["fields"]["blocks"], 3);
    assert_eq!(first["fields"]["whole"], true);
    let trace = first["trace_id"].as_str().unwrap();
    assert_eq!(
        (trace.len(), first["span_id"].as_str().unwrap().len()),
        (32, 16)
    );

    assert_eq!(
        place(&lines[1]),
        ("eu-west".into(), "eu-west/gateway".into())
    );
    assert_eq!(lines[1]["trace_id"], trace);
    assert_eq!(place(&lines[2]), place(first));
    assert_eq!(lines[2].get("trace_id"), None);
    assert_eq!(lines[2]["fields"]["share"], 0.5);
    assert_eq!(
        (lines[3].get("region"), lines[3].get("fields")),
        (None, None)
    );
}

#[test]
fn servers_are_named_whatever_the_filter_says() {
    let filter = format!("off,{}=warn", module_path!());
    let written = logged(&filter, true, || {
        place("us-east/node-1").in_scope(|| {
            warn!("bad");
            info!("good");
        });
    });
    let lines = written.json();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["instance"], "us-east/node-1");
}

#[test]
fn one_place_cannot_flood_and_others_are_heard() {
    let written = logged("debug", true, || {
        for turn in 0..LINES_BURST + 10 {
            warn!(turn, "again");
        }
        warn!("another");
        for turn in 0..LINES_BURST + 10 {
            tracing::debug!(turn, "wanted");
        }
    });
    let lines = written.json();
    let count = |message: &str| {
        lines
            .iter()
            .filter(|line| line["message"] == message)
            .count()
    };
    // A slow machine may earn some more meanwhile.
    let again = count("again");
    assert!(
        (LINES_BURST as usize..LINES_BURST as usize + 10).contains(&again),
        "{again}"
    );
    assert_eq!(count("another"), 1);
    assert_eq!(count("wanted"), LINES_BURST as usize + 10);
}

#[test]
fn a_terminal_gets_text() {
    let written = logged("info", false, || {
        place("us-east/node-1").in_scope(|| info!(blocks = 3, "done"));
    });
    let text = written.text();
    for part in ["INFO", "us-east/node-1", "done", "blocks"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(text.lines().count(), 1);
}
