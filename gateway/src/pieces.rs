//! A block's pieces as they arrive, for any number of readers that each go at their own pace
//! and may begin again: an owner that fails is replaced by the next one.

use bytes::Bytes;
use tokio::sync::watch;

/// Writer's end. Pieces stay until the last reader and the writer are gone.
#[derive(Debug, Clone)]
pub(crate) struct Arriving {
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    pieces: Vec<Bytes>,
    end: Option<End>,
}

/// How a block's arrival ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Every piece is there.
    Whole,
    /// The rest does not come.
    Lost,
}

/// What a reader finds at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Piece(Bytes),
    End(End),
}

impl Default for Arriving {
    fn default() -> Self {
        Self {
            progress: watch::Sender::new(Progress::default()),
        }
    }
}

impl Arriving {
    /// Of a block that is there already.
    pub(crate) fn whole(pieces: Vec<Bytes>) -> Self {
        let end = Some(End::Whole);
        Self {
            progress: watch::Sender::new(Progress { pieces, end }),
        }
    }

    /// Adds the next piece. After the end it is dropped.
    pub(crate) fn push(&self, piece: Bytes) {
        self.progress.send_modify(|progress| {
            if progress.end.is_none() {
                progress.pieces.push(piece);
            }
        });
    }

    /// Ends the arrival; the first end stands.
    pub(crate) fn end(&self, end: End) {
        self.progress.send_modify(|progress| {
            progress.end.get_or_insert(end);
        });
    }

    /// Drops what has arrived; nobody reads it any more.
    pub(crate) fn forget(&self) {
        self.progress.send_modify(|progress| {
            progress.pieces.clear();
            progress.end = Some(End::Lost);
        });
    }

    /// The end, if it has come.
    pub(crate) fn ended(&self) -> Option<End> {
        self.progress.borrow().end
    }

    /// A reader at the first piece.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            progress: self.progress.subscribe(),
        }
    }
}

/// Reader's end.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    progress: watch::Receiver<Progress>,
}

impl Reader {
    /// What is at place `index` by now.
    pub(crate) fn at(&self, index: usize) -> Option<Next> {
        let progress = self.progress.borrow();
        match progress.pieces.get(index) {
            Some(piece) => Some(Next::Piece(piece.clone())),
            None => progress.end.map(Next::End),
        }
    }

    /// Waits for the end. May be dropped at any time.
    pub(crate) async fn ended(&mut self) {
        // Without a writer nothing more comes, either.
        let _ = self.progress.wait_for(|it| it.end.is_some()).await;
    }

    /// Waits for what is at place `index`. May be dropped at any time.
    pub(crate) async fn wait(&mut self, index: usize) -> Next {
        let there = |progress: &Progress| progress.pieces.len() > index || progress.end.is_some();
        match self.progress.wait_for(there).await {
            Ok(progress) => match progress.pieces.get(index) {
                Some(piece) => Next::Piece(piece.clone()),
                None => Next::End(progress.end.unwrap_or(End::Lost)),
            },
            Err(_) => Next::End(End::Lost),
        }
    }
}
