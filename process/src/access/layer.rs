//! Asks the table before each call.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::future::Either;
use kvmesh_client::channel::Link;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::info;

use super::Guests;

/// See [`Access`].
#[derive(Debug, Clone)]
pub(crate) struct AccessLayer {
    guests: Guests,
}

impl AccessLayer {
    pub(crate) fn new(guests: Guests) -> Self {
        Self { guests }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        let guests = self.guests.clone();
        Access { inner, guests }
    }
}

/// A server's calls, those refused apart that the caller may not make.
#[derive(Debug, Clone)]
pub(crate) struct Access<S> {
    inner: S,
    guests: Guests,
}

impl<S> Service<http::Request<Body>> for Access<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<S::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let link = request.extensions().get::<Option<Link>>();
        let checked = match link.and_then(Option::as_ref) {
            None => Ok(()),
            Some(link) => super::check_path(link, &self.guests, request.uri().path()),
        };
        match checked {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(problem) => {
                info!(%problem, "a call was refused");
                Either::Left(ready(Ok(Status::from(problem).into_http())))
            }
        }
    }
}
