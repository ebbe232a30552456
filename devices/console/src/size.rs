//! The size of the terminal, and hearing that it changes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reactor::{Interest, Sources, Timer, Token};
use stream::{ResizeListener, Screen};
use virtio::ConfigChange;

/// How often to look at the size of a terminal whose changes nobody announces, while it has a user.
const LOOK_EVERY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });

/// Tokens that the reader does not use.
const ANNOUNCED: Token = Token(1 << 33);
const TIME_TO_LOOK: Token = Token(1 << 34);

/// Columns and rows, 0 for unknown: what the guest reads, and what is written when they change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Size(Arc<AtomicU32>);

impl Size {
    /// Whether these are others than before.
    fn set(&self, (columns, rows): (u16, u16)) -> bool {
        let size = u32::from(columns) | u32::from(rows) << 16;
        self.0.swap(size, Ordering::AcqRel) != size
    }

    /// As the guest reads it (VIRTIO 1.3, 5.3.4).
    pub(crate) fn fields(&self) -> [u8; 4] {
        self.0.load(Ordering::Acquire).to_le_bytes()
    }
}

/// Looks at the size when there is reason to, on the thread that reads what is typed.
pub(crate) struct Watch {
    measure: Box<dyn Fn() -> (u16, u16) + Send>,
    size: Size,
    /// Tells when to look. Without one it is looked at every now and then.
    listener: Option<ResizeListener>,
    timer: Option<Timer>,
    /// The timer is set.
    looking: bool,
    /// There while the queue runs.
    pub(crate) change: Option<ConfigChange>,
}

impl Watch {
    /// Watches a screen, whose size is in `size` from now on.
    pub(crate) fn of(screen: Screen, size: Size) -> Result<Self, stream::Error> {
        let listener = match screen {
            Screen::Terminal => Some(ResizeListener::new()?),
            Screen::Pty(_) => None,
        };
        Ok(Self::new(listener, size, move || screen.size()))
    }

    pub(crate) fn new(
        listener: Option<ResizeListener>,
        size: Size,
        measure: impl Fn() -> (u16, u16) + Send + 'static,
    ) -> Self {
        size.set(measure());
        Self {
            measure: Box::new(measure),
            size,
            listener,
            timer: None,
            looking: false,
            change: None,
        }
    }

    /// Begins to watch. It may have changed since the last time.
    pub(crate) fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        self.looking = false;
        match &self.listener {
            Some(listener) => sources.add(listener, ANNOUNCED, Interest::READ)?,
            None => self.timer = Some(sources.add_timer(TIME_TO_LOOK)?),
        }
        self.look();
        Ok(())
    }

    /// Whether the token was for this.
    pub(crate) fn ready(&mut self, token: Token) -> bool {
        match (token, &self.listener, &self.timer) {
            (ANNOUNCED, Some(listener), _) => listener.take(),
            (TIME_TO_LOOK, _, Some(timer)) => drop(timer.take()),
            _ => return false,
        }
        self.look();
        true
    }

    /// The terminal has a user, or has none: only a user changes its size.
    pub(crate) fn has_user(&mut self, user: bool) -> io::Result<()> {
        let Some(timer) = self.timer.as_ref().filter(|_| user != self.looking) else {
            return Ok(());
        };
        if user {
            timer.set_periodic(LOOK_EVERY)?;
        } else {
            timer.cancel()?;
        }
        self.looking = user;
        self.look();
        Ok(())
    }

    fn look(&self) {
        if self.size.set((self.measure)())
            && let Some(change) = &self.change
        {
            change.announce();
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("size", &self.size.fields())
            .field("looking", &self.looking)
            .finish_non_exhaustive()
    }
}
