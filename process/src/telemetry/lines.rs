//! One line for each event: JSON for machines, text for a terminal.
//!
//! A JSON line has `timestamp`, `level`, `target`, `message` and, as far as they are known,
//! `region`, `instance`, `trace_id` and `span_id`; what else the event says is in `fields`.
//! Lines of one place in the code are limited ([`Limit`]), those of `DEBUG` and `TRACE` apart:
//! whoever turns these on wants all of them.

use std::{
    fmt::{self, Write},
    sync::{Mutex, PoisonError},
};

use opentelemetry::{Context, trace::TraceContextExt};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::{limit::Limit, place::Place};

/// A place in the code that logs.
#[derive(Debug, Clone)]
struct Site(&'static Metadata<'static>);

impl Site {
    fn id(&self) -> Identifier {
        self.0.callsite()
    }
}

impl PartialEq for Site {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Site {}

impl std::hash::Hash for Site {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

/// Formats events.
pub(super) struct Lines {
    json: bool,
    text: Format,
    limit: Mutex<Limit<Site>>,
}

impl Lines {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            text: Format::default(),
            limit: Mutex::new(Limit::new()),
        }
    }

    /// Whether an event is to be logged and how many before it were not; and places that have
    /// left lines out and are quiet now.
    fn admit(&self, site: Site) -> (Option<u64>, Vec<(Option<Site>, u64)>) {
        if *site.0.level() > Level::INFO {
            return (Some(0), Vec::new());
        }
        let now = Instant::now();
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = limit.admit(site, now);
        let quiet = limit.quiet(now);
        (admitted, quiet)
    }

    fn left_out(&self, out: &mut Writer<'_>, site: Option<Site>, lines: u64) -> fmt::Result {
        let at = site.as_ref().map_or_else(
            || "further places".to_owned(),
            |Site(meta)| format!("{}:{}", meta.target(), meta.line().unwrap_or_default()),
        );
        let message = format!("lines of {at} were left out");
        if !self.json {
            return writeln!(out, "{lines} {message}");
        }
        let mut line = head(&Level::WARN, module_path!())?;
        line.insert("message".to_owned(), message.into());
        line.insert("left_out".to_owned(), lines.into());
        write_line(out, line)
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        let (admitted, quiet) = self.admit(Site(meta));
        for (site, lines) in quiet {
            self.left_out(&mut out, site, lines)?;
        }
        let Some(left_out) = admitted else {
            return Ok(());
        };
        if !self.json {
            if left_out > 0 {
                self.left_out(&mut out, Some(Site(meta)), left_out)?;
            }
            return self.text.format_event(ctx, out, event);
        }
        let mut line = head(meta.level(), meta.target())?;
        let scope = ctx.event_scope().into_iter().flatten();
        let mut places = scope.filter_map(|span| span.extensions().get::<Place>().cloned());
        if let Some(place) = places.next().or_else(|| Place::own().cloned()) {
            line.insert("region".to_owned(), (*place.region).into());
            line.insert("instance".to_owned(), (*place.instance).into());
        }
        Context::map_current(|current| {
            if current.has_active_span() {
                let (trace, span) = {
                    let span = current.span();
                    let of = span.span_context();
                    (of.trace_id().to_string(), of.span_id().to_string())
                };
                line.insert("trace_id".to_owned(), trace.into());
                line.insert("span_id".to_owned(), span.into());
            }
        });
        if left_out > 0 {
            line.insert("left_out".to_owned(), left_out.into());
        }
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        if let Some(message) = fields.0.remove("message") {
            line.insert("message".to_owned(), message);
        }
        if !fields.0.is_empty() {
            line.insert("fields".to_owned(), fields.0.into());
        }
        write_line(&mut out, line)
    }
}

fn head(level: &Level, target: &str) -> Result<Map<String, Value>, fmt::Error> {
    let mut now = String::new();
    SystemTime.format_time(&mut Writer::new(&mut now))?;
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), now.into());
    line.insert("level".to_owned(), level.as_str().into());
    line.insert("target".to_owned(), target.into());
    Ok(line)
}

fn write_line(out: &mut Writer<'_>, line: Map<String, Value>) -> fmt::Result {
    writeln!(out, "{}", Value::Object(line))
}

/// What an event says, as JSON.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Text takes all that is written.
        let _ = write!(text, "{value:?}");
        self.put(field, text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
#[path = "lines_test.rs"]
mod lines_test;
