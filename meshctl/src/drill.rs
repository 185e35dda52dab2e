//! `meshctl drill`: breaks something on purpose, under load, and says whether the mesh kept
//! its promises.
//!
//! Start reading at `region_loss`. `place` is the one thing that knows whether the mesh is one
//! of its own; `load` is what clients do meanwhile; `report` says what was promised.

mod load;
mod material;
mod others;
mod place;
mod region_loss;
mod report;
mod verify;
mod watch;

use std::{path::Path, time::Duration};

use kvmesh_process::{shutdown, telemetry};

use crate::{
    args::{self, DrillRun, DrillVerb, Global, RegionLossArgs},
    dev::mesh::{Mesh, Settings},
    exit, logs,
    output::emit,
    sizes::human,
};

use self::{place::Place, region_loss::Plan};

/// Runs a drill, prints its report, and says whether every promise held.
///
/// # Errors
/// When a promise broke, the mesh is not fit for a drill, or something is not set up.
pub async fn run(global: &Global, verb: DrillVerb) -> anyhow::Result<()> {
    let DrillVerb::Run(DrillRun::RegionLoss(args)) = verb;
    if !(1..=kvmesh_directory::limits::BLOCK_BYTES_MAX).contains(&args.bytes_per_block.0) {
        return Err(exit::set_up(format!(
            "--bytes-per-block: 1 B to {} are possible",
            human(kvmesh_directory::limits::BLOCK_BYTES_MAX)
        )));
    }
    match (&args.fence, &args.mend) {
        (Some(fence), Some(mend)) => {
            logs::start(&global.log, None)?;
            let limit = Duration::from_secs(u64::from(args.command_timeout));
            let place = Place::given(global, (fence, mend, limit), &args).await?;
            drill(global, &args, &place, None).await
        }
        _ => on_its_own_mesh(global, &args).await,
    }
}

async fn on_its_own_mesh(global: &Global, args: &RegionLossArgs) -> anyhow::Result<()> {
    if !global.gateway.is_empty() && global.context.is_none() {
        return Err(exit::set_up(
            "a drill on a mesh that runs already needs --fence and --mend, the commands that cut \
             the region off and let it back; without --gateway it starts a mesh of its own",
        ));
    }
    if let Some(context) = &global.context {
        eprintln!(
            "context {context} is left alone: the drill starts a mesh of its own; with --fence \
             and --mend it would work on that one"
        );
    }
    let log = logs::file("kvmesh-drill-")?;
    let filter = match global.log.as_str() {
        args::LOG => telemetry::LOG_FILTER,
        filter => filter,
    };
    logs::start(filter, Some(&log))?;
    let mut settings = Settings::from(&args.mesh);
    settings.return_after = args.return_after.map(Duration::from_secs_f64);
    place::check(&settings, &args.region)?;
    let mesh = Mesh::start(settings)
        .await
        .map_err(|error| exit::set_up(format!("the mesh cannot be set up: {error:#}")))?;
    let drilled = match Place::own(&mesh, global.call_timeout()) {
        Ok(place) => drill(global, args, &place, Some(&log)).await,
        Err(error) => Err(error),
    };
    mesh.stop().await;
    drilled
}

async fn drill(
    global: &Global,
    args: &RegionLossArgs,
    place: &Place,
    log: Option<&Path>,
) -> anyhow::Result<()> {
    let stop = shutdown::on_signal();
    let plan = Plan::new(args, place)?;
    let report = region_loss::run(place, &plan, &stop, log).await?;
    emit(global.output, &report, || report.table())?;
    anyhow::ensure!(report.ok, "{}", report.broken().join("; "));
    Ok(())
}
