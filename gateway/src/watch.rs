//! Watches: a client follows what appears and vanishes in one namespace of this region.
//!
//! Nothing is queued for a watch: it reads the view's tail of changes from its own position,
//! and one that falls behind what the tail keeps is ended. A name of another namespace never
//! reaches it.

use std::{sync::Arc, time::Duration};

use kvmesh_client::{
    Problem,
    follow::{Change, ChangedStep, Told},
};
use kvmesh_directory::{BlockName, FeedPosition, NamespaceId};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use crate::context::{Gateway, exhausted};

/// Watches at a time, over all namespaces.
pub(crate) const WATCHES_MAX: usize = 256;
/// Names of one message: 4,096 of about 80 bytes.
const NAMES_MAX: usize = 4_096;
/// Steps that are read from the tail at a time.
const STEPS_AT_ONCE: usize = 256;
/// A message comes at least so often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A client that takes no message for so long is detached.
const SLOW_MAX: Duration = Duration::from_secs(10);

/// Changes up to `index`: what appeared, then what vanished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) position: FeedPosition,
    pub(crate) appeared: Vec<BlockName>,
    pub(crate) vanished: Vec<BlockName>,
}

impl Message {
    fn at(position: &FeedPosition) -> Self {
        Self {
            position: position.clone(),
            appeared: Vec::new(),
            vanished: Vec::new(),
        }
    }

    fn names(&self) -> usize {
        self.appeared.len() + self.vanished.len()
    }
}

/// Follows from `cursor` on, until the client leaves or an end that the result says.
pub(crate) async fn run(
    gateway: &Arc<Gateway>,
    namespace: NamespaceId,
    mut cursor: FeedPosition,
    out: &mpsc::Sender<Message>,
) -> Result<(), Problem> {
    let view = &gateway.views.local;
    let mut moved = view.changes();
    let mut silent_until = Instant::now();
    loop {
        moved.borrow_and_update();
        let mut messages = Vec::new();
        let idle = match view.told_after(&cursor, STEPS_AT_ONCE) {
            Told::Gap => return Err(Problem::Gap(gap(&cursor))),
            Told::Steps(steps) => {
                messages = pack(namespace, &mut cursor, &steps);
                false
            }
            Told::Nothing(at) => {
                cursor = at;
                true
            }
        };
        if messages.is_empty() && Instant::now() >= silent_until {
            messages.push(Message::at(&cursor));
        }
        for message in messages {
            match tell(out, message).await? {
                true => silent_until = Instant::now() + HEARTBEAT,
                false => return Ok(()),
            }
        }
        gateway.views.fresh()?;
        if idle {
            tokio::select! {
                _ = moved.changed() => {}
                () = sleep_until(silent_until) => {}
                () = out.closed() => return Ok(()),
                () = gateway.stop.cancelled() => {
                    return Err(Problem::unavailable("this gateway ends: watch at another one"));
                }
            }
        }
    }
}

/// False: the client has left.
async fn tell(out: &mpsc::Sender<Message>, message: Message) -> Result<bool, Problem> {
    match timeout(SLOW_MAX, out.send(message)).await {
        Ok(sent) => Ok(sent.is_ok()),
        Err(_) => Err(exhausted(
            "the time that a slow watch is waited for (10 s): watch again from the last position that came",
        )),
    }
}

fn gap(cursor: &FeedPosition) -> String {
    format!(
        "the changes after {}@{} are not kept here any more: watch from now, and look up what you need",
        cursor.region, cursor.index
    )
}

/// Messages about one namespace; `cursor` moves over the steps. A message that ends within a
/// step has the position of the step before it.
fn pack(namespace: NamespaceId, cursor: &mut FeedPosition, steps: &[ChangedStep]) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut open = Message::at(cursor);
    for step in steps {
        for change in step.changes.iter() {
            let (Change::Appeared(name) | Change::Vanished(name)) = *change;
            if name.namespace != namespace {
                continue;
            }
            let appeared = matches!(change, Change::Appeared(_));
            // Within a message what appeared comes first.
            let turns = appeared && !open.vanished.is_empty();
            if turns || open.names() == NAMES_MAX {
                messages.push(std::mem::replace(&mut open, Message::at(cursor)));
            }
            match appeared {
                true => open.appeared.push(name),
                false => open.vanished.push(name),
            }
        }
        cursor.index = step.index;
        open.position.index = step.index;
    }
    if open.names() > 0 {
        messages.push(open);
    }
    messages
}

#[cfg(test)]
mod tests {
    use kvmesh_directory::{BlockHash, LogIncarnation, Part};

    use super::*;

    fn at(index: u64) -> FeedPosition {
        FeedPosition {
            region: "us-east".parse().unwrap(),
            log_incarnation: LogIncarnation(7),
            index,
        }
    }

    fn name(namespace: u8, number: u32) -> BlockName {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        BlockName {
            namespace: NamespaceId([namespace; 16]),
            hash: BlockHash(hash),
            part: Part::default(),
        }
    }

    fn step(index: u64, changes: impl IntoIterator<Item = Change>) -> ChangedStep {
        let changes = changes.into_iter().collect();
        ChangedStep { index, changes }
    }

    #[test]
    fn order_is_kept_and_other_namespaces_are_not_told() {
        let (mine, other) = (|number| name(1, number), |number| name(2, number));
        let steps = [
            step(5, [Change::Appeared(mine(1)), Change::Appeared(other(2))]),
            step(6, [Change::Vanished(mine(1)), Change::Vanished(other(2))]),
            step(8, [Change::Appeared(mine(1)), Change::Appeared(mine(3))]),
            step(9, [Change::Appeared(other(4))]),
        ];
        let mut cursor = at(4);
        let messages = pack(NamespaceId([1; 16]), &mut cursor, &steps);
        assert_eq!(cursor, at(9));
        let want = [
            (at(6), vec![mine(1)], vec![mine(1)]),
            (at(9), vec![mine(1), mine(3)], vec![]),
        ];
        let got = messages.into_iter();
        let got: Vec<_> = got
            .map(|it| (it.position, it.appeared, it.vanished))
            .collect();
        assert_eq!(got, want);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_detached_and_told_to_begin_anew() {
        let (out, mut taken) = mpsc::channel(1);
        assert_eq!(tell(&out, Message::at(&at(1))).await, Ok(true));
        let begun = Instant::now();
        let Err(Problem::Exhausted { limit, .. }) = tell(&out, Message::at(&at(2))).await else {
            panic!("it was waited for");
        };
        assert!(limit.contains("watch again"), "{limit}");
        assert_eq!(begun.elapsed(), SLOW_MAX);
        assert_eq!(taken.recv().await, Some(Message::at(&at(1))));
        drop(taken);
        assert_eq!(tell(&out, Message::at(&at(3))).await, Ok(false));
    }

    #[test]
    fn a_large_step_keeps_the_position_before_it_until_its_end() {
        let all = (0..NAMES_MAX as u32 + 7).map(|number| Change::Vanished(name(1, number)));
        let mut cursor = at(4);
        let messages = pack(NamespaceId([1; 16]), &mut cursor, &[step(5, all)]);
        let got: Vec<_> = messages
            .iter()
            .map(|it| (it.position.index, it.names()))
            .collect();
        assert_eq!(got, [(4, NAMES_MAX), (5, 7)]);
    }
}
