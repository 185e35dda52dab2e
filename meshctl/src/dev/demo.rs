//! `meshctl dev --demo`: the tour. Each step does one thing and checks what the mesh
//! promises about it; the first broken promise ends the tour.

use std::path::Path;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::{
    promise::Broken,
    show::Show,
    steps::{Row, Tour},
};
use super::mesh::Mesh;
use crate::args::Global;

mod material;
mod promise;
mod show;
mod steps;

/// The tour's JSON.
#[derive(Serialize)]
struct Toured<'a> {
    ok: bool,
    rows: &'a [Row],
    broken: Option<&'a Broken>,
    log: String,
    next: Vec<String>,
}

/// Takes the tour over a ready mesh, and ends the mesh.
///
/// # Errors
/// The promise that broke.
pub(super) async fn run(
    global: &Global,
    mesh: Mesh,
    log: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut show = Show::begin(global.output, &mesh)?;
    let mut tour = Tour::new(&mesh)?;
    let mut rows = Vec::new();
    let toured = tokio::select! {
        toured = tour.take(|row| {
            show.row(&row)?;
            rows.push(row);
            Ok(())
        }) => toured,
        () = stop.cancelled() => Err(anyhow::anyhow!("it was told to end")),
    };
    mesh.stop().await;
    let broken = toured.as_ref().err().and_then(|error| error.downcast_ref());
    show.end(&Toured {
        ok: toured.is_ok(),
        rows: &rows,
        broken,
        log: log.display().to_string(),
        next: next(),
    })?;
    toured
        .map_err(|error| error.context(format!("the tour broke off; its log is {}", log.display())))
}

/// Three commands that work one after the other.
fn next() -> Vec<String> {
    let me = std::env::args()
        .next()
        .unwrap_or_else(|| "meshctl".to_owned());
    vec![
        format!("{me} dev --first-port 7400"),
        format!(
            "{me} namespace open notes --model m && {me} put README.md --namespace notes \
             --chain-out notes.chain"
        ),
        format!(
            "{me} get --namespace notes --chain notes.chain --out copy.md --gateway 127.0.0.1:7401"
        ),
    ]
}
