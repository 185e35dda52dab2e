//! How far a verb is: a bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Draws per second.
const DRAWS_PER_S: u8 = 10;
const BYTES: &str =
    "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
const COUNT: &str = "{bar:30} {human_pos} of {human_len} {msg}, {per_sec:.0}, {eta} left";

/// A bar of bytes; gone once finished or dropped.
#[must_use]
pub fn bytes(total: u64) -> ProgressBar {
    bar(total, BYTES)
}

/// A bar of things, such as blocks or requests.
#[must_use]
pub fn count(total: u64, things: &'static str) -> ProgressBar {
    bar(total, COUNT).with_message(things)
}

fn bar(total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(DRAWS_PER_S))
        .with_style(style.progress_chars("━╸─"))
        .with_finish(indicatif::ProgressFinish::AndClear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_can_be_read() {
        for template in [BYTES, COUNT] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
