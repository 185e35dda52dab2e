//! Memory that the disk can read and write directly: it begins on [`ALIGN`].

use bytes::Bytes;

use super::record::ALIGN;

/// See the module. Zeros at first.
#[derive(Debug)]
pub(super) struct Aligned {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn zeroed(len: u64) -> Self {
        let len = len as usize;
        let raw = vec![0; len + ALIGN as usize];
        let start = raw.as_ptr().align_offset(ALIGN as usize);
        debug_assert!(start + len <= raw.len());
        Self { raw, start, len }
    }

    /// As bytes that can be shared; they keep all of this memory alive.
    pub(super) fn into_bytes(self) -> Bytes {
        let (start, len) = (self.start, self.len);
        Bytes::from(self.raw).slice(start..start + len)
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_on_a_page_and_keeps_its_bytes() {
        for len in [ALIGN, 3 * ALIGN, 1 << 21] {
            let mut memory = Aligned::zeroed(len);
            assert_eq!(memory.as_ptr().align_offset(ALIGN as usize), 0);
            memory[len as usize - 1] = 7;
            let bytes = memory.into_bytes();
            assert_eq!((bytes.len() as u64, bytes[len as usize - 1]), (len, 7));
        }
    }
}
