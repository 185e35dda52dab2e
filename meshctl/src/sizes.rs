//! Sizes as people write them: `4096`, `16KiB`, `1.5GiB`, `2MB`.

use std::{ops::Range, str::FromStr};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a number and B, KB, MB, GB, KiB, MiB or GiB")]
pub struct SizeError(String);

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let wrong = || SizeError(text.to_owned());
        let split = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            _ => return Err(wrong()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit).map(Self).ok_or_else(wrong);
        }
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * unit as f64;
        if !(0.0..=u64::MAX as f64 / 2.0).contains(&bytes) {
            return Err(wrong());
        }
        Ok(Self(bytes.round() as u64))
    }
}

/// Bytes from one place to before another: `0..4096`, `1MiB..1.5MiB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span(pub Range<u64>);

/// A text that is not a range of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// It has no two dots.
    #[error("{0:?} is not a range: write START..END, such as 0..4096")]
    Dots(String),
    /// One of its ends cannot be.
    #[error(transparent)]
    Size(#[from] SizeError),
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let ends = text.split_once("..");
        let (start, end) = ends.ok_or_else(|| SpanError::Dots(text.to_owned()))?;
        let (Size(start), Size(end)) = (start.trim().parse()?, end.trim().parse()?);
        Ok(Self(start..end))
    }
}

/// Bytes for people: `512 B`, `16.0 KiB`, `1.5 GiB`.
#[must_use]
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1_024.0 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1_024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("16KiB", 16_384),
            ("16 kib", 16_384),
            ("1.5GiB", 3 << 29),
            ("2MB", 2_000_000),
            ("1g", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "KiB", "-1", "1 parsec", "1.2.3k", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn reads_ranges() {
        assert_eq!("0..4096".parse(), Ok(Span(0..4_096)));
        assert_eq!("1MiB .. 1.5MiB".parse(), Ok(Span(1 << 20..3 << 19)));
        for text in ["", "5", "1-2", "..7", "3..", "1..2..3", "a..b"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_people_read() {
        assert_eq!(human(512), "512 B");
        assert_eq!(human(16_384), "16.0 KiB");
        assert_eq!(human(3 << 29), "1.5 GiB");
    }
}
