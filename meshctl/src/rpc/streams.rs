//! Prefetches and watches, made by the engines' client.

use kvmesh_client::client::{
    Chain, ChainQuery, PrefetchOptions, PrefetchProgress, WatchStream, Watched,
};
use kvmesh_directory::{FeedPosition, RegionId};

use super::{CallError, cache::Cache};

/// A watch, until dropped.
pub struct Watch<'a> {
    cache: &'a Cache,
    stream: WatchStream,
}

impl Cache {
    /// Brings what other regions hold of a chain from `start` on into this region; tells how
    /// far it is, and returns its end. It goes on when the caller leaves.
    ///
    /// # Errors
    /// When the gateway refuses, or the stream breaks.
    pub async fn prefetch(
        &self,
        chain: &Chain,
        start: u32,
        region: Option<RegionId>,
        mut on_progress: impl FnMut(&PrefetchProgress),
    ) -> Result<PrefetchProgress, CallError> {
        let query = [ChainQuery {
            start,
            ..chain.clone().into()
        }];
        let options = PrefetchOptions {
            region,
            limit: Some(self.peer.timeout),
        };
        let explain = self.peer.explain();
        let begun = self.opened.prefetch(&query, options, self.peer.timeout);
        let mut stream = begun.await.map_err(&explain)?;
        loop {
            match stream.next().await.map_err(&explain)? {
                Some(progress) if progress.end.is_some() => return Ok(progress),
                Some(progress) => on_progress(&progress),
                None => return Err(self.peer.broken("prefetch", "a stream without an end")),
            }
        }
    }

    /// Follows what appears and vanishes; `after` none: from now.
    ///
    /// # Errors
    /// When the gateway refuses or does not answer.
    pub async fn watch(&self, after: Option<&FeedPosition>) -> Result<Watch<'_>, CallError> {
        let stream = self.opened.watch(after, self.peer.timeout).await;
        Ok(Watch {
            cache: self,
            stream: stream.map_err(self.peer.explain())?,
        })
    }
}

impl Watch<'_> {
    /// The next changes, or the position alone.
    ///
    /// # Errors
    /// When the watch ended or broke.
    pub async fn next(&mut self) -> Result<Watched, CallError> {
        let next = self.stream.next().await;
        next.map_err(self.cache.peer.explain())
    }
}
