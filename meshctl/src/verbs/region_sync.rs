//! `meshctl region sync`: what a region-sync knows of another region, compared or read again.

use kvmesh_client::tls::Role;
use kvmesh_directory::{FeedPosition, limits::DIGEST_RANGES};
use serde::Serialize;

use crate::{
    args::{Global, RegionSyncArgs},
    output::{self, emit},
    progress,
    rpc::{position_text, sync::How},
};

/// What came of it.
#[derive(Serialize)]
struct Done {
    region: String,
    peer: String,
    how: &'static str,
    #[serde(serialize_with = "position_text")]
    position: Option<FeedPosition>,
    /// As text: programs read numbers of this size wrongly.
    log: Option<String>,
    blocks: u64,
    ranges: u32,
    missing: u64,
    gone: u64,
    resized: u64,
    objects: u64,
}

pub(super) async fn run(global: &Global, args: &RegionSyncArgs) -> anyhow::Result<()> {
    let peer = super::at(global, Some(Role::RegionSync), global.region_sync_address())?;
    let region = peer.region_of_sync().await?;
    let (how, name) = match &args.since {
        _ if args.from_zero => (How::FromZero, "from_zero"),
        None => (How::Compare, "compare"),
        Some(since) => (How::Since(since.of(&args.peer)), "since"),
    };
    if !matches!(how, How::Compare) {
        let what = format!(
            "what is known of region {} is read again and replaced",
            args.peer
        );
        super::announce(global, &region, peer.address(), &what);
    }
    let bar = progress::count(0, "blocks");
    let told = |read: u64, before: u64| {
        bar.set_length(before.max(read));
        bar.set_position(read);
    };
    let synced = peer.sync(&args.peer, how, told).await?;
    bar.finish_and_clear();
    let done = Done {
        region,
        peer: args.peer.to_string(),
        how: name,
        log: synced
            .position
            .as_ref()
            .map(|position| position.log_incarnation.0.to_string()),
        position: synced.position,
        blocks: synced.blocks,
        ranges: synced.ranges,
        missing: synced.missing,
        gone: synced.gone,
        resized: synced.resized,
        objects: synced.objects,
    };
    emit(global.output, &done, || done.text())
}

impl Done {
    fn text(&self) -> String {
        let heads = [
            "peer", "blocks", "missing", "gone", "resized", "objects", "position", "log",
        ];
        let mut table = output::table(&heads, &[1, 2, 3, 4, 5, 6, 7]);
        let found = |blocks: u64| match self.how {
            "compare" => blocks.to_string(),
            _ => "-".to_owned(),
        };
        table.add_row(vec![
            self.peer.clone(),
            self.blocks.to_string(),
            found(self.missing),
            found(self.gone),
            found(self.resized),
            found(self.objects),
            super::topology::index(self.position.as_ref()),
            self.log.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
        let said = match (self.how, self.ranges, self.objects) {
            ("compare", 0, 0) => "region REGION knows what region PEER has".to_owned(),
            ("compare", ranges, 0) => format!(
                "region REGION knew PEER wrongly in {ranges} of {DIGEST_RANGES} ranges; they are mended"
            ),
            ("compare", ranges, objects) => format!(
                "region REGION knew PEER wrongly in {ranges} of {DIGEST_RANGES} ranges, and had not \
                 heard of {objects} deletes or namespaces; they are mended"
            ),
            _ => "region REGION has read again what region PEER has".to_owned(),
        };
        let said = said.replace("REGION", &self.region);
        format!("{}\n{table}", said.replace("PEER", &self.peer))
    }
}
