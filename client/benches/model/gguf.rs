//! Reads a model's file: GGUF, version 3, tensors as F32, Q8_0 or Q4_1.
//!
//! Not here: which tensors a model has (`net`), and what its tokens are (`tokens`).

use std::{collections::HashMap, fs, path::Path};

/// Numbers that share a scale, in both quantized types.
const GROUP: usize = 32;
/// Dimensions of a tensor at most.
const DIMENSIONS_MAX: u32 = 4;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum GgufError {
    /// The file system says so.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Not what this program reads.
    #[error("it is no GGUF file of version 3")]
    Format,
    /// The file ends, or says what it does not keep.
    #[error("it ends early, or is damaged")]
    Truncated,
    /// Another model, perhaps.
    #[error("it has no usable {0}")]
    Missing(String),
}

/// What is said of a model.
#[derive(Debug)]
pub(super) enum Value {
    Number(f64),
    Text(String),
    List(Vec<Value>),
}

/// How numbers of a tensor are kept.
#[derive(Debug, Clone, Copy)]
enum Kind {
    F32,
    Q4_1,
    Q8_0,
}

struct Place {
    kind: Option<Kind>,
    /// Numbers of it.
    count: usize,
    /// From the beginning of all tensors.
    at: usize,
}

/// A model's file.
pub(super) struct Gguf {
    values: HashMap<String, Value>,
    places: HashMap<String, Place>,
    file: Vec<u8>,
    /// Where tensors begin.
    tensors: usize,
}

impl Gguf {
    pub(super) fn read(path: &Path) -> Result<Self, GgufError> {
        let file = fs::read(path)?;
        let mut rest = &file[..];
        if take(&mut rest, 4)? != b"GGUF" || u32::from_le_bytes(array(&mut rest)?) != 3 {
            return Err(GgufError::Format);
        }
        let (tensors, values) = (length(&mut rest)?, length(&mut rest)?);
        let mut read = Self {
            values: HashMap::new(),
            places: HashMap::new(),
            file: Vec::new(),
            tensors: 0,
        };
        for _ in 0..values {
            let name = text(&mut rest)?;
            let kind = u32::from_le_bytes(array(&mut rest)?);
            read.values.insert(name, value(&mut rest, kind)?);
        }
        for _ in 0..tensors {
            let name = text(&mut rest)?;
            read.places.insert(name, place(&mut rest)?);
        }
        let align = read.number("general.alignment").unwrap_or(32.0) as usize;
        read.tensors = (file.len() - rest.len()).next_multiple_of(align.max(1));
        read.file = file;
        Ok(read)
    }

