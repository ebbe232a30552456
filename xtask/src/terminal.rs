//! The terminal that xtask was started from.

use std::io::{self, IsTerminal as _};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Rows and columns of the terminal, 24 and 80 where there is none.
pub(crate) fn size() -> (u16, u16) {
    tcgetwinsize(io::stdout()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Puts the terminal back as it was when this goes out of scope, whatever a program we started
/// did to it and however that ended.
pub(crate) struct SavedTerminal(Option<(Termios, OFlags)>);

impl SavedTerminal {
    /// Remembers the terminal's mode; nothing to do when standard input is something else.
    pub(crate) fn save() -> Self {
        if !io::stdin().is_terminal() {
            return Self(None);
        }
        Self(
            tcgetattr(io::stdin())
                .ok()
                .zip(fcntl_getfl(io::stdin()).ok()),
        )
    }

    /// Lets every key and every printed byte through as it is, until this goes out of scope.
    pub(crate) fn make_raw(&self) {
        if let Some((mode, _)) = &self.0 {
            let mut raw = mode.clone();
            raw.make_raw();
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
        }
    }
}

impl Drop for SavedTerminal {
    fn drop(&mut self) {
        if let Some((mode, flags)) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, mode);
            let _ = fcntl_setfl(io::stdin(), *flags);
        }
    }
}
