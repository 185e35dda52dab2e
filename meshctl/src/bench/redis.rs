//! A redis server, through the `redis` crate.

use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection, pipe};
use anyhow::{Context, ensure};
use bytes::Bytes;
use kvmesh_client::BlockMeta;

use super::work::{PUTS_KEPT, Run, Work, verify};

const CALL_MAX: Duration = Duration::from_secs(30);

/// `host:port`.
#[derive(Clone)]
pub struct Target(pub String);

/// One connection.
pub struct Connection(MultiplexedConnection);

impl Target {
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let client = Client::open(format!("redis://{}/", self.0))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_MAX))
            .set_response_timeout(Some(CALL_MAX));
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connecting.await;
        let address = &self.0;
        Ok(Connection(connection.with_context(|| {
            format!("redis at {address} does not answer: is it running?")
        })?))
    }
}

impl Connection {
    pub(super) async fn get(&mut self, run: &Run) -> anyhow::Result<u64> {
        let mut command = ::redis::cmd("MGET");
        for block in &run.blocks {
            command.arg(&block.hash[..]);
        }
        let values: Vec<Option<Vec<u8>>> = command.query_async(&mut self.0).await?;
        let mut bytes = 0;
        for (value, block) in values.iter().zip(&run.blocks) {
            let value = value
                .as_deref()
                .context("redis has evicted a block: raise maxmemory")?;
            bytes += verify(value, &block.block.meta)?;
        }
        Ok(bytes)
    }

    pub(super) async fn put(&mut self, work: &Work, number: u64) -> anyhow::Result<u64> {
        // It evicts nothing by default: names of a while ago are written again.
        self.set(&work.to_put(number % PUTS_KEPT)).await
    }

    async fn set(&mut self, blocks: &[(Bytes, Bytes)]) -> anyhow::Result<u64> {
        let (mut sent, mut commands) = (0, pipe());
        for (hash, bytes) in blocks {
            // A client of the mesh hashes what it puts.
            std::hint::black_box(BlockMeta::of(bytes, 0));
            commands.set(&hash[..], &bytes[..]).ignore();
            sent += bytes.len() as u64;
        }
        commands.query_async::<()>(&mut self.0).await?;
        Ok(sent)
    }

    pub(super) async fn lookup(&mut self, run: &Run) -> anyhow::Result<u64> {
        let mut commands = pipe();
        for block in &run.blocks {
            commands.exists(&block.hash[..]);
        }
        let there: Vec<bool> = commands.query_async(&mut self.0).await?;
        ensure!(
            there.iter().all(|there| *there),
            "redis has evicted a block"
        );
        Ok(there.len() as u64)
    }

    pub(super) async fn store(&mut self, run: &Run) -> anyhow::Result<()> {
        for block in &run.blocks {
            let value = whole(&block.block.pieces);
            self.set(&[(block.hash.clone(), value)]).await?;
        }
        Ok(())
    }
}

/// A block's bytes as one value.
pub(super) fn whole(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        pieces => pieces.concat().into(),
    }
}
