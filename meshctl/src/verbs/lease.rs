//! `meshctl lease`: holds what a lookup leased, or lets it go.

use kvmesh_client::client::LeaseAnswer;
use serde::Serialize;

use crate::{
    args::{Global, LeaseArgs, LeaseVerb},
    exit,
    output::emit,
};

#[derive(Serialize)]
struct Told {
    blocks: u32,
    hold_ms: u64,
    partial: bool,
}

impl Told {
    fn of(answer: &LeaseAnswer) -> Self {
        Self {
            blocks: answer.blocks,
            hold_ms: u64::try_from(answer.hold.as_millis()).unwrap_or(u64::MAX),
            partial: answer.partial,
        }
    }

    fn partly(&self) -> &'static str {
        match self.partial {
            true => "; some nodes did not answer or have it no more: look the chain up again",
            false => "",
        }
    }
}

pub(super) async fn run(global: &Global, verb: LeaseVerb) -> anyhow::Result<()> {
    let args = match &verb {
        LeaseVerb::Renew(renew) => &renew.lease,
        LeaseVerb::Release(release) => release,
    };
    let name = name(args)?;
    let peer = super::peer(global)?;
    let namespace = super::named(&peer, &args.namespace).await?;
    let cache = peer.cache(&namespace, &[])?;
    match verb {
        LeaseVerb::Renew(renew) => {
            let told = Told::of(&cache.renew(name, renew.hold).await?);
            emit(global.output, &told, || {
                let partly = told.partly();
                format!(
                    "{} blocks stay for {} ms{partly}",
                    told.blocks, told.hold_ms
                )
            })
        }
        LeaseVerb::Release(_) => {
            let told = Told::of(&cache.release(name).await?);
            emit(global.output, &told, || {
                format!("{} blocks were let go{}", told.blocks, told.partly())
            })
        }
    }
}

/// As `meshctl lookup --hold` printed it.
fn name(args: &LeaseArgs) -> anyhow::Result<Vec<u8>> {
    let raw = args.lease.as_bytes();
    let digit = |raw: u8| {
        char::from(raw)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let bytes = raw.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.ok_or_else(|| exit::set_up("LEASE: give the hexadecimal digits that lookup printed"))
}
