//! Compiles the `.proto` files in pure Rust: no system `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 10] = [
    "kvmesh/v1/common.proto",
    "kvmesh/v1/state.proto",
    "kvmesh/v1/cache.proto",
    "kvmesh/v1/topology.proto",
    "kvmesh/v1/feed.proto",
    "kvmesh/v1/replication.proto",
    "kvmesh/v1/consensus.proto",
    "kvmesh/v1/local.proto",
    "kvmesh/v1/sync.proto",
    "kvmesh/v1/link.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run by cargo")?);
    fs::write(out.join("kvmesh.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".kvmesh.v1.RaftEntry", "crate::raft_entry::RaftEntry")
        .compile_fds(descriptors)?;
    Ok(())
}
