//! What a server counts of its calls and connections.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tonic::Code;

use crate::access;

/// Codes of gRPC, 0 to 16.
const CODES: usize = 17;
/// Names the calls that no row of the access table has: health, reflection, and what is not served.
const OTHER: &str = "other";

/// Meters of a server, by path. Bounded by the access table: what callers make up is `other`.
#[derive(Debug)]
pub(super) struct Meters {
    methods: HashMap<String, Arc<Method>>,
    other: Arc<Method>,
}

/// Meters of one method.
#[derive(Debug)]
pub(super) struct Method {
    instance: Arc<str>,
    service: &'static str,
    method: &'static str,
    ended: [OnceLock<Counter>; CODES],
    seconds: OnceLock<Histogram>,
}

impl Meters {
    pub(super) fn new(instance: &Arc<str>) -> Self {
        let meter = |service, method| Arc::new(Method::new(instance, service, method));
        let methods = access::methods().map(|(service, method)| {
            let path = format!("/kvmesh.v1.{service}/{method}");
            (path, meter(service, method))
        });
        Self {
            methods: methods.collect(),
            other: meter(OTHER, OTHER),
        }
    }

    pub(super) fn of(&self, path: &str) -> &Arc<Method> {
        self.methods.get(path).unwrap_or(&self.other)
    }
}

impl Method {
    fn new(instance: &Arc<str>, service: &'static str, method: &'static str) -> Self {
        Self {
            instance: Arc::clone(instance),
            service,
            method,
            ended: [const { OnceLock::new() }; CODES],
            seconds: OnceLock::new(),
        }
    }

    /// Counts a call that has ended.
    pub(super) fn ended(&self, code: Code, took: Duration) {
        let Self {
            service, method, ..
        } = *self;
        let instance = || Arc::clone(&self.instance);
        if let Some(ended) = self.ended.get(code as usize) {
            let ended = ended.get_or_init(|| {
                counter!("kvmesh_rpc_requests_total", "instance" => instance(),
                    "service" => service, "method" => method, "code" => format!("{code:?}"))
            });
            ended.increment(1);
        }
        let seconds = self.seconds.get_or_init(|| {
            histogram!("kvmesh_rpc_seconds", "instance" => instance(), "service" => service,
                "method" => method)
        });
        seconds.record(took);
    }
}

/// Meters of connections.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    open: Gauge,
    refused: Counter,
}

impl Connections {
    pub(super) fn new(instance: &Arc<str>) -> Self {
        let instance = || Arc::clone(instance);
        Self {
            open: gauge!("kvmesh_connections", "instance" => instance()),
            refused: counter!("kvmesh_connections_refused_total", "instance" => instance()),
        }
    }

    /// One more, until what is returned is dropped.
    pub(super) fn open(&self) -> Open {
        self.open.increment(1.0);
        Open(self.open.clone())
    }

    /// One was closed because of the bound.
    pub(super) fn refused(&self) {
        self.refused.increment(1);
    }
}

/// A connection that counts.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
