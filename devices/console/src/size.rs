//! The size of the terminal.

use rustix::termios::tcgetwinsize;
use stream::Endpoint;

/// The size of a console's terminal, as far as it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// It is the monitor's own terminal, whose size can be asked for.
    terminal: bool,
    columns: u16,
    rows: u16,
}

impl Size {
    /// The size now. What is no terminal has size 0, which means unknown.
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let mut size = Self {
            terminal: *endpoint == Endpoint::Tty,
            columns: 0,
            rows: 0,
        };
        size.refresh();
        size
    }

    /// Looks again; whether it has changed.
    pub(crate) fn refresh(&mut self) -> bool {
        if !self.terminal {
            return false;
        }
        let size = tcgetwinsize(rustix::stdio::stdout())
            .or_else(|_| tcgetwinsize(rustix::stdio::stdin()))
            .map_or((0, 0), |size| (size.ws_col, size.ws_row));
        let changed = size != (self.columns, self.rows);
        (self.columns, self.rows) = size;
        changed
    }

    /// As the guest reads it (VIRTIO 1.3, 5.3.4).
    pub(crate) fn fields(&self) -> [u8; 4] {
        let [c0, c1] = self.columns.to_le_bytes();
        let [r0, r1] = self.rows.to_le_bytes();
        [c0, c1, r0, r1]
    }

    #[cfg(test)]
    pub(crate) fn fixed(columns: u16, rows: u16) -> Self {
        Self {
            terminal: false,
            columns,
            rows,
        }
    }
}
