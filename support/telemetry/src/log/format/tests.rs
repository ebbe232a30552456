use ::log::{Level, Record};
use jiff::tz;
use proptest::prelude::*;

use super::*;

/// The line a template makes of a fixed message, without its end.
fn line(template: &str) -> String {
    line_in(template, &TimeZone::UTC)
}

fn line_in(template: &str, zone: &TimeZone) -> String {
    let format: Format = template.parse().unwrap();
    let record = Record::builder()
        .level(Level::Warn)
        .file(Some("src/disk.rs"))
        .line(Some(42))
        .target("disk")
        .args(format_args!("slow"))
        .build();
    let line = format.line(&record, zone);
    line.strip_suffix("\r\n")
        .expect("a line ends with CR LF")
        .to_owned()
}

/// Whether a text is like a pattern, in which `9` stands for any digit.
fn is_like(text: &str, pattern: &str) -> bool {
    text.len() == pattern.len()
        && text.chars().zip(pattern.chars()).all(|(c, p)| match p {
            '9' => c.is_ascii_digit(),
            other => c == other,
        })
}

/// A fixed moment's text for a time token, in a zone.
fn time(token: TimeToken, moment: &str, zone: &TimeZone) -> String {
    let zoned = moment.parse::<Timestamp>().unwrap().to_zoned(zone.clone());
    let mut text = String::new();
    token
        .write(&mut text, zoned.datetime(), zoned.offset())
        .unwrap();
    text
}

#[test]
fn the_default_is_the_published_one() {
    let published: Format = DEFAULT_FORMAT.parse().unwrap();
    assert_eq!(Format::default(), published);
    assert!(!published.is_local());
    let name = std::thread::current().name().unwrap().to_owned();
    let text = line(DEFAULT_FORMAT);
    let rest = text.strip_prefix("cloud-hypervisor: ").unwrap();
    let (time, rest) = rest.split_once("s: ").unwrap();
    assert_eq!(rest, format!("<{name}> WARN:src/disk.rs:42 -- slow"));
    assert!(is_like(time.trim_start(), "9.999999"), "{time:?}");
    assert_eq!(time.len(), 10);
}

#[test]
fn tokens_of_the_program() {
    assert_eq!(
        line("{level} {levelchar} {location} {msg}"),
        "WARN W src/disk.rs:42 slow"
    );
    assert_eq!(line("{pid}"), std::process::id().to_string());
    assert_eq!(line("{tid}"), thread::gettid().as_raw_nonzero().to_string());
    let named = std::thread::Builder::new()
        .name("vcpu3".into())
        .spawn(|| line("{thread}"));
    assert_eq!(named.unwrap().join().unwrap(), "vcpu3");
    let unnamed = std::thread::spawn(|| line("{thread}")).join().unwrap();
    assert!(!unnamed.is_empty());
}

#[test]
fn tokens_of_time_have_fixed_widths() {
    for (token, pattern) in [
        ("wallclock", "9999-99-99T99:99:99.999999Z"),
        ("glog", "9999 99:99:99.999999"),
        ("year", "9999"),
        ("month", "99"),
        ("day", "99"),
        ("hour", "99"),
        ("minute", "99"),
        ("second", "99"),
        ("micros", "999999"),
        ("offset", "+00:00"),
    ] {
        let text = line(&format!("{{{token}}}"));
        assert!(is_like(&text, pattern), "{token}: {text}");
    }
}

#[test]
fn tokens_of_time_in_both_calendars() {
    // New Year's Eve in one place, New Year's Day in the other.
    let moment = "2023-12-31T22:05:06.000789999Z";
    let india = TimeZone::fixed(tz::Offset::from_seconds(5 * 3600 + 1800).unwrap());
    let azores = TimeZone::fixed(tz::offset(-1));
    for (token, utc, local) in [
        (
            TimeToken::WallClock,
            "2023-12-31T22:05:06.000789Z",
            "2024-01-01T03:35:06.000789+05:30",
        ),
        (
            TimeToken::Glog,
            "1231 22:05:06.000789",
            "0101 03:35:06.000789",
        ),
        (TimeToken::Year, "2023", "2024"),
        (TimeToken::Month, "12", "01"),
        (TimeToken::Day, "31", "01"),
        (TimeToken::Hour, "22", "03"),
        (TimeToken::Minute, "05", "35"),
        (TimeToken::Second, "06", "06"),
        (TimeToken::Micros, "000789", "000789"),
        (TimeToken::Offset, "+00:00", "+05:30"),
    ] {
        assert_eq!(time(token, moment, &TimeZone::UTC), utc);
        assert_eq!(time(token, moment, &india), local);
    }
    assert_eq!(time(TimeToken::Offset, moment, &azores), "-01:00");
}

#[test]
fn local_tokens_use_the_zone_and_others_do_not() {
    let far = TimeZone::fixed(tz::offset(14));
    for (utc, local, _) in TIME_TOKENS {
        let format: Format = format!("{{{local}}}").parse().unwrap();
        assert!(format.is_local(), "{local}");
        let format: Format = format!("{{{utc}}}").parse().unwrap();
        assert!(!format.is_local(), "{utc}");
    }
    assert_eq!(line_in("{offset} {localoffset}", &far), "+00:00 +14:00");
    assert!(line_in("{localwallclock}", &far).ends_with("+14:00"));
}

#[test]
fn doubled_braces_are_braces() {
    assert_eq!(line("{{{msg}}}"), "{slow}");
    assert_eq!(line("{{msg}}"), "{msg}");
    assert_eq!(line(""), "");
    assert_eq!(line("no token"), "no token");
}

#[test]
fn wrong_templates_say_what_is_wrong() {
    let message = |template: &str| template.parse::<Format>().unwrap_err().to_string();
    assert_eq!(
        message("{mesg}"),
        "there is no token {mesg}: did you mean {msg}?"
    );
    assert_eq!(
        message("{blood pressure}"),
        "there is no token {blood pressure}"
    );
    assert_eq!(message("{}"), "there is no token {}");
    let lone = "a lone";
    assert_eq!(
        message("ab {msg"),
        format!("{lone} '{{' at byte 3; for the character itself, double it")
    );
    assert!(message("ab}").starts_with(&format!("{lone} '}}' at byte 2")));
    assert!(message("{msg} {{ {").starts_with(&format!("{lone} '{{' at byte 9")));
}

#[test]
fn a_message_stays_on_its_line() {
    let hostile = "one\r\ncloud-hypervisor: forged \u{1b}[2J\u{7f}\u{9b}1m\ttab";
    let format: Format = "{msg}".parse().unwrap();
    let args = format_args!("{hostile}");
    let record = Record::builder().args(args).build();
    assert_eq!(
        format.line(&record, &TimeZone::UTC),
        "one\\r\\ncloud-hypervisor: forged \\u{1b}[2J\\u{7f}\\u{9b}1m\ttab\r\n"
    );
}

#[test]
fn a_library_without_a_file_shows_its_target() {
    let format: Format = "{location}".parse().unwrap();
    let record = Record::builder()
        .target("linux_loader")
        .args(format_args!(""))
        .build();
    assert_eq!(format.line(&record, &TimeZone::UTC), "linux_loader\r\n");
}

proptest! {
    #[test]
    fn any_template_is_parsed_or_refused(template in "[{}a-z é]{0,40}") {
        let _ = template.parse::<Format>();
    }

    #[test]
    fn text_comes_through_when_braces_are_doubled(text in "[{}a-z é]{0,40}") {
        let template = text.replace('{', "{{").replace('}', "}}");
        prop_assert_eq!(line(&template), text);
    }
}
