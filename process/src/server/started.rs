//! What each server says of itself once: which program it is, and since when it runs.

use metrics::gauge;

use crate::Environment;

/// Sets the gauges of a server that starts.
pub(crate) fn started(environment: &Environment) {
    let instance = || environment.instance.clone();
    gauge!("kvmesh_build_info", "instance" => instance(), "version" => env!("CARGO_PKG_VERSION"),
        "revision" => option_env!("KVMESH_REVISION").unwrap_or("unknown"))
    .set(1.0);
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
    let now = environment.clock.millis() as f64 / 1_000.0;
    gauge!("kvmesh_started_seconds", "instance" => instance()).set(now);
}
