//! Text to tokens and back: byte-level pair encoding, cut into words as SmolLM2's is, every
//! digit by itself.
//!
//! What [`Tokens::decode`] makes of the tokens of a text is the text, as long as the vocabulary
//! has its bytes.

use std::collections::HashMap;

use super::gguf::{Gguf, GgufError};

/// What follows an apostrophe as a word of its own.
const ENDINGS: [&str; 7] = ["s", "t", "re", "ve", "m", "ll", "d"];

/// A vocabulary.
pub(super) struct Tokens {
    /// Bytes of each token.
    bytes: Vec<Vec<u8>>,
    /// The token of each byte by itself.
    of_byte: Vec<u32>,
    /// What two tokens become, and how early.
    merges: HashMap<(u32, u32), (usize, u32)>,
}

impl Tokens {
    pub(super) fn read(file: &Gguf) -> Result<Self, GgufError> {
        let letters = letters();
        let byte_of: HashMap<char, u8> = letters.iter().copied().zip(0..=u8::MAX).collect();
        let names = file.texts("tokenizer.ggml.tokens")?;
        let ids: HashMap<&str, u32> = names.iter().copied().zip(0..).collect();
        let id = |name: &str| {
            let missing = || GgufError::Missing(format!("token {name}"));
            ids.get(name).copied().ok_or_else(missing)
        };
        let mut merges = HashMap::new();
        for (rank, merge) in file.texts("tokenizer.ggml.merges")?.iter().enumerate() {
            let pair = merge.split_once(' ');
            let (left, right) = pair.ok_or_else(|| GgufError::Missing(format!("merge {merge}")))?;
            let merged = id(&format!("{left}{right}"))?;
            merges.insert((id(left)?, id(right)?), (rank, merged));
        }
        let bytes = |name: &&str| {
            name.chars()
                .filter_map(|it| byte_of.get(&it).copied())
                .collect()
        };
        // Some bytes that no text has are left out: they become token 0, and do not come back.
        let of_byte = letters
            .iter()
            .map(|letter| id(letter.encode_utf8(&mut [0; 4])).unwrap_or(0));
        Ok(Self {
            of_byte: of_byte.collect(),
            bytes: names.iter().map(bytes).collect(),
            merges,
        })
    }

    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let pieces = text.split_inclusive(char::is_numeric).flat_map(|piece| {
            let digit = piece.chars().next_back().filter(|it| it.is_numeric());
            let at = piece.len() - digit.map_or(0, char::len_utf8);
            [&piece[..at], &piece[at..]]
        });
        pieces
            .flat_map(words)
            .flat_map(|word| self.merge(word))
            .collect()
    }

    pub(super) fn decode(&self, tokens: &[u32]) -> String {
        let bytes = tokens.iter().flat_map(|token| &self.bytes[*token as usize]);
        String::from_utf8_lossy(&bytes.copied().collect::<Vec<u8>>()).into_owned()
    }

    /// The tokens of a word: the earliest pair is merged first.
    fn merge(&self, word: &str) -> Vec<u32> {
        let mut tokens: Vec<u32> = word
            .bytes()
            .map(|it| self.of_byte[usize::from(it)])
            .collect();
        loop {
            let pairs = tokens.windows(2).enumerate();
            let known = pairs.filter_map(|(at, pair)| {
                let (rank, merged) = self.merges.get(&(pair[0], pair[1]))?;
                Some((*rank, at, *merged))
            });
            let Some((_, at, merged)) = known.min() else {
                return tokens;
            };
            tokens.splice(at..at + 2, [merged]);
        }
    }
}

/// How GPT-2's vocabularies write each byte.
fn letters() -> Vec<char> {
    let mut next = 256;
    let letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        }
    };
    (0..=u8::MAX).map(letter).collect()
}

/// Cuts a text without digits, or a digit: as GPT-2's pattern does.
fn words(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (word, rest) = text.split_at_checked(word(text))?;
        text = rest;
        (!word.is_empty()).then_some(word)
    })
}

/// Bytes of the first word.
fn word(text: &str) -> usize {
    let ending = |after: &str| ENDINGS.iter().find(|it| after.starts_with(**it));
    if let Some(found) = text.strip_prefix('\'').and_then(ending) {
        return 1 + found.len();
    }
    let run = |from: usize, is: &dyn Fn(char) -> bool| {
        let rest = &text[from..];
        let end = rest.find(|letter| !is(letter));
        from + end.unwrap_or(rest.len())
    };
    let space = usize::from(text.starts_with(' '));
    let is_other = |it: char| !it.is_whitespace() && !it.is_alphabetic() && !it.is_numeric();
    for is in [&char::is_alphabetic as &dyn Fn(char) -> bool, &is_other] {
        let end = run(space, is);
        if end > space {
            return end;
        }
    }
    let end = run(0, &char::is_whitespace);
    if end == 0 {
        return text.chars().next().map_or(0, char::len_utf8);
    }
    // The last blank belongs to the word behind it.
    let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
    if end == text.len() || end == last {
        end
    } else {
        end - last
    }
}
