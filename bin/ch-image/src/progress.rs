//! How far it is, for people who wait.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Characters of the bar.
const WIDTH: u64 = 40;
/// Not told more often than this.
const INTERVAL: Duration = Duration::from_millis(100);

/// A bar on standard error, if that is a terminal.
pub(crate) struct Progress {
    what: &'static str,
    told: Option<Instant>,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(what: &'static str, json: bool) -> Self {
        Self {
            what,
            told: None,
            shown: !json && std::io::stderr().is_terminal(),
        }
    }

    /// So many bytes of all are done.
    pub(crate) fn tell(&mut self, done: u64, all: u64) {
        let due = self.told.is_none_or(|told| told.elapsed() >= INTERVAL);
        if !self.shown || !(due || done >= all) {
            return;
        }
        self.told = Some(Instant::now());
        // The work goes on if nobody sees it.
        let _ = write!(std::io::stderr().lock(), "\r{}", bar(self.what, done, all));
    }

    /// It is done, or failed: what is printed next has a line of its own.
    pub(crate) fn end(&mut self) {
        if self.told.take().is_some() {
            let _ = writeln!(std::io::stderr().lock());
        }
    }
}

fn bar(what: &str, done: u64, all: u64) -> String {
    let share = |of: u64| {
        let share = u128::from(done.min(all)) * u128::from(of) / u128::from(all.max(1));
        // At most `of`, which is small.
        usize::try_from(share).unwrap_or(usize::MAX)
    };
    let full = share(WIDTH);
    let empty = usize::try_from(WIDTH).unwrap_or(0).saturating_sub(full);
    format!(
        "{what} [{}{}] {:3} %",
        "#".repeat(full),
        " ".repeat(empty),
        share(100)
    )
}

#[test]
fn bars_are_as_long_as_what_is_done() {
    assert_eq!(
        bar("copying", 1, 4),
        format!("copying [{}{}]  25 %", "#".repeat(10), " ".repeat(30))
    );
    assert_eq!(
        bar("copying", 4, 4),
        format!("copying [{}] 100 %", "#".repeat(40))
    );
    assert!(bar("x", u64::MAX, u64::MAX).ends_with("100 %"));
    assert!(bar("x", 0, 0).ends_with("  0 %"));
}
