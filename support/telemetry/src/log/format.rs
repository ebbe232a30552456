//! The template of a log line.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};
use rustix::thread;

use crate::{Error, elapsed};

/// The format of lines if none is asked for.
pub const DEFAULT_FORMAT: &str =
    "cloud-hypervisor: {boottime}s: <{thread}> {level}:{location} -- {msg}";

/// [`DEFAULT_FORMAT`] as it is parsed, so that starting with it costs nothing.
const DEFAULT_PIECES: &[Piece] = &[
    Piece::Text(Cow::Borrowed("cloud-hypervisor: ")),
    Piece::Token(Token::BootTime),
    Piece::Text(Cow::Borrowed("s: <")),
    Piece::Token(Token::Thread),
    Piece::Text(Cow::Borrowed("> ")),
    Piece::Token(Token::Level),
    Piece::Text(Cow::Borrowed(":")),
    Piece::Token(Token::Location),
    Piece::Text(Cow::Borrowed(" -- ")),
    Piece::Token(Token::Message),
];

/// How a log line looks: text with tokens in braces.
///
/// | Token | Becomes |
/// |---|---|
/// | `boottime` | seconds since the program started, 6 decimals, at least 10 wide |
/// | `wallclock` | date and time as in RFC 3339, 6 decimals |
/// | `glog` | date and time as in lines of the glog library: `mmdd hh:mm:ss.uuuuuu` |
/// | `year` `month` `day` `hour` `minute` `second` `micros` | one part of the date or time, with leading zeros |
/// | `offset` | the time zone's distance from UTC: `+hh:mm` |
/// | `pid` `tid` | number of the process, of the thread |
/// | `thread` | name of the thread |
/// | `level` `levelchar` | `ERROR` to `TRACE`, or its first letter |
/// | `location` | source file and line |
/// | `msg` | the message |
///
/// Date and time are in UTC; with `local` before the token's name (`localglog`) in the host's time
/// zone. `{{` and `}}` are the braces themselves. A line ends with CR LF, which reads well on a
/// terminal in raw mode too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pieces: Cow<'static, [Piece]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Cow<'static, str>),
    Token(Token),
    /// A token of date and time, and whether it is in local time.
    Time(TimeToken, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    BootTime,
    Pid,
    Tid,
    Thread,
    Level,
    LevelChar,
    Location,
    Message,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeToken {
    WallClock,
    Glog,
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Micros,
    Offset,
}

const TOKENS: &[(&str, Token)] = &[
    ("boottime", Token::BootTime),
    ("pid", Token::Pid),
    ("tid", Token::Tid),
    ("thread", Token::Thread),
    ("level", Token::Level),
    ("levelchar", Token::LevelChar),
    ("location", Token::Location),
    ("msg", Token::Message),
];

/// Tokens of date and time: in UTC, in local time.
const TIME_TOKENS: &[(&str, &str, TimeToken)] = &[
    ("wallclock", "localwallclock", TimeToken::WallClock),
    ("glog", "localglog", TimeToken::Glog),
    ("year", "localyear", TimeToken::Year),
    ("month", "localmonth", TimeToken::Month),
    ("day", "localday", TimeToken::Day),
    ("hour", "localhour", TimeToken::Hour),
    ("minute", "localminute", TimeToken::Minute),
    ("second", "localsecond", TimeToken::Second),
    ("micros", "localmicros", TimeToken::Micros),
    ("offset", "localoffset", TimeToken::Offset),
];

impl Default for Format {
    fn default() -> Self {
        Self {
            pieces: Cow::Borrowed(DEFAULT_PIECES),
        }
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(template: &str) -> Result<Self, Error> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            text.push_str(before);
            let lone = |brace| Error::LoneBrace {
                brace,
                at: template.len() - rest.len() + at,
            };
            if let Some(after) = brace.strip_prefix("{{") {
                text.push('{');
                rest = after;
            } else if let Some(after) = brace.strip_prefix("}}") {
                text.push('}');
                rest = after;
            } else if let Some(token) = brace.strip_prefix('{') {
                let (name, after) = token.split_once('}').ok_or_else(|| lone('{'))?;
                if !text.is_empty() {
                    pieces.push(Piece::Text(Cow::Owned(std::mem::take(&mut text))));
                }
                pieces.push(Piece::from_name(name)?);
                rest = after;
            } else {
                return Err(lone('}'));
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(Cow::Owned(text)));
        }
        Ok(Self {
            pieces: Cow::Owned(pieces),
        })
    }
}

