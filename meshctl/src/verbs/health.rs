//! `meshctl health`: whether a process takes calls, for health checks of containers.

use crate::{
    args::{Global, HealthArgs},
    output::emit,
};

pub(super) async fn run(global: &Global, flags: &HealthArgs) -> anyhow::Result<()> {
    let address = flags.address.as_deref().unwrap_or(global.address());
    let health = super::at(global, None, address)?.health().await?;
    emit(global.output, &health, || {
        format!("{}: {}", health.address, health.status)
    })?;
    anyhow::ensure!(
        health.serving,
        "{address} does not take calls now: it is starting or ending"
    );
    Ok(())
}
