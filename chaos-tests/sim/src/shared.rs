//! What the clients, the auditor and the driver of a run share, on its one thread.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    content::{Content, Name},
    history::{History, Kind},
    nodes::Nodes,
    processes::Processes,
    shape::Shape,
    trace::{self, Mark},
};

/// Between two looks at the phase.
const PHASE_POLL: Duration = Duration::from_millis(50);

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Regions are initialised, namespaces opened.
    Boot,
    /// Clients work, faults happen.
    Load,
    /// Everything has healed; clients rest, the auditor looks.
    Settle,
    /// The auditor is done.
    Done,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) shape: Shape,
    pub(crate) namespaces: u8,
    pub(crate) history: RefCell<History>,
    pub(crate) nodes: RefCell<Nodes>,
    pub(crate) processes: RefCell<Processes>,
    /// Changes of nodes that are still to be made.
    pub(crate) changes_left: Cell<usize>,
    phase: Cell<Phase>,
    /// Clients that have opened their namespaces.
    pub(crate) ready: Cell<usize>,
    /// Clients that have ended.
    pub(crate) resting: Cell<usize>,
    /// What was put under each name, newest last, with sizes.
    contents: RefCell<BTreeMap<Name, Vec<(Content, usize)>>>,
    next_content: Cell<u32>,
    /// Why the audit failed; none: it is not over, or went well.
    pub(crate) audit: RefCell<Vec<String>>,
}

impl Shared {
    pub(crate) fn new(shape: Shape, namespaces: u8) -> Rc<Self> {
        Rc::new(Self {
            shape,
            namespaces,
            history: RefCell::default(),
            nodes: RefCell::new(Nodes::new(shape)),
            processes: RefCell::default(),
            changes_left: Cell::default(),
            phase: Cell::new(Phase::Boot),
            ready: Cell::default(),
            resting: Cell::default(),
            contents: RefCell::default(),
            next_content: Cell::new(1),
            audit: RefCell::default(),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    pub(crate) async fn wait_for(&self, phase: Phase) {
        while self.phase.get() < phase {
            sleep(PHASE_POLL).await;
        }
    }

    /// A content that was never put.
    pub(crate) fn new_content(&self, name: Name, len: usize) -> Content {
        let content = Content(self.next_content.replace(self.next_content.get() + 1));
        let mut contents = self.contents.borrow_mut();
        contents.entry(name).or_default().push((content, len));
        content
    }

    /// What was last put under a name.
    pub(crate) fn last_content(&self, name: Name) -> Option<(Content, usize)> {
        let contents = self.contents.borrow();
        contents.get(&name)?.last().copied()
    }

    pub(crate) fn begin(&self, client: &str, region: usize, begun: Mark, kind: Kind) -> usize {
        self.history.borrow_mut().begin(client, region, begun, kind)
    }

    pub(crate) fn end(&self, op: usize, kind: Kind) {
        let ended = trace::mark();
        self.history.borrow_mut().end(op, ended, kind);
    }
}
