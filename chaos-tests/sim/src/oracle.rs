//! Judges a history: which of the mesh's promises to its clients were broken.
//!
//! Pure. What a client was not told it may not count on: an unanswered put may be stored at
//! any later time, and an unanswered delete may delete. So every finding is a bug, and not
//! every bug is found.
//!
//! Not here: what clients cannot see, such as whether replicas agree (`audit`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    content::{Content, Name},
    history::{History, Kind, Op, PutTold},
    rpc::Opening,
    trace::Mark,
};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: Rule,
    /// How.
    pub what: String,
}

/// What a mesh promises to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A get returns exactly the bytes of a put of that name.
    Bytes,
    /// A block that was refused is not stored.
    Refused,
    /// An acknowledged block survives the loss of all but one of its copies.
    Durable,
    /// A get that begins after an acknowledged delete does not return the block.
    Deleted,
    /// A node takes no put by a ring older than its own.
    Epoch,
    /// Who puts a block and looks it up then, by whichever gateway, finds it.
    Own,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Node losses at once that an acknowledged block survives.
const LOSSES_SURVIVED: usize = 1;

/// Everything that is wrong with a history.
#[must_use]
pub fn judge(history: &History) -> Vec<Violation> {
    let facts = Facts::of(history);
    let mut found = Vec::new();
    for op in &history.ops {
        match &op.kind {
            Kind::Get { got, settled } => {
                for (name, content, from) in got {
                    let read = Read {
                        op,
                        name: *name,
                        from,
                        settled: *settled,
                    };
                    match content {
                        Ok(content) => found.extend(facts.read(&read, *content)),
                        Err(why) => found.push(read.violates(Rule::Bytes, why)),
                    }
                }
            }
            Kind::Put {
                name,
                told: PutTold::Acked { copies, existed },
                ..
            } if *copies as usize > LOSSES_SURVIVED => {
                found.extend(facts.kept(op, *name, *existed));
            }
            Kind::Straggle { node, told } if *told == Opening::Taken => {
                found.extend(facts.straggled(op, *node));
            }
            Kind::Lookup { found: looked_up } => {
                let lacking = looked_up.iter().filter(|(_, present)| !present);
                found.extend(lacking.filter_map(|(name, _)| facts.own(op, *name)));
            }
            Kind::Put { .. } | Kind::Delete { .. } | Kind::Straggle { .. } => {}
        }
    }
    found
}

struct Facts<'a> {
    history: &'a History,
    puts: BTreeMap<Content, Vec<(&'a Op, PutTold)>>,
    deletes: BTreeMap<Name, Vec<(&'a Op, bool)>>,
}

/// One block that a get returned.
struct Read<'a> {
    op: &'a Op,
    name: Name,
    from: &'a str,
    settled: bool,
}

impl Read<'_> {
    fn violates(&self, rule: Rule, why: impl fmt::Display) -> Violation {
        let (client, name, from) = (&self.op.client, self.name, self.from);
        let what = format!("{client} got {name} from {from}: {why}");
        Violation { rule, what }
    }
}

impl<'a> Facts<'a> {
    fn of(history: &'a History) -> Self {
        let mut puts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut deletes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for op in &history.ops {
            match &op.kind {
                Kind::Put { content, told, .. } => {
                    puts.entry(*content).or_default().push((op, *told));
                }
                Kind::Delete { names, acked } => {
                    for name in names {
                        deletes.entry(*name).or_default().push((op, *acked));
                    }
                }
                Kind::Get { .. } | Kind::Lookup { .. } | Kind::Straggle { .. } => {}
            }
        }
        Self {
            history,
            puts,
            deletes,
        }
    }

    /// What is wrong with a block that a get returned.
    fn read(&self, read: &Read<'_>, content: Content) -> Option<Violation> {
        let puts = self.puts.get(&content).map_or(&[][..], |puts| puts);
        let end = read.op.ended.unwrap_or(Mark(u64::MAX));
        if puts.iter().all(|(put, _)| put.begun > end) {
            return Some(read.violates(Rule::Bytes, format!("{content} was not put yet")));
        }
        let refused = |(put, told): &(&Op, PutTold)| {
            *told == PutTold::Refused && put.ended.is_some_and(|ended| ended < read.op.begun)
        };
        if puts.iter().all(refused) {
            let why = format!("{content} was refused each time");
            return Some(read.violates(Rule::Refused, why));
        }
        let deletes = self.deletes.get(&read.name);
        for (delete, acked) in deletes.into_iter().flatten() {
            let over = *acked && delete.ended.is_some_and(|ended| ended < read.op.begun);
            let here = delete.region == read.op.region || read.settled;
            let put_since = |(put, told): &(&Op, PutTold)| {
                !refused(&(put, *told)) && may_follow(put, *told, delete)
            };
            if over && here && !puts.iter().any(put_since) {
                let why = format!(
                    "{content} was deleted by {}, acknowledged before the get began",
                    delete.client
                );
                return Some(read.violates(Rule::Deleted, why));
            }
        }
        None
    }

