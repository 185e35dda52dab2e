//! A node holds blocks, and votes on the region's metadata.

pub mod directory;
