//! The services of a server, by their names.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body, server::NamedService};
use tower::{Service, ServiceExt};

pub(super) type Answering = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Services as they are given to [`super::serve`]. Cheap to clone.
#[derive(Clone, Default)]
pub struct Routes {
    services: HashMap<&'static str, Arc<dyn Serve>>,
}

impl Routes {
    /// Of one service.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Self::default().add_service(service)
    }

    /// With one more service, in place of an earlier one of its name.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.services.insert(S::NAME, Arc::new(service));
        self
    }

    /// Answers a call of a path such as `/kvmesh.v1.Cache/Get`; that of a service that is not here
    /// is `UNIMPLEMENTED`.
    pub(super) fn answer(&self, request: Request<Body>) -> Answering {
        let path = request.uri().path();
        let named = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        match named.and_then(|(name, _)| self.services.get(name)) {
            Some(service) => service.answer(request),
            None => {
                let what = format!("this server has no method {path}: ask another one");
                Box::pin(async { Ok(Status::unimplemented(what).into_http()) })
            }
        }
    }
}

trait Serve: Send + Sync {
    fn answer(&self, request: Request<Body>) -> Answering;
}

impl<S> Serve for S
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    fn answer(&self, request: Request<Body>) -> Answering {
        Box::pin(self.clone().oneshot(request))
    }
}
