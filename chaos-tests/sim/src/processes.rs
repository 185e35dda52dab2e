//! Which processes run, by their host, and which of them were told to stop.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub(crate) struct Processes(BTreeMap<String, CancellationToken>);

impl Processes {
    /// A process starts; what tells it to stop.
    pub(crate) fn starts(&mut self, host: &str) -> CancellationToken {
        let stop = CancellationToken::new();
        self.0.insert(host.to_owned(), stop.clone());
        stop
    }

    /// Tells a process to stop. False: there is none.
    pub(crate) fn stop(&self, host: &str) -> bool {
        let stop = self.0.get(host);
        stop.inspect(|stop| stop.cancel()).is_some()
    }

    /// A process has ended by itself; whether it was told to.
    pub(crate) fn ended(&mut self, host: &str) -> bool {
        let stop = self.0.remove(host);
        stop.is_some_and(|stop| stop.is_cancelled())
    }

    /// A host loses power. Whether a process was there that had been told to stop.
    pub(crate) fn lost(&mut self, host: &str) -> bool {
        self.ended(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_told_to_stop_may_end() {
        let mut processes = Processes::default();
        assert!(!processes.stop("a") && !processes.ended("a"));
        let stop = processes.starts("a");
        processes.starts("b");
        assert!(processes.stop("a") && stop.is_cancelled());
        assert!(processes.ended("a") && !processes.ended("b"));
        assert!(!processes.stop("a"), "it is not there any more");
        processes.starts("a");
        assert!(!processes.lost("a"), "that one was not told to");
    }
}