    pub(super) fn number(&self, name: &str) -> Result<f64, GgufError> {
        match self.values.get(name) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(GgufError::Missing(name.to_owned())),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&str>, GgufError> {
        let missing = || GgufError::Missing(name.to_owned());
        let Some(Value::List(list)) = self.values.get(name) else {
            return Err(missing());
        };
        let texts = list.iter().map(|value| match value {
            Value::Text(text) => Ok(text.as_str()),
            _ => Err(missing()),
        });
        texts.collect()
    }

    /// A tensor of `count` numbers.
    pub(super) fn tensor(&self, name: &str, count: usize) -> Result<Vec<f32>, GgufError> {
        let missing = || GgufError::Missing(format!("tensor {name} of {count} numbers"));
        let place = self.places.get(name).filter(|it| it.count == count);
        let place = place.ok_or_else(missing)?;
        let kind = place.kind.ok_or_else(missing)?;
        let mut rest = self.file.get(self.tensors + place.at..);
        let rest = rest.as_mut().ok_or(GgufError::Truncated)?;
        let groups = count / GROUP;
        Ok(match kind {
            Kind::F32 => {
                let (numbers, _) = take(rest, count * 4)?.as_chunks();
                numbers.iter().map(|it| f32::from_le_bytes(*it)).collect()
            }
            Kind::Q8_0 => {
                let (groups, _) = take(rest, groups * 34)?.as_chunks::<34>();
                groups.iter().flat_map(eight_bits).collect()
            }
            Kind::Q4_1 => {
                let (groups, _) = take(rest, groups * 20)?.as_chunks::<20>();
                groups.iter().flat_map(four_bits).collect()
            }
        })
    }
}

/// A scale of half precision, then whole numbers of one byte.
fn eight_bits(group: &[u8; 34]) -> [f32; GROUP] {
    let scale = half([group[0], group[1]]);
    std::array::from_fn(|at| f32::from(group[2 + at] as i8) * scale)
}

/// A scale and the least number, of half precision; then whole numbers of four bits, the first
/// half of them in the low ones.
fn four_bits(group: &[u8; 20]) -> [f32; GROUP] {
    let (scale, least) = (half([group[0], group[1]]), half([group[2], group[3]]));
    std::array::from_fn(|at| {
        let byte = group[4 + at % 16];
        let number = if at < 16 { byte & 15 } else { byte >> 4 };
        f32::from(number) * scale + least
    })
}

/// IEEE half precision.
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let mantissa = (bits & 0x3ff) as f32;
    sign * match bits >> 10 & 0x1f {
        0 => mantissa * 2_f32.powi(-24),
        31 => f32::NAN,
        exponent => (1.0 + mantissa / 1024.0) * 2_f32.powi(exponent as i32 - 15),
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], GgufError> {
    rest.split_off(..bytes).ok_or(GgufError::Truncated)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], GgufError> {
    let (head, tail) = rest.split_first_chunk().ok_or(GgufError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn length(rest: &mut &[u8]) -> Result<usize, GgufError> {
    usize::try_from(u64::from_le_bytes(array(rest)?)).map_err(|_| GgufError::Truncated)
}

fn text(rest: &mut &[u8]) -> Result<String, GgufError> {
    let bytes = length(rest)?;
    Ok(String::from_utf8_lossy(take(rest, bytes)?).into_owned())
}

fn value(rest: &mut &[u8], kind: u32) -> Result<Value, GgufError> {
    Ok(Value::Number(match kind {
        0 | 7 => f64::from(u8::from_le_bytes(array(rest)?)),
        1 => f64::from(i8::from_le_bytes(array(rest)?)),
        2 => f64::from(u16::from_le_bytes(array(rest)?)),
        3 => f64::from(i16::from_le_bytes(array(rest)?)),
        4 => f64::from(u32::from_le_bytes(array(rest)?)),
        5 => f64::from(i32::from_le_bytes(array(rest)?)),
        6 => f64::from(f32::from_le_bytes(array(rest)?)),
        8 => return Ok(Value::Text(text(rest)?)),
        9 => {
            let kind = u32::from_le_bytes(array(rest)?);
            let count = length(rest)?;
            let list = (0..count).map(|_| value(rest, kind));
            return Ok(Value::List(list.collect::<Result<_, _>>()?));
        }
        10 => u64::from_le_bytes(array(rest)?) as f64,
        11 => i64::from_le_bytes(array(rest)?) as f64,
        12 => f64::from_le_bytes(array(rest)?),
        _ => return Err(GgufError::Truncated),
    }))
}

fn place(rest: &mut &[u8]) -> Result<Place, GgufError> {
    let dimensions = u32::from_le_bytes(array(rest)?);
    if dimensions > DIMENSIONS_MAX {
        return Err(GgufError::Truncated);
    }
    let mut count = 1_usize;
    for _ in 0..dimensions {
        count = count.saturating_mul(length(rest)?);
    }
    let kind = match u32::from_le_bytes(array(rest)?) {
        0 => Some(Kind::F32),
        3 => Some(Kind::Q4_1),
        8 => Some(Kind::Q8_0),
        _ => None,
    };
    let at = length(rest)?;
    Ok(Place { kind, count, at })
}
