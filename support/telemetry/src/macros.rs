//! The macros that log.

/// Logs at a level, at most as often as this place in the code may.
#[doc(hidden)]
#[macro_export]
macro_rules! limited {
    ($level:ident, $($message:tt)+) => {{
        static LIMITER: $crate::rate::Limiter =
            $crate::rate::Limiter::new($crate::rate::BURST, $crate::rate::PERIOD);
        if $crate::private::Level::$level <= $crate::private::max_level()
            && let ::std::option::Option::Some(admitted) = LIMITER.admit()
        {
            if admitted.left_out == 0 {
                $crate::unlimited!($level, $($message)+);
            } else {
                $crate::unlimited!(
                    $level,
                    "{} [{} more such lines were left out]",
                    ::std::format_args!($($message)+),
                    admitted.left_out
                );
            }
        }
    }};
}

/// Logs at a level.
#[doc(hidden)]
#[macro_export]
macro_rules! unlimited {
    ($level:ident, $($message:tt)+) => {
        $crate::private::log!($crate::private::Level::$level, $($message)+)
    };
}

/// Logs that something the user asked for failed, at most as often as this place may.
///
/// ```
/// telemetry::error!("cannot read {} bytes at {:#x}", 512, 0x1000);
/// ```
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::limited!(Error, $($message)+) };
}

/// Logs something that the user should look at, at most as often as this place may.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::limited!(Warn, $($message)+) };
}

/// Logs a step of the machine's life (`-v`), at most as often as this place may.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::limited!(Info, $($message)+) };
}

/// Logs a detail for developers (`-vv`), at most as often as this place may.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::limited!(Debug, $($message)+) };
}

/// Logs the finest detail (`-vvv`), at most as often as this place may.
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::limited!(Trace, $($message)+) };
}

/// As [`error!`], without a limit: never for what a guest, a file or a peer can cause.
#[macro_export]
macro_rules! error_unlimited {
    ($($message:tt)+) => { $crate::unlimited!(Error, $($message)+) };
}

/// As [`warn!`], without a limit: never for what a guest, a file or a peer can cause.
#[macro_export]
macro_rules! warn_unlimited {
    ($($message:tt)+) => { $crate::unlimited!(Warn, $($message)+) };
}

/// As [`info!`], without a limit: never for what a guest, a file or a peer can cause.
#[macro_export]
macro_rules! info_unlimited {
    ($($message:tt)+) => { $crate::unlimited!(Info, $($message)+) };
}

/// As [`debug!`], without a limit: never for what a guest, a file or a peer can cause.
#[macro_export]
macro_rules! debug_unlimited {
    ($($message:tt)+) => { $crate::unlimited!(Debug, $($message)+) };
}

/// As [`trace!`], without a limit: never for what a guest, a file or a peer can cause.
#[macro_export]
macro_rules! trace_unlimited {
    ($($message:tt)+) => { $crate::unlimited!(Trace, $($message)+) };
}

/// Tells the event stream that something happened, and the log at info level.
///
/// Source and name are those of the published list; properties are any values that can be shown.
/// Nothing is built, not even the properties, while nobody listens.
///
/// ```
/// telemetry::event!("vm", "booting");
/// telemetry::event!("virtio-device", "activated", id = "_disk0");
/// ```
#[macro_export]
macro_rules! event {
    ($source:expr, $name:expr $(, $key:ident = $value:expr)* $(,)?) => {
        if $crate::event::is_wanted() {
            let event = $crate::event::Event::new(
                $source,
                $name,
                &[$((::std::stringify!($key), &$value as &dyn ::std::fmt::Display)),*],
            );
            $crate::info!("event: {event}");
            $crate::event::send(event);
        }
    };
}
