//! Whether another region may be asked: online → suspect → offline → catching-up → online.
//!
//! A region is given up by failures *and* time, and comes back only after it answered without
//! a failure for a while and what it did meanwhile is known here. A caller that asks nobody
//! still ticks: silence counts as well. Pure; times are counted from any fixed moment.

use std::time::Duration;

/// What is thought of another region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerState {
    /// It answers.
    Online,
    /// It failed to answer, or is silent for half of what makes it offline; it is asked after others.
    Suspect,
    /// It is not asked.
    Offline,
    /// It answers (again), and is not asked yet.
    CatchingUp,
}

impl PeerState {
    /// Every one, in the order of their numbers in metrics.
    pub const ALL: [PeerState; 4] = [
        PeerState::Online,
        PeerState::Suspect,
        PeerState::Offline,
        PeerState::CatchingUp,
    ];

    /// Whether gets go there.
    #[must_use]
    pub fn is_asked(self) -> bool {
        matches!(self, Self::Online | Self::Suspect)
    }

    /// As operators read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
            Self::CatchingUp => "catching-up",
        }
    }
}

/// How much is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Silence, and
    pub offline_after: Duration,
    /// failures, one after the other, that make a region offline together.
    pub failures: u32,
    /// A region that was lost answers for so long without a failure before it is asked again.
    pub return_after: Duration,
}

/// Decides. See the module.
#[derive(Debug, Clone)]
pub struct PeerHealth {
    patience: Patience,
    state: PeerState,
    begun: Duration,
    answered: Option<Duration>,
    failures: u32,
    /// It was online once: its return is held back.
    known: bool,
    /// Since when it answers without a failure, after it was lost.
    returning: Duration,
}

impl PeerHealth {
    /// Of a region that nothing is known of: not asked, and asked as soon as it answers and its
    /// view is there.
    #[must_use]
    pub fn new(patience: Patience, now: Duration) -> Self {
        Self {
            patience,
            state: PeerState::CatchingUp,
            begun: now,
            answered: None,
            failures: 0,
            known: false,
            returning: now,
        }
    }

    /// What is thought of it.
    #[must_use]
    pub fn state(&self) -> PeerState {
        self.state
    }

    /// Failures since it answered last.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// From now on.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// It answered.
    pub fn answered(&mut self, now: Duration) {
        (self.answered, self.failures) = (Some(now), 0);
        match self.state {
            PeerState::Suspect => self.state = PeerState::Online,
            PeerState::Offline => {
                self.state = PeerState::CatchingUp;
                self.returning = now;
            }
            PeerState::Online | PeerState::CatchingUp => {}
        }
    }

    /// It did not answer. One that is coming back and fails is offline again at once: a region
    /// that flaps is not asked.
    pub fn failed(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            PeerState::Online => self.state = PeerState::Suspect,
            PeerState::CatchingUp if self.known => self.state = PeerState::Offline,
            PeerState::Suspect | PeerState::CatchingUp | PeerState::Offline => {}
        }
        self.give_up(now);
    }

    /// Time went on. `caught_up`: what the region did meanwhile is known here.
    pub fn tick(&mut self, now: Duration, caught_up: bool) {
        self.give_up(now);
        let silence = self.silence(now);
        match self.state {
            PeerState::Online if silence >= self.patience.offline_after / 2 => {
                self.state = PeerState::Suspect;
            }
            PeerState::CatchingUp => {
                let held =
                    self.known && now.saturating_sub(self.returning) < self.patience.return_after;
                let answers = self.failures == 0
                    && self.answered.is_some()
                    && silence < self.patience.offline_after;
                if answers && caught_up && !held {
                    (self.state, self.known) = (PeerState::Online, true);
                } else if self.known && silence >= self.patience.offline_after {
                    self.state = PeerState::Offline;
                }
            }
            PeerState::Online | PeerState::Suspect | PeerState::Offline => {}
        }
    }

    fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.answered.unwrap_or(self.begun))
    }

    /// By failures and time.
    fn give_up(&mut self, now: Duration) {
        let silent = self.silence(now) >= self.patience.offline_after;
        if silent && self.failures >= self.patience.failures {
            self.state = PeerState::Offline;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        offline_after: Duration::from_secs(5),
        failures: 3,
        return_after: Duration::from_secs(30),
    };

    /// Runs a script of `second:events>state`, where an event is `+` (answered), `-` (failed),
    /// `.` (tick, caught up) or `,` (tick, its view is behind), and a state is `on`, `sus`,
    /// `off` or `back`.
    #[track_caller]
    fn check(script: &str) {
        let mut health = PeerHealth::new(PATIENCE, Duration::ZERO);
        for step in script.split_whitespace() {
            let (second, rest) = step.split_once(':').unwrap();
            let (events, want) = rest.split_once('>').unwrap();
            let now = Duration::from_secs_f64(second.parse().unwrap());
            for event in events.chars() {
                match event {
                    '+' => health.answered(now),
                    '-' => health.failed(now),
                    '.' => health.tick(now, true),
                    ',' => health.tick(now, false),
                    _ => panic!("no such event: {event}"),
                }
            }
            let got = match health.state() {
                PeerState::Online => "on",
                PeerState::Suspect => "sus",
                PeerState::Offline => "off",
                PeerState::CatchingUp => "back",
            };
            assert_eq!(got, want, "{step} of {script}");
        }
    }

    #[test]
    fn states_follow_failures_and_time_and_a_return_is_held_back() {
        // A region that was never seen is asked once it answers and its view is there.
        check("0:.>back 1:+,>back 1.5:.>on");
        check("0:->back 1:->back 2:->back 4.9:.>back 5:.>off 60:+>back 60:,>back 60.1:.>on");
        check("0:->back 0.1:.>back 0.2:+.>on");
        // An answer in time forgives.
        check("0:+.>on 1:->sus 2:->sus 3:->sus 4.9:->sus 4.95:+>on 9:->sus 9.8:->sus");
        // Two failures are not enough, however long; nor are three without the time.
        check("0:+.>on 1:->sus 60:->sus 61:.>sus 61:->off");
        check("0:+.>on 1:->sus 1:->sus 1:->sus 4.9:.>sus 5:.>off");
        // The clock alone makes a suspect, and three failures before do the rest.
        check("0:+.>on 2.4:.>on 2.5:.>sus 600:.>sus 600:+>on");
        // The return: an answer, the view, and thirty seconds.
        check("0:+.>on 5:--->off 9:+>back 38.9:+.>back 39:,>back 39.1:.>on");
        // One failure on the way back begins it anew.
        check("0:+.>on 5:--->off 9:+>back 30:+.>back 31:->off 32:+>back 61:+.>back 62:.>on");
        // So does silence on the way back.
        check("0:+.>on 5:--->off 9:+>back 13.9:.>back 14:.>off");
    }
}
