//! Block-hash traces: one JSON object a line, with `hash_ids` that name prefixes.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use kvmesh_directory::limits::CHAIN_BLOCKS_MAX;
use serde::Deserialize;
use serde_json::Value;

use crate::exit;

/// The requests of a trace, their block ids numbered in the order of first sight.
#[derive(Debug, Default)]
pub struct Trace {
    /// In the order of the trace.
    pub requests: Vec<Request>,
    /// The trace's own ids as text, by number.
    pub ids: Vec<String>,
}

/// One request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// Numbers of its blocks, in chain order; never empty.
    pub chain: Vec<u32>,
    /// Session that it belongs to, if the trace knows sessions.
    pub session: Option<String>,
    /// When it came, milliseconds; none where the trace does not say.
    pub at_ms: Option<f64>,
}

/// What is read of a line; traces carry more.
#[derive(Deserialize)]
struct Line {
    hash_ids: Vec<Value>,
    session_id: Option<String>,
    timestamp: Option<f64>,
    rel_ms: Option<f64>,
}

impl Trace {
    /// Reads the first `requests_max` requests of a file; 0 means all. Requests without
    /// blocks are left out.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is no request; it names the line.
    pub fn read(path: &Path, requests_max: usize) -> anyhow::Result<Self> {
        let wrong = |why: String| exit::set_up(format!("trace {}: {why}", path.display()));
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let mut reading = Reading::default();
        for (at, line) in BufReader::new(file).lines().enumerate() {
            if requests_max > 0 && reading.trace.requests.len() == requests_max {
                break;
            }
            let line = line.map_err(|error| wrong(error.to_string()))?;
            reading
                .line(&line)
                .map_err(|why| wrong(format!("line {}: {why}", at + 1)))?;
        }
        let got = reading.trace.requests.len();
        if got == 0 || got < requests_max {
            return Err(wrong(format!(
                "it has {got} requests with blocks: lower --requests, or name another trace"
            )));
        }
        Ok(reading.trace)
    }
}

#[derive(Default)]
struct Reading {
    trace: Trace,
    numbers: HashMap<String, u32>,
}

impl Reading {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if line.hash_ids.len() > CHAIN_BLOCKS_MAX {
            return Err(format!("it has more than {CHAIN_BLOCKS_MAX} blocks"));
        }
        let mut chain = Vec::with_capacity(line.hash_ids.len());
        for id in line.hash_ids {
            let id = match id {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                other => return Err(format!("{other} is no block id: write a number or a text")),
            };
            chain.push(self.number(id));
        }
        if !chain.is_empty() {
            let session = line.session_id;
            let at_ms = line.rel_ms.or(line.timestamp);
            let request = Request {
                chain,
                session,
                at_ms,
            };
            self.trace.requests.push(request);
        }
        Ok(())
    }

    fn number(&mut self, id: String) -> u32 {
        if let Some(&number) = self.numbers.get(&id) {
            return number;
        }
        let number = self.trace.ids.len() as u32;
        self.trace.ids.push(id.clone());
        self.numbers.insert(id, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn trace(lines: &str, requests_max: usize) -> anyhow::Result<Trace> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        Trace::read(file.path(), requests_max)
    }

    const LINES: &str = r#"{"timestamp": 0, "input_length": 9, "hash_ids": [46, 47]}
{"timestamp": 5, "hash_ids": []}

{"session_id": "s", "rel_ms": 1, "hash_ids": ["46", 12]}
"#;

    #[test]
    fn both_kinds_of_lines_are_read() {
        let read = trace(LINES, 0).unwrap();
        assert_eq!(read.ids, ["46", "47", "12"]);
        assert_eq!(read.requests.len(), 2);
        assert_eq!(read.requests[1].chain, [0, 2]);
        assert_eq!(read.requests[1].session.as_deref(), Some("s"));
        let at = read.requests.iter().map(|request| request.at_ms);
        assert_eq!(at.collect::<Vec<_>>(), [Some(0.0), Some(1.0)]);
        assert_eq!(trace(LINES, 1).unwrap().requests.len(), 1);
    }

    #[test]
    fn a_bad_trace_is_a_set_up_problem_that_names_the_line() {
        for (lines, requests_max, word) in [
            ("{\"hash_ids\": [1]}\nnonsense", 0, "line 2"),
            ("{\"hash_ids\": [[]]}", 0, "line 1"),
            (LINES, 9, "2 requests"),
            ("", 0, "0 requests"),
        ] {
            let error = trace(lines, requests_max).unwrap_err();
            assert_eq!(exit::code(&error), exit::SET_UP);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