impl Piece {
    fn from_name(name: &str) -> Result<Self, Error> {
        if let Some(&(_, token)) = TOKENS.iter().find(|(known, _)| *known == name) {
            return Ok(Self::Token(token));
        }
        let time = TIME_TOKENS
            .iter()
            .find(|(utc, local, _)| [*utc, *local].contains(&name));
        if let Some(&(_, local, token)) = time {
            return Ok(Self::Time(token, name == local));
        }
        let times = TIME_TOKENS
            .iter()
            .flat_map(|(utc, local, _)| [*utc, *local]);
        let all = TOKENS.iter().map(|(name, _)| *name).chain(times);
        Err(Error::UnknownToken {
            token: name.to_owned(),
            near: keyvalue::nearest(name, all),
        })
    }
}

/// One moment in the two calendars a line can use, each looked up only if it is used.
struct Calendar<'a> {
    now: Timestamp,
    zone: &'a TimeZone,
    local: Option<Zoned>,
}

impl Calendar<'_> {
    /// Date, time and distance from UTC.
    fn read(&mut self, local: bool) -> (DateTime, Offset) {
        if local {
            let (now, zone) = (self.now, self.zone);
            let zoned = self.local.get_or_insert_with(|| now.to_zoned(zone.clone()));
            (zoned.datetime(), zoned.offset())
        } else {
            (Offset::UTC.to_datetime(self.now), Offset::UTC)
        }
    }
}

impl Format {
    /// Whether any token is in local time.
    pub(super) fn is_local(&self) -> bool {
        self.pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Time(_, true)))
    }

    /// The whole line with its end.
    pub(super) fn line(&self, record: &::log::Record<'_>, zone: &TimeZone) -> String {
        let mut line = String::with_capacity(160);
        let mut calendar = Calendar {
            now: Timestamp::now(),
            zone,
            local: None,
        };
        for piece in self.pieces.iter() {
            // A message's own Display can fail; the rest of the line still says something.
            let _ = match piece {
                Piece::Text(text) => line.write_str(text),
                Piece::Token(token) => token.write(&mut line, record),
                Piece::Time(token, local) => {
                    let (time, offset) = calendar.read(*local);
                    token.write(&mut line, time, offset)
                }
            };
        }
        line.push_str("\r\n");
        line
    }
}

impl Token {
    fn write(self, line: &mut String, record: &::log::Record<'_>) -> fmt::Result {
        match self {
            Self::BootTime => write!(line, "{:>10.6}", elapsed().as_secs_f64()),
            Self::Pid => write!(line, "{}", std::process::id()),
            Self::Tid => write!(line, "{}", thread::gettid().as_raw_nonzero()),
            Self::Thread => write_thread_name(line),
            Self::Level => write!(line, "{}", record.level()),
            Self::LevelChar => line.write_str(&record.level().as_str()[..1]),
            Self::Location => match (record.file(), record.line()) {
                (Some(file), Some(number)) => write!(line, "{file}:{number}"),
                _ => line.write_str(record.target()),
            },
            Self::Message => write!(Printable(line), "{}", record.args()),
        }
    }
}

impl TimeToken {
    fn write(self, line: &mut String, time: DateTime, offset: Offset) -> fmt::Result {
        let (year, month, day) = (time.year(), time.month(), time.day());
        let (hour, minute, second) = (time.hour(), time.minute(), time.second());
        let micros = time.subsec_nanosecond() / 1000;
        match self {
            Self::WallClock => {
                write!(
                    line,
                    "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}."
                )?;
                write!(line, "{micros:06}")?;
                match offset {
                    Offset::UTC => line.write_str("Z"),
                    _ => write_offset(line, offset),
                }
            }
            Self::Glog => {
                write!(
                    line,
                    "{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}"
                )
            }
            Self::Year => write!(line, "{year:04}"),
            Self::Month => write!(line, "{month:02}"),
            Self::Day => write!(line, "{day:02}"),
            Self::Hour => write!(line, "{hour:02}"),
            Self::Minute => write!(line, "{minute:02}"),
            Self::Second => write!(line, "{second:02}"),
            Self::Micros => write!(line, "{micros:06}"),
            Self::Offset => write_offset(line, offset),
        }
    }
}

/// Writes `+hh:mm`.
fn write_offset(line: &mut String, offset: Offset) -> fmt::Result {
    let sign = if offset.seconds() < 0 { '-' } else { '+' };
    let minutes = offset.seconds().unsigned_abs() / 60;
    write!(line, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

/// Writes the name the program gave the thread, or else the kernel's.
fn write_thread_name(line: &mut String) -> fmt::Result {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) => line.write_str(name),
        None => match thread::name() {
            Ok(name) => line.write_str(&name.to_string_lossy()),
            Err(_) => line.write_str("?"),
        },
    }
}

/// Keeps a message on its line: what a guest or a peer has a say in must not be able to forge
/// lines or to steer the terminal.
struct Printable<'a>(&'a mut String);

impl Write for Printable<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() && character != '\t' {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
