//! Serves `Report`: what engines measured of their requests.

use kvmesh_client::Problem;
use kvmesh_directory::cost::Prefill;
use kvmesh_proto::v1 as wire;

use super::decode;
use crate::{asker::Asker, context::Gateway, prefill::Measured};

/// Requests of one report.
const REPORTS_MAX: usize = 1_024;

pub(super) fn serve(
    gateway: &Gateway,
    asker: &Asker,
    request: wire::ReportRequest,
) -> Result<wire::ReportResponse, Problem> {
    if request.reports.len() > REPORTS_MAX {
        let got = request.reports.len();
        let why = format!("{got} requests, the limit is {REPORTS_MAX}: report more often");
        return Err(Problem::invalid("reports", why));
    }
    let namespace = decode::namespace_of(gateway, asker, request.namespace_id)?;
    let reports = request.reports.iter();
    let growth = namespace.policy.attention_growth;
    let measured = reports.map(|report| read(report, growth));
    let measured = measured.collect::<Result<Vec<_>, _>>()?;
    let used = gateway.prefill.learn(namespace.id, &measured);
    gateway.meters.reported(used, measured.len() - used);
    Ok(wire::ReportResponse {
        prefill_rate: gateway.prefill.rate(&namespace),
    })
}

fn read(report: &wire::RequestReport, growth: f64) -> Result<Measured, Problem> {
    let times = [
        ("reports.prefill_ms", report.prefill_ms),
        ("reports.queue_ms", report.queue_ms),
        ("reports.ttft_ms", report.ttft_ms),
    ];
    for (field, ms) in times {
        if !ms.is_finite() || ms < 0.0 {
            let why = format!("it is {ms}: milliseconds, 0 for not measured");
            return Err(Problem::invalid(field, why));
        }
    }
    let (from, tokens) = (f64::from(report.prefix_tokens), f64::from(report.tokens));
    let attention = Prefill { rate: 1.0, growth };
    Ok(Measured {
        tokens: report.tokens,
        work: attention.seconds(from, from + tokens),
        prefill_ms: report.prefill_ms,
    })
}
