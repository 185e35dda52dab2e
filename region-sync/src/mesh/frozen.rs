//! What is shown of one region, frozen, and the steps that were shown since: so it can be had at
//! any later position, however fast the region goes on, and be mended under what it is now.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use kvmesh_directory::{FeedPosition, MeshView, RegionId, Tag, view::RangeDigest};
use tokio::{
    sync::broadcast::{
        Receiver,
        error::{RecvError, TryRecvError},
    },
    time::{Instant, timeout_at},
};

use super::{Mesh, News};
use crate::compare::Difference;

/// Tags of steps that are kept; a comparison that takes longer is given up.
const LATER_TAGS_MAX: usize = 1 << 20;
/// Tags of one mend that gateways get as a step; a larger one is a snapshot to them.
const MEND_TAGS_MAX: usize = 131_072;

/// Why a frozen view is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    /// The region was read from the start, or began another log.
    #[error("what is known of the region was replaced meanwhile")]
    Replaced,
    /// More was shown than is kept.
    #[error("too much changed meanwhile")]
    TooMuch,
    /// What is shown did not get so far.
    #[error("the view is too far behind")]
    Behind,
}

/// See the module.
pub(crate) struct Frozen {
    region: RegionId,
    view: MeshView,
    at: FeedPosition,
    news: Receiver<Arc<News>>,
    /// Steps that `view` does not have, in order.
    later: VecDeque<Arc<News>>,
    tags: usize,
}

impl Frozen {
    /// The view as it was at [`Self::at`].
    pub(crate) fn view(&self) -> &MeshView {
        &self.view
    }

    /// Where the view stands.
    pub(crate) fn at(&self) -> &FeedPosition {
        &self.at
    }

    /// Does something, and keeps the steps that are shown meanwhile.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Lost> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                heard = self.news.recv() => self.keep(heard)?,
            }
        }
    }

    /// Moves on to a position, which may not be shown yet, and waits for it until a moment.
    pub(crate) async fn reach(&mut self, to: &FeedPosition, until: Instant) -> Result<(), Lost> {
        if self.at.log_incarnation != to.log_incarnation || self.at.region != to.region {
            return Err(Lost::Replaced);
        }
        loop {
            while let Some(step) = self.later.pop_front() {
                let News::Step {
                    appeared,
                    vanished,
                    position,
                    ..
                } = &*step
                else {
                    continue;
                };
                if !to.covers(position) {
                    // It leads past: without it the view is what it was there.
                    self.later.push_front(step);
                    return Ok(());
                }
                self.tags -= weight(appeared, vanished);
                self.at = position.clone();
                let at = Some(position.clone());
                self.view.step(&self.region, appeared, vanished, at);
            }
            if self.at.covers(to) {
                return Ok(());
            }
            let heard = timeout_at(until, self.news.recv()).await;
            self.keep(heard.map_err(|_| Lost::Behind)?)?;
        }
    }

    fn keep(&mut self, heard: Result<Arc<News>, RecvError>) -> Result<(), Lost> {
        let news = heard.map_err(|_| Lost::TooMuch)?;
        match &*news {
            News::Replaced(region) if *region == self.region => return Err(Lost::Replaced),
            News::Step {
                region,
                appeared,
                vanished,
                position,
            } if *region == self.region => {
                if position.log_incarnation != self.at.log_incarnation {
                    return Err(Lost::Replaced);
                }
                self.tags += weight(appeared, vanished);
                self.later.push_back(news);
            }
            // Nobody but who has this one mends.
            _ => {}
        }
        match self.tags > LATER_TAGS_MAX {
            true => Err(Lost::TooMuch),
            false => Ok(()),
        }
    }

    /// Tags about which more was said since.
    fn touched(&self) -> HashSet<Tag> {
        let mut touched = HashSet::new();
        for step in &self.later {
            if let News::Step {
                appeared, vanished, ..
            } = &**step
            {
                touched.extend(appeared.iter().map(|(tag, _)| *tag));
                touched.extend(vanished);
            }
        }
        touched
    }
}

/// A step without tags has a weight as well.
fn weight(appeared: &[(Tag, u32)], vanished: &[Tag]) -> usize {
    1 + appeared.len() + vanished.len()
}

impl Mesh {
    /// What is shown of a region, frozen; none before its first snapshot.
    pub(crate) fn freeze(&self, region: &RegionId) -> Option<Frozen> {
        let inner = self.read();
        Some(Frozen {
            region: region.clone(),
            at: inner.view.position(region)?.clone(),
            view: inner.view.clone(),
            // News are sent under the lock: none is missing, and none comes twice.
            news: self.news.subscribe(),
            later: VecDeque::new(),
            tags: 0,
        })
    }

    /// Mends what is shown of a region, and tells everybody: one indivisible step. About what
    /// steps said more since the frozen view, they are right. Says what was mended.
    pub(crate) fn mend(
        &self,
        frozen: &mut Frozen,
        mut difference: Difference,
    ) -> Result<Difference, Lost> {
        let region = frozen.region.clone();
        let mut inner = self.write();
        loop {
            match frozen.news.try_recv() {
                Ok(news) => frozen.keep(Ok(news))?,
                Err(TryRecvError::Empty) => break,
                Err(_) => return Err(Lost::TooMuch),
            }
        }
        difference.without(&frozen.touched());
        let Some(position) = inner.view.position(&region).cloned() else {
            return Err(Lost::Replaced);
        };
        if difference.is_empty() {
            return Ok(difference);
        }
        let (appeared, vanished) = difference.tags();
        inner.view.mend(&region, &appeared, &vanished);
        let news = match appeared.len() + vanished.len() <= MEND_TAGS_MAX {
            true => News::Mended {
                region,
                appeared,
                vanished,
                position,
            },
            false => News::Replaced(region),
        };
        let _ = self.news.send(Arc::new(news));
        Ok(difference)
    }

    /// Has gateways remember what a region has now; the same, to be counted.
    pub(crate) fn mark(&self, region: &RegionId) -> Option<(MeshView, FeedPosition)> {
        // Not a read lock: no step may come between the view and the news.
        let inner = self.write();
        let position = inner.view.position(region)?.clone();
        let news = News::Mark(region.clone(), position.clone());
        let _ = self.news.send(Arc::new(news));
        Some((inner.view.clone(), position))
    }

    /// Tells gateways what they should have remembered.
    pub(crate) fn tell_digest(&self, region: &RegionId, at: FeedPosition, total: RangeDigest) {
        let news = News::Digest(region.clone(), at, total);
        let _ = self.news.send(Arc::new(news));
    }
}

#[cfg(test)]
#[path = "frozen_test.rs"]
mod frozen_test;
