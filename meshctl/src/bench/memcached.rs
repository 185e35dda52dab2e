//! A memcached server, through the `async-memcached` crate.

use anyhow::{Context, ensure};
use async_memcached::{AsciiProtocol, Client};
use bytes::Bytes;
use kvmesh_client::BlockMeta;

use super::{
    redis::whole,
    work::{PUTS_KEPT, Run, Work, verify},
};
use crate::chain::hex;

/// `host:port`.
#[derive(Clone)]
pub struct Target(pub String);

/// One connection.
pub struct Connection(Client);

impl Target {
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let client = Client::new(format!("tcp://{}", self.0)).await;
        let address = &self.0;
        Ok(Connection(client.map_err(|error| {
            anyhow::anyhow!("memcached at {address} does not answer ({error}): is it running?")
        })?))
    }
}

impl Connection {
    pub(super) async fn get(&mut self, run: &Run) -> anyhow::Result<u64> {
        let mut bytes = 0;
        if let [block] = &run.blocks[..] {
            let value = self.0.get(hex(&block.hash)).await?;
            let value = value.and_then(|value| value.data);
            let value = value.context("memcached has evicted a block: raise -m")?;
            return verify(&value, &block.block.meta);
        }
        let keys: Vec<String> = run.blocks.iter().map(|block| hex(&block.hash)).collect();
        let mut values = self.0.get_multi(&keys).await?;
        values.sort_by(|one, other| one.key.cmp(&other.key));
        for block in &run.blocks {
            let key = hex(&block.hash);
            let at = values.binary_search_by(|value| value.key.as_slice().cmp(key.as_bytes()));
            let value = at.ok().and_then(|at| values[at].data.as_deref());
            let value = value.context("memcached has evicted a block: raise -m")?;
            bytes += verify(value, &block.block.meta)?;
        }
        Ok(bytes)
    }

    pub(super) async fn put(&mut self, work: &Work, number: u64) -> anyhow::Result<u64> {
        let mut sent = 0;
        for (hash, bytes) in work.to_put(number % PUTS_KEPT) {
            // A client of the mesh hashes what it puts.
            std::hint::black_box(BlockMeta::of(&bytes, 0));
            sent += self.set(&hash, &bytes).await?;
        }
        Ok(sent)
    }

    async fn set(&mut self, hash: &[u8], bytes: &Bytes) -> anyhow::Result<u64> {
        let set = self.0.set(hex(hash), &bytes[..], None, None).await;
        ensure!(
            set.is_ok(),
            "memcached took no block ({set:?}): is -I above --bytes?"
        );
        Ok(bytes.len() as u64)
    }

    pub(super) async fn store(&mut self, run: &Run) -> anyhow::Result<()> {
        for block in &run.blocks {
            self.set(&block.hash, &whole(&block.block.pieces)).await?;
        }
        Ok(())
    }
}
