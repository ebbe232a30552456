use std::collections::HashMap;
use std::process::Command;

use super::*;

/// A logger into a file, and what the file has.
fn logger(template: &str, level: LevelFilter) -> (Logger, impl Fn() -> String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = Options {
        level,
        format: template.parse().unwrap(),
        file: Some(file.reopen().unwrap()),
    };
    (Logger::new(options).unwrap(), move || {
        std::fs::read_to_string(file.path()).unwrap()
    })
}

fn say(logger: &Logger, level: ::log::Level, message: &str) {
    use ::log::Log;
    logger.log(
        &::log::Record::builder()
            .level(level)
            .args(format_args!("{message}"))
            .build(),
    );
}

#[test]
fn finer_levels_are_left_out() {
    let (logger, text) = logger("{levelchar} {msg}", LevelFilter::Info);
    for level in ::log::Level::iter() {
        say(&logger, level, "x");
    }
    assert_eq!(text(), "E x\r\nW x\r\nI x\r\n");
}

#[test]
fn lines_of_two_threads_stay_whole() {
    let (logger, text) = logger("<{thread}> {msg}", LevelFilter::Info);
    let long = "y".repeat(5000);
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let talk = || (0..200).for_each(|_| say(&logger, ::log::Level::Info, &long));
            std::thread::Builder::new()
                .name(name.into())
                .spawn_scoped(scope, talk)
                .unwrap();
        }
    });
    let mut lines = HashMap::new();
    for line in text().split_terminator("\r\n") {
        *lines.entry(line.to_owned()).or_insert(0) += 1;
    }
    let expected = ["one", "two"].map(|name| (format!("<{name}> {long}"), 200));
    assert_eq!(lines, expected.into());
}

#[test]
fn a_log_that_cannot_be_written_is_no_failure() {
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let file = Some(File::from(std::os::fd::OwnedFd::from(write)));
    let logger = Logger::new(Options {
        file,
        ..Options::default()
    })
    .unwrap();
    say(&logger, ::log::Level::Error, "nobody hears this");
}

/// What a child process, which is this test again, says on standard error with `init` done.
fn child(part: &str, zone: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "log::tests::the_process_has_one_log",
            "--exact",
            "--nocapture",
        ])
        .env("TELEMETRY_TEST_PART", part)
        .env("TZ", zone)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_process_has_one_log() {
    let init = |format: &str, level| {
        init(Options {
            level,
            format: format.parse().unwrap(),
            file: None,
        })
    };
    match std::env::var("TELEMETRY_TEST_PART").as_deref() {
        Err(_) => {
            assert_eq!(child("levels", "UTC"), "W warned\r\nI 1 + 2 = 3\r\n");

            let text = child("burst", "UTC");
            let lines: Vec<&str> = text.split_terminator("\r\n").collect();
            assert_eq!(lines.len(), 11 + 20, "{text}");
            assert_eq!(lines[9], "limited 9");
            assert_eq!(lines[10], "limited 30 [20 more such lines were left out]");
            assert_eq!(lines[30], "unlimited 19");

            assert_eq!(child("zone", "Asia/Tokyo"), "+09:00 +00:00\r\n");
            assert_eq!(child("zone", "<-0330>3:30"), "-03:30 +00:00\r\n");
            assert_eq!(child("no zone", "Atlantis/Capital"), "");
        }
        Ok("levels") => {
            crate::error!("before init");
            init("{levelchar} {msg}", LevelFilter::Info).unwrap();
            crate::warn!("warned");
            crate::info!("{} + 2 = {sum}", 1, sum = 3);
            crate::debug!("too fine {}", unreachable_value());
            let again = init("{msg}", LevelFilter::Trace);
            assert!(matches!(again, Err(Error::AlreadySet(_))));
        }
        Ok("burst") => {
            init("{msg}", LevelFilter::Warn).unwrap();
            let speak = |number| crate::warn!("limited {number}");
            (0..30).for_each(speak);
            std::thread::sleep(crate::rate::PERIOD);
            speak(30);
            (0..20).for_each(|number| crate::warn_unlimited!("unlimited {number}"));
        }
        Ok("zone") => {
            init("{msg}{localoffset} {offset}", LevelFilter::Error).unwrap();
            crate::error!("");
        }
        Ok("no zone") => {
            // A zone is looked for only when it is needed, and missing it is an error.
            let error = init("{localglog}", LevelFilter::Error).unwrap_err();
            assert!(matches!(error, Error::TimeZone(_)));
            init("{glog}", LevelFilter::Error).unwrap();
        }
        Ok(other) => panic!("no part is named {other}"),
    }
}

/// Arguments of a line that is not logged are not even looked at.
fn unreachable_value() -> u32 {
    panic!("a line that is not logged has its arguments evaluated")
}
