//! `meshctl dev link`: changes a link of a mesh that runs in another terminal.

use super::control::{self, Change};
use crate::{
    args::{Global, LinkArgs},
    exit,
    output::{self, emit, ms},
    sizes::human,
};

pub(super) async fn run(global: &Global, args: &LinkArgs) -> anyhow::Result<()> {
    let up = match (args.down, args.up) {
        (true, _) => Some(false),
        (false, true) => Some(true),
        (false, false) => None,
    };
    let changes = args.rtt_ms.is_some() || args.bandwidth.is_some() || up.is_some();
    let between = match &args.regions[..] {
        [] if changes => return Err(exit::set_up("name the two regions whose link is meant")),
        [] => None,
        [one, other] => Some([one.clone(), other.clone()]),
        _ => return Err(exit::set_up("a link has two regions: name both")),
    };
    let change = Change {
        between,
        rtt_ms: args.rtt_ms,
        bandwidth: args.bandwidth.map(|bandwidth| bandwidth.0),
        up,
    };
    let links = control::ask(args.control.as_deref(), &change).await?;
    emit(global.output, &links, || {
        let heads = ["between", "", "rtt", "bandwidth", "state"];
        let mut table = output::table(&heads, &[2, 3]);
        for link in &links {
            let [one, other] = link.between.clone();
            table.add_row(vec![
                one,
                other,
                ms(link.rtt_ms),
                match link.bandwidth {
                    0 => "not limited".to_owned(),
                    bandwidth => format!("{}/s", human(bandwidth)),
                },
                if link.up { "up" } else { "down" }.to_owned(),
            ]);
        }
        table.to_string()
    })
}
