//! Log lines: what they look like and where they go.
//!
//! ```
//! use telemetry::log::{Format, LevelFilter, Options};
//!
//! let format: Format = "{levelchar}{glog} {tid} {location}] {msg}".parse()?;
//! telemetry::log::init(Options { level: LevelFilter::Info, format, file: None })?;
//! telemetry::info!("ready");
//! # Ok::<(), telemetry::Error>(())
//! ```

mod format;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use jiff::tz::TimeZone;

pub use self::format::{DEFAULT_FORMAT, Format};
pub use ::log::LevelFilter;

use crate::Error;

/// What is logged, how, and where to.
#[derive(Debug)]
pub struct Options {
    /// The finest level that is logged; the default is `Warn`, `-v` means `Info`, and so on.
    pub level: LevelFilter,
    /// The line's look (`--log-format`).
    pub format: Format,
    /// The file that gets the lines (`--log-file`); standard error if none.
    pub file: Option<File>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            level: LevelFilter::Warn,
            format: Format::default(),
            file: None,
        }
    }
}

/// Begins to log, for the rest of the process's life.
///
/// # Errors
///
/// [`Error::TimeZone`] if the format uses local time and the zone is not known,
/// [`Error::AlreadySet`] on a second call.
pub fn init(options: Options) -> Result<(), Error> {
    static LOGGER: OnceLock<Logger> = OnceLock::new();
    let level = options.level;
    let logger = Logger::new(options)?;
    let already = || Error::AlreadySet("log lines");
    LOGGER.set(logger).map_err(|_| already())?;
    let logger = LOGGER.get().ok_or_else(already)?;
    ::log::set_logger(logger).map_err(|_| already())?;
    ::log::set_max_level(level);
    Ok(())
}

/// Formats lines and writes each with one call.
#[derive(Debug)]
struct Logger {
    level: LevelFilter,
    format: Format,
    zone: TimeZone,
    file: Option<File>,
    /// Keeps the lines of two threads apart when one takes several calls to write.
    turn: Mutex<()>,
}

impl Logger {
    fn new(options: Options) -> Result<Self, Error> {
        let Options {
            level,
            format,
            file,
        } = options;
        // Finding the zone reads files: at once, as filters may forbid it later; and only if
        // needed, as it takes longer than everything else here.
        let zone = if format.is_local() {
            TimeZone::try_system().map_err(Error::TimeZone)?
        } else {
            TimeZone::UTC
        };
        Ok(Self {
            level,
            format,
            zone,
            file,
            turn: Mutex::new(()),
        })
    }
}

impl ::log::Log for Logger {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &::log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = self.format.line(record, &self.zone);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written cannot be complained about either.
        let _ = match &self.file {
            Some(file) => write_line(file, &line),
            // Past the standard library's own lock and buffer, which has none of our lines.
            None => write_line(rustix::stdio::stderr(), &line),
        };
    }

    fn flush(&self) {}
}

/// Writes all of a line; `WouldBlock` of a non-blocking sink that is full drops the rest of it.
fn write_line(sink: impl AsFd, line: &str) -> io::Result<()> {
    /// [`Write`] for any descriptor.
    struct Sink<F>(F);
    impl<F: AsFd> Write for Sink<F> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(rustix::io::write(&self.0, bytes)?)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    Sink(sink).write_all(line.as_bytes())
}

#[cfg(test)]
mod tests;
