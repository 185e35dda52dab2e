//! A bare copy over TCP, or mutual TLS, in this process: what the machine can do at best.
//!
//! A block is asked for by 8 bytes of its place, and answered with its bytes; it is put by 8
//! bytes of its size with the top bit set and its bytes, and answered with one byte.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use kvmesh_client::{
    BlockMeta,
    block::Assembler,
    channel::{BoxedIo, Connect, Incoming, TcpConnect},
    tls::{Credentials, Expected, TlsConnect},
};
use kvmesh_directory::{Checksum, limits::PIECE_BYTES};
use kvmesh_process::{server, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::work::Work;

const PUT: u64 = 1 << 63;

/// Where it listens.
#[derive(Clone)]
pub struct Target {
    address: String,
    connector: Arc<dyn Connect>,
}

/// One connection.
pub struct Connection(BoxedIo);

/// Who listens, and who calls.
pub(super) struct Ends {
    pub(super) server: Credentials,
    pub(super) client: Credentials,
}

impl Target {
    /// Has what is there to be read, and listens until `stop`.
    pub(super) async fn listen(
        work: &Arc<Work>,
        tasks: &TaskTracker,
        stop: CancellationToken,
        ends: Option<Ends>,
    ) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, plain) = server::listen(any).await?;
        let tcp = Arc::new(TcpConnect);
        let (connector, mut incoming): (Arc<dyn Connect>, Incoming) = match ends {
            None => (tcp, plain),
            Some(ends) => (
                Arc::new(TlsConnect::new(tcp, ends.client)),
                tls::incoming(plain, ends.server),
            ),
        };
        let (work, of_streams) = (Arc::clone(work), tasks.clone());
        tasks.spawn(async move {
            while let Some(Some(Ok(stream))) = stop.run_until_cancelled(incoming.next()).await {
                let (work, stop) = (Arc::clone(&work), stop.clone());
                of_streams.spawn(async move {
                    stop.run_until_cancelled(answer(stream, &work)).await;
                });
            }
        });
        Ok(Self {
            address: address.to_string(),
            connector,
        })
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let connecting = self
            .connector
            .connect_to(&self.address, &Expected::default());
        Ok(Connection(connecting.await?))
    }
}

/// Ends when the caller is gone.
async fn answer(mut stream: BoxedIo, work: &Work) -> anyhow::Result<()> {
    let batch = work.batch as usize;
    loop {
        let what = stream.read_u64_le().await?;
        if what & PUT == 0 {
            let run = work.runs.get(what as usize / batch);
            let block = run.context("there is no such block")?;
            for piece in &block.blocks[what as usize % batch].block.pieces {
                stream.write_all(piece).await?;
            }
            stream.flush().await?;
            continue;
        }
        let mut left = (what ^ PUT) as usize;
        while left > 0 {
            let piece = read(&mut stream, left.min(PIECE_BYTES)).await?;
            left -= piece.len();
            // A store verifies what it keeps.
            std::hint::black_box(Checksum::of(&piece));
        }
        stream.write_u8(1).await?;
        stream.flush().await?;
    }
}

async fn read(stream: &mut BoxedIo, len: usize) -> anyhow::Result<Bytes> {
    let mut bytes = Vec::with_capacity(len);
    (&mut *stream)
        .take(len as u64)
        .read_to_end(&mut bytes)
        .await?;
    anyhow::ensure!(bytes.len() == len, "the bare copy ended early");
    Ok(bytes.into())
}

impl Connection {
    pub(super) async fn get(&mut self, work: &Work, run: usize) -> anyhow::Result<u64> {
        let (mut bytes, batch) = (0, work.batch as usize);
        for place in run * batch..(run + 1) * batch {
            self.0.write_u64_le(place as u64).await?;
        }
        self.0.flush().await?;
        for block in &work.runs[run].blocks {
            bytes += self.receive(&block.block.meta).await?;
        }
        Ok(bytes)
    }

    /// Reads a block piece by piece, and verifies it as the mesh's client does.
    async fn receive(&mut self, meta: &BlockMeta) -> anyhow::Result<u64> {
        let mut assembler = Assembler::new(meta.clone(), true)?;
        while !assembler.is_whole() {
            let piece = read(&mut self.0, assembler.next_len()).await?;
            assembler.push(piece)?;
        }
        Ok(assembler.finish()?.meta.bytes)
    }

    pub(super) async fn put(&mut self, work: &Work, number: u64) -> anyhow::Result<u64> {
        let mut sent = 0;
        for (_, bytes) in work.to_put(number) {
            std::hint::black_box(BlockMeta::of(&bytes, 0));
            self.0.write_u64_le(PUT | bytes.len() as u64).await?;
            self.0.write_all(&bytes).await?;
            sent += bytes.len() as u64;
        }
        self.0.flush().await?;
        for _ in 0..work.batch {
            self.0.read_u8().await?;
        }
        Ok(sent)
    }
}