    /// What is wrong with an acknowledged block at the end. A block that `existed` may be
    /// older than a delete that another region has acknowledged and that is on its way.
    fn kept(&self, put: &Op, name: Name, existed: bool) -> Option<Violation> {
        let present = self.history.present.get(put.region)?;
        if self.may_be_deleted(put, name, existed) || present.contains_key(&name) {
            return None;
        }
        let lost = self.lost_at_once(put.region, put.begun);
        (lost <= LOSSES_SURVIVED).then(|| Violation {
            rule: Rule::Durable,
            what: format!(
                "{} was acknowledged to {}, and is not there at the end; at most {lost} of \
                 the region's nodes were lost at once since",
                name, put.client
            ),
        })
    }

    /// Whether a delete may be newer than an acknowledged block.
    fn may_be_deleted(&self, put: &Op, name: Name, existed: bool) -> bool {
        let may_delete = |(delete, acked): &(&Op, bool)| {
            let on_its_way = existed && delete.region != put.region;
            !acked || on_its_way || delete.ended.is_none_or(|ended| ended > put.begun)
        };
        let deletes = self.deletes.get(&name);
        deletes.is_some_and(|deletes| deletes.iter().any(may_delete))
    }

    /// What is wrong with a lookup that did not find a block. Nothing, when a node was lost
    /// since it was put: another one may have been given up at the same time.
    fn own(&self, lookup: &Op, name: Name) -> Option<Violation> {
        let puts = self.puts.values().flatten();
        let own = puts.filter(|(put, _)| {
            let ended = put.ended.is_some_and(|ended| ended < lookup.begun);
            ended && put.client == lookup.client && of_name(put, name)
        });
        let mut kept = own.filter_map(|(put, told)| match told {
            PutTold::Acked { copies, existed } if *copies as usize > LOSSES_SURVIVED => {
                Some((put, *existed))
            }
            _ => None,
        });
        kept.find_map(|(put, existed)| {
            let excused = self.may_be_deleted(put, name, existed)
                || self.lost_at_once(put.region, put.begun) > 0;
            (!excused).then(|| Violation {
                rule: Rule::Own,
                what: format!(
                    "{} was acknowledged to {}, who does not find it",
                    name, put.client
                ),
            })
        })
    }

    /// What is wrong with a node that took a put of an older ring. One that began anew in
    /// between may not have caught up.
    fn straggled(&self, put: &Op, node: usize) -> Option<Violation> {
        let mut losses = self.history.losses.iter();
        let lost = losses.any(|loss| {
            (loss.region, loss.node) == (put.region, node)
                && loss.at > put.begun
                && put.ended.is_none_or(|ended| loss.at < ended)
        });
        (!lost).then(|| Violation {
            rule: Rule::Epoch,
            what: format!(
                "node {} took a put of {} by a past ring",
                node + 1,
                put.client
            ),
        })
    }

    /// The most nodes of a region that were lost since a moment without a moment between them
    /// at which every block was whole again.
    fn lost_at_once(&self, region: usize, since: Mark) -> usize {
        let here = |loss: &&crate::Loss| loss.region == region && loss.at > since;
        let mut nodes = BTreeSet::new();
        let (mut last, mut most) = (since, 0);
        for loss in self.history.losses.iter().filter(here) {
            let mut whole = self.history.whole.iter();
            if whole.any(|(at, mark)| *at == region && last < *mark && *mark < loss.at) {
                nodes.clear();
            }
            nodes.insert(loss.node);
            (last, most) = (loss.at, most.max(nodes.len()));
        }
        most
    }
}

fn of_name(put: &Op, name: Name) -> bool {
    matches!(&put.kind, Kind::Put { name: of, .. } if *of == name)
}

/// Whether a put may be newer than a delete.
fn may_follow(put: &Op, told: PutTold, delete: &Op) -> bool {
    told == PutTold::Unknown || put.ended.is_none_or(|ended| ended > delete.begun)
}

#[cfg(test)]
#[path = "oracle_test.rs"]
mod oracle_test;
