//! How the tour looks: rows as they happen, each with its sentence; or one JSON value.

use std::io::{self, Write};

use super::{Toured, steps::Row};
use crate::{
    dev::mesh::Mesh,
    output::{Format, emit, ms},
    sizes::human,
};

/// Columns that the tour takes.
const COLUMNS: usize = 98;

pub(super) struct Show {
    format: Format,
}

impl Show {
    pub(super) fn begin(format: Format, mesh: &Mesh) -> io::Result<Self> {
        if format == Format::Table {
            let regions = mesh.regions();
            let names: Vec<&str> = regions.iter().map(|region| region.id.as_str()).collect();
            let mut out = io::stdout().lock();
            writeln!(
                out,
                "a mesh of {} regions ({}), {} nodes each, is ready after {:.0} ms\n",
                regions.len(),
                names.join(", "),
                regions[0].nodes.len(),
                mesh.started_in().as_secs_f64() * 1e3
            )?;
            writeln!(
                out,
                "{}",
                cells([
                    "",
                    "action",
                    "answered by",
                    "RTT",
                    "time",
                    "bytes",
                    "verified"
                ])
            )?;
            rule(&mut out)?;
        }
        Ok(Self { format })
    }

    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        if self.format == Format::Json {
            return Ok(());
        }
        let rtt = row.rtt_ms.map_or_else(|| "none".to_owned(), ms);
        let verified = match row.verified {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        let mut out = io::stdout().lock();
        let line = cells([
            &row.row.to_string(),
            &row.action,
            &row.answered_by,
            &rtt,
            &ms(row.time_ms),
            &human(row.bytes),
            verified,
        ]);
        writeln!(out, "{line}")?;
        for line in wrap(&row.says, COLUMNS - 3) {
            writeln!(out, "   {line}")?;
        }
        rule(&mut out)?;
        out.flush()
    }

    pub(super) fn end(self, toured: &Toured<'_>) -> anyhow::Result<()> {
        emit(self.format, toured, || match toured.broken {
            Some(broken) => format!(
                "a promise broke: {}\n  expected  {}\n  seen      {}\n  log       {}",
                broken.what, broken.expected, broken.seen, toured.log
            ),
            None if !toured.ok => format!("the tour broke off; log: {}", toured.log),
            None => {
                let next = toured.next.iter().enumerate();
                let next = next.map(|(at, it)| format!("  {}. {}", at + 1, broken_up(it)));
                let next: Vec<String> = next.collect();
                format!(
                    "every promise held; log: {}\n\ntry next (the first one stays; run the others beside it):\n{}",
                    toured.log,
                    next.join("\n")
                )
            }
        })
    }
}

/// A command over lines that a shell reads as one.
fn broken_up(command: &str) -> String {
    command
        .replace(" && ", " &&\n       ")
        .replace(" --gateway", " \\\n       --gateway")
}

fn cells([row, action, by, rtt, time, bytes, verified]: [&str; 7]) -> String {
    let line = format!("{row:<2} {action:<34} {by:<21} {rtt:>8} {time:>9} {bytes:>9}  {verified}");
    line.trim_end().to_owned()
}

fn rule(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", "─".repeat(COLUMNS))
}

fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 => last.push_str(word),
            Some(last) if line + 1 + word.chars().count() <= columns => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fits_the_terminal() {
        let line = cells([
            "6",
            "take us-east away, get it again",
            "eu-west, other copies",
            "234.5 ms",
            "1234.5 ms",
            "999.9 MiB",
            "verified",
        ]);
        assert!(line.chars().count() <= 100, "{}", line.chars().count());
        let text = "word ".repeat(60).trim_end().to_owned();
        let lines = wrap(&text, 40);
        assert!(lines.iter().all(|line| line.len() <= 40));
        assert_eq!(lines.join(" "), text);
    }
}
