//! What can go wrong while telling.

use std::io;

/// Logging or the event stream could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A token of the format does not exist.
    #[error("there is no token {{{token}}}{}", near.map(|n| format!(": did you mean {{{n}}}?")).unwrap_or_default())]
    UnknownToken {
        /// The text between the braces.
        token: String,
        /// The token that was probably meant.
        near: Option<&'static str>,
    },

    /// A brace that neither begins nor ends a token.
    #[error("a lone {brace:?} at byte {at}; for the character itself, double it")]
    LoneBrace {
        /// `{` or `}`.
        brace: char,
        /// Where it is, in bytes from the start.
        at: usize,
    },

    /// The format has a token in local time, but the host's time zone cannot be found out.
    #[error("the format uses local time, but the time zone (TZ, /etc/localtime) is not known")]
    TimeZone(#[source] jiff::Error),

    /// Something else in the process already set up logging or events.
    #[error("{0} are set up already")]
    AlreadySet(&'static str),

    /// The event sink cannot be written without waiting.
    #[error("cannot use the --event-monitor sink")]
    Sink(#[source] io::Error),

    /// The event thread cannot be started.
    #[error("cannot start the event-monitor thread")]
    Thread(#[source] io::Error),
}
