//! Draws a trace as SVG: a band for each thread, a row in it for each depth, time from left to right.

use std::fmt::Write as _;

use super::steps::{Step, Thread};

/// Pixels of the whole picture.
const WIDTH: f64 = 1400.0;
/// Of the column with the threads' names.
const NAMES: f64 = 130.0;
/// Of the space at the right edge.
const EDGE: f64 = 20.0;
/// Of the title and of the scale above the bands.
const HEAD: f64 = 60.0;
/// Of one row, and of the space between two threads.
const ROW: f64 = 24.0;
const GAP: f64 = 12.0;
/// About what one letter takes.
const LETTER: f64 = 6.6;
/// A step is at least so wide that it can be seen.
const NARROWEST: f64 = 1.0;

/// Colours that dark text can be read on; a step keeps its colour from picture to picture.
const COLOURS: [&str; 8] = [
    "#9ecae1", "#fdd0a2", "#a1d99b", "#dadaeb", "#fcbba1", "#c7e9c0", "#f7d4e8", "#d9d9a3",
];

/// The whole picture.
pub(super) fn draw(threads: &[Thread]) -> String {
    let all = || threads.iter().flat_map(|thread| &thread.steps);
    let end = all().map(|step| step.begin + step.length);
    // Of one step without length, too.
    let end = end.fold(1.0, f64::max);
    let rows: f64 = threads.iter().map(height).sum();
    let bottom = HEAD + rows;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{GAP}" y="22" font-size="15">Start of the monitor: {} steps, {}</text>"##,
        bottom + GAP,
        all().count(),
        time(end),
    );
    scale(&mut svg, end, bottom);
    let mut top = HEAD;
    for thread in threads {
        band(&mut svg, thread, end, top);
        top += height(thread);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Pixels of a thread's band, with the space below it.
fn height(thread: &Thread) -> f64 {
    let deepest = thread.steps.iter().map(|step| step.depth).max();
    let rows = u32::try_from(deepest.unwrap_or(0)).unwrap_or(u32::MAX);
    (f64::from(rows) + 1.0) * ROW + GAP
}

/// Where a time is, in pixels from the left.
fn place(at: f64, end: f64) -> f64 {
    NAMES + at / end * (WIDTH - NAMES - EDGE)
}

/// Lines for round times, from the scale down to the last band.
fn scale(svg: &mut String, end: f64, bottom: f64) {
    let step = round(end / 10.0);
    let mut at = 0.0;
    while at <= end {
        let x = place(at, end);
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" y1="44" x2="{x:.1}" y2="{bottom:.0}" stroke="#dddddd"/>
<text x="{x:.1}" y="40" text-anchor="middle" fill="#555555">{}</text>"##,
            time(at)
        );
        at += step;
    }
}

/// The next of 1, 2, 5, 10, 20, ... microseconds.
fn round(time: f64) -> f64 {
    let decade = 10f64.powf(time.max(1.0).log10().floor());
    let factors = [1.0, 2.0, 5.0];
    let factor = factors.iter().find(|factor| *factor * decade >= time);
    factor.unwrap_or(&10.0) * decade
}

fn band(svg: &mut String, thread: &Thread, end: f64, top: f64) {
    let _ = writeln!(
        svg,
        r#"<text x="{GAP}" y="{:.0}" font-weight="bold">{}</text>"#,
        top + 16.0,
        text(&short(&thread.name, NAMES - 2.0 * GAP)),
    );
    for step in &thread.steps {
        bar(svg, step, end, top);
    }
}

fn bar(svg: &mut String, step: &Step, end: f64, top: f64) {
    let depth = u32::try_from(step.depth).unwrap_or(u32::MAX);
    let (x, y) = (place(step.begin, end), top + f64::from(depth) * ROW);
    let width = (place(step.begin + step.length, end) - x).max(NARROWEST);
    let colour = step.name.bytes().fold(0usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    let whole = format!("{} {}", step.name, time(step.length));
    let _ = writeln!(
        svg,
        r##"<g><title>{}, from {} on</title><rect x="{x:.1}" y="{y:.0}" width="{width:.1}" height="{:.0}" fill="{}" stroke="#777777" stroke-width="0.5"/>"##,
        text(&whole),
        time(step.begin),
        ROW - 3.0,
        COLOURS[colour % COLOURS.len()],
    );
    // What does not fit is in the title, which viewers show under the pointer.
    let label = if fits(whole.chars().count(), width - 4.0) {
        whole
    } else {
        short(&step.name, width - 4.0)
    };
    if !label.is_empty() {
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.0}">{}</text>"#,
            x + 3.0,
            y + 15.0,
            text(&label)
        );
    }
    svg.push_str("</g>\n");
}

fn fits(letters: usize, width: f64) -> bool {
    letters as f64 * LETTER <= width
}

/// As much of a text as fits: nothing, if that is next to nothing.
fn short(text: &str, width: f64) -> String {
    let count = text.chars().count();
    let letters = (1..=count)
        .take_while(|letters| fits(*letters, width))
        .count();
    if letters == count {
        text.to_owned()
    } else if letters < 4 {
        String::new()
    } else {
        text.chars().take(letters - 1).chain(['…']).collect()
    }
}

/// Microseconds for people.
fn time(microseconds: f64) -> String {
    match microseconds {
        0.0 => "0".to_owned(),
        ..1_000.0 => format!("{microseconds:.0} µs"),
        ..1_000_000.0 => format!("{:.2} ms", microseconds / 1_000.0),
        _ => format!("{:.2} s", microseconds / 1_000_000.0),
    }
}

/// A text as XML has it (XML 1.0, 2.2 and 2.4): control characters cannot be written at all.
fn text(raw: &str) -> String {
    let mut escaped = String::with_capacity(raw.len());
    for letter in raw.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, begin: f64, length: f64, depth: usize) -> Step {
        Step {
            name: name.to_owned(),
            begin,
            length,
            depth,
        }
    }

    #[test]
    fn each_step_has_its_bar_where_its_time_is() {
        let threads = [
            Thread {
                name: "main".to_owned(),
                steps: vec![step("all", 0.0, 2500.0, 0), step("half", 1250.0, 1250.0, 1)],
            },
            Thread {
                name: "vmm".to_owned(),
                steps: vec![step("<b> & \u{1}", 0.0, 1250.0, 0)],
            },
        ];
        let svg = draw(&threads);
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(svg.contains("3 steps, 2.50 ms"), "{svg}");
        // Half of the 1250 pixels between names and edge; the second row of the first band.
        assert!(svg.contains(r#"x="755.0" y="84" width="625.0""#), "{svg}");
        assert!(svg.contains("&lt;b&gt; &amp; \u{fffd} 1.25 ms"), "{svg}");
        assert!(!svg.contains('\u{1}'));
    }

    #[test]
    fn scales_are_round_and_times_are_readable() {
        for (time, step) in [(1.0, 1.0), (1.3, 2.0), (450.0, 500.0), (501.0, 1000.0)] {
            assert!((round(time) - step).abs() < 1e-6, "{time}: {}", round(time));
        }
        let shown = [0.0, 12.4, 1_500.0, 2_000_000.0].map(time);
        assert_eq!(shown, ["0", "12 µs", "1.50 ms", "2.00 s"]);
    }

    #[test]
    fn a_step_without_length_can_be_seen() {
        let threads = [Thread {
            name: "main".to_owned(),
            steps: vec![step("moment", 0.0, 0.0, 0)],
        }];
        assert!(draw(&threads).contains(r#"width="1.0""#));
    }
}
