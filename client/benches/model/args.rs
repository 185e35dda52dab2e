//! The words of the command line.

use std::path::PathBuf;

/// What every Debian has.
const TEXT: &str = "/usr/share/common-licenses/GPL-3";

/// As the command line says.
pub(super) struct Asked {
    pub(super) model: PathBuf,
    pub(super) text: PathBuf,
    pub(super) windows: usize,
    pub(super) greedy_tokens: usize,
    pub(super) four_bits: bool,
    pub(super) perplexity_max: Option<f64>,
    pub(super) lossless_max: Option<f64>,
    pub(super) fp8_max: Option<f64>,
    pub(super) gbs_min: Option<f64>,
    pub(super) more_max: Option<f64>,
}

impl Asked {
    /// None: other words, or no model.
    pub(super) fn read() -> Option<Self> {
        let mut asked = Self {
            model: PathBuf::new(),
            text: TEXT.into(),
            windows: 3,
            greedy_tokens: 1_000,
            four_bits: false,
            perplexity_max: None,
            lossless_max: None,
            fp8_max: None,
            gbs_min: None,
            more_max: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--bench" => {}
                "--four-bits" => asked.four_bits = true,
                "--model" => asked.model = words.next()?.into(),
                "--text" => asked.text = words.next()?.into(),
                "--windows" => asked.windows = words.next()?.parse().ok().filter(|it| *it > 0)?,
                "--greedy-tokens" => asked.greedy_tokens = words.next()?.parse().ok()?,
                other => {
                    let bar = match other {
                        "--perplexity-max" => &mut asked.perplexity_max,
                        "--lossless-bytes-max" => &mut asked.lossless_max,
                        "--fp8-bytes-max" => &mut asked.fp8_max,
                        "--gbs-min" => &mut asked.gbs_min,
                        "--perplexity-more-max" => &mut asked.more_max,
                        _ => return None,
                    };
                    *bar = Some(words.next()?.parse().ok()?);
                }
            }
        }
        Some(asked)
    }
}
