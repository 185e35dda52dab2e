//! Who does the work: the mesh or a peer, each through its natural client.

use std::{fmt, str::FromStr};

use super::{bare, etcd, memcached, mesh, redis, work::Work};
use crate::ways::Ways;

/// A peer as the flags name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A bare copy over TCP, in this process.
    Tcp,
    /// The same over mutual TLS.
    Tls,
    /// The same mesh, all blocks through its gateway.
    Gateway,
    /// The same mesh, all blocks straight to and from nodes over gRPC.
    Nodes,
    /// `host:port`.
    Redis(String),
    /// `host:port`.
    Memcached(String),
    /// `host:port`.
    Etcd(String),
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = |rest: &str| {
            let address = rest.trim_end_matches('/');
            let port = address
                .rsplit_once(':')
                .map(|(_, port)| port.parse::<u16>());
            match port {
                Some(Ok(_)) => Ok(address.to_owned()),
                _ => Err(format!("{address:?} is no HOST:PORT")),
            }
        };
        match text.split_once("://") {
            None if text == "tcp" => Ok(Self::Tcp),
            None if text == "tls" => Ok(Self::Tls),
            None if text == "gateway" => Ok(Self::Gateway),
            None if text == "nodes" => Ok(Self::Nodes),
            Some(("redis", rest)) => address(rest).map(Self::Redis),
            Some(("memcached", rest)) => address(rest).map(Self::Memcached),
            Some(("etcd", rest)) => address(rest).map(Self::Etcd),
            _ => Err(
                "tcp, tls, gateway, nodes, redis://HOST:PORT, memcached://HOST:PORT and \
                      etcd://HOST:PORT are possible"
                    .into(),
            ),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("bare TCP"),
            Self::Tls => f.write_str("bare TLS"),
            Self::Gateway => f.write_str("gateway"),
            Self::Nodes => f.write_str("nodes"),
            Self::Redis(address) => write!(f, "redis {address}"),
            Self::Memcached(address) => write!(f, "memcached {address}"),
            Self::Etcd(address) => write!(f, "etcd {address}"),
        }
    }
}

/// Who is asked.
#[derive(Clone)]
pub enum Target {
    /// A gateway or a node.
    Mesh(mesh::Target),
    /// See [`Peer::Tcp`].
    Bare(bare::Target),
    /// See [`Peer::Redis`].
    Redis(redis::Target),
    /// See [`Peer::Memcached`].
    Memcached(memcached::Target),
    /// See [`Peer::Etcd`].
    Etcd(etcd::Target),
}

/// One connection to it.
pub enum Connection {
    /// A gateway or a node.
    Mesh(mesh::Connection),
    /// See [`Peer::Tcp`].
    Bare(bare::Connection),
    /// See [`Peer::Redis`].
    Redis(redis::Connection),
    /// See [`Peer::Memcached`].
    Memcached(memcached::Connection),
    /// See [`Peer::Etcd`].
    Etcd(etcd::Connection),
}

impl Target {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(match self {
            Self::Mesh(target) => Connection::Mesh(target.connect().await?),
            Self::Bare(target) => Connection::Bare(target.connect().await?),
            Self::Redis(target) => Connection::Redis(target.connect().await?),
            Self::Memcached(target) => Connection::Memcached(target.connect().await?),
            Self::Etcd(target) => Connection::Etcd(target.connect().await?),
        })
    }
}

impl Connection {
    /// Reads a run; says how many bytes came, each verified.
    ///
    /// # Errors
    /// When one did not come.
    pub async fn get(&mut self, work: &Work, run: usize) -> anyhow::Result<u64> {
        match self {
            Self::Mesh(connection) => connection.get(&work.runs[run]).await,
            Self::Bare(connection) => connection.get(work, run).await,
            Self::Redis(connection) => connection.get(&work.runs[run]).await,
            Self::Memcached(connection) => connection.get(&work.runs[run]).await,
            Self::Etcd(connection) => connection.get(&work.runs[run]).await,
        }
    }

    /// Writes blocks under new names; says how many bytes.
    ///
    /// # Errors
    /// When one was not acknowledged.
    pub async fn put(&mut self, work: &Work) -> anyhow::Result<u64> {
        let number = work.next_put();
        match self {
            Self::Mesh(connection) => connection.put(work, number).await,
            Self::Bare(connection) => connection.put(work, number).await,
            Self::Redis(connection) => connection.put(work, number).await,
            Self::Memcached(connection) => connection.put(work, number).await,
            Self::Etcd(connection) => connection.put(work, number).await,
        }
    }

    /// Which ways blocks went. None: a peer has only one.
    #[must_use]
    pub fn ways(&self) -> Option<Ways> {
        match self {
            Self::Mesh(connection) => Some(connection.ways()),
            _ => None,
        }
    }

    /// Asks how much of a run is there; says how many names were asked for.
    ///
    /// # Errors
    /// When not all of it is.
    pub async fn lookup(&mut self, work: &Work, run: usize) -> anyhow::Result<u64> {
        match self {
            Self::Mesh(connection) => connection.lookup(&work.runs[run]).await,
            Self::Redis(connection) => connection.lookup(&work.runs[run]).await,
            Self::Etcd(connection) => connection.lookup(&work.runs[run]).await,
            Self::Bare(_) | Self::Memcached(_) => {
                anyhow::bail!("this peer has no lookup: leave it out")
            }
        }
    }

    /// Stores what is to be read.
    ///
    /// # Errors
    /// When a block was not stored.
    pub async fn store(&mut self, work: &Work, run: usize) -> anyhow::Result<()> {
        match self {
            Self::Mesh(connection) => connection.store(&work.runs[run]).await,
            Self::Bare(_) => Ok(()),
            Self::Redis(connection) => connection.store(&work.runs[run]).await,
            Self::Memcached(connection) => connection.store(&work.runs[run]).await,
            Self::Etcd(connection) => connection.store(&work.runs[run]).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_peers_and_refuses_what_is_none() {
        let redis = "redis://127.0.0.1:6379/".parse();
        assert_eq!(redis, Ok(Peer::Redis("127.0.0.1:6379".to_owned())));
        assert_eq!("tcp".parse(), Ok(Peer::Tcp));
        assert_eq!("etcd://h:1".parse(), Ok(Peer::Etcd("h:1".to_owned())));
        for text in ["", "redis", "redis://", "redis://localhost", "ftp://a:1"] {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
    }
}
