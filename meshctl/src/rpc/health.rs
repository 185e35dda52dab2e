//! The standard health service, which every process answers.

use serde::Serialize;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{CallError, Peer};

/// What a process says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// Who was asked, `host:port`.
    pub address: String,
    /// As `grpc.health.v1` names it, such as `SERVING`.
    pub status: &'static str,
    /// Whether it takes calls.
    pub serving: bool,
}

impl Peer {
    /// Whether the process takes calls.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn health(&self) -> Result<Health, CallError> {
        let request = self.request(HealthCheckRequest {
            service: String::new(),
        });
        let answer = HealthClient::new(self.channel.clone()).check(request).await;
        let answer = answer.map_err(self.failed("asking for health"))?;
        let status = answer.into_inner().status();
        Ok(Health {
            address: self.address().to_owned(),
            status: status.as_str_name(),
            serving: status == ServingStatus::Serving,
        })
    }
}
