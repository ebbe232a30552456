//! Reads a trace: threads, and steps within steps.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The longest time that a trace may speak of, in microseconds: a day. Whatever has more is no trace of a start.
const LONGEST: f64 = 86_400e6;

/// One event of the Trace Event Format, as far as it is drawn.
#[derive(Deserialize)]
struct Event {
    ph: String,
    tid: u64,
    name: String,
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Arguments,
}

#[derive(Default, Deserialize)]
struct Arguments {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    trace_events: Vec<Event>,
}

/// A step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) name: String,
    /// Microseconds since the start of the process.
    pub(super) begin: f64,
    /// Microseconds.
    pub(super) length: f64,
    /// How many steps it is within.
    pub(super) depth: usize,
}

/// The steps of one thread, in the order of their begins.
#[derive(Debug, PartialEq)]
pub(super) struct Thread {
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
}

/// Threads in the order of their numbers.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn read(text: &[u8]) -> Result<Vec<Thread>, String> {
    let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut threads: BTreeMap<u64, Thread> = BTreeMap::new();
    for event in file.trace_events {
        let thread = threads.entry(event.tid).or_insert_with(|| Thread {
            name: format!("thread {}", event.tid),
            steps: Vec::new(),
        });
        match (event.ph.as_str(), event.name.as_str()) {
            ("M", "thread_name") => thread.name = event.args.name.unwrap_or_default(),
            ("X", _) => {
                let times = [event.ts, event.dur];
                if times.iter().any(|time| !(0.0..=LONGEST).contains(time)) {
                    return Err(format!("{:?} has no time within a day", event.name));
                }
                thread.steps.push(Step {
                    name: event.name,
                    begin: event.ts,
                    length: event.dur,
                    depth: 0,
                });
            }
            _ => {}
        }
    }
    let mut threads: Vec<Thread> = threads.into_values().collect();
    threads.retain(|thread| !thread.steps.is_empty());
    for thread in &mut threads {
        nest(&mut thread.steps);
    }
    if threads.is_empty() {
        return Err("has no steps".to_owned());
    }
    Ok(threads)
}

/// Sorts, and finds out what is within what.
fn nest(steps: &mut [Step]) {
    steps.sort_by(|a, b| {
        let begin = a.begin.total_cmp(&b.begin);
        // The outer one first.
        begin.then(b.length.total_cmp(&a.length))
    });
    let mut ends: Vec<f64> = Vec::new();
    for step in steps {
        while ends.last().is_some_and(|end| *end <= step.begin) {
            ends.pop();
        }
        step.depth = ends.len();
        ends.push(step.begin + step.length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_within_steps_of_their_thread() {
        let text = br#"{"traceEvents": [
            {"ph": "M", "pid": 7, "tid": 1, "name": "thread_name", "args": {"name": "main"}},
            {"ph": "M", "pid": 7, "tid": 2, "name": "thread_name", "args": {"name": "vmm"}},
            {"ph": "X", "pid": 7, "tid": 2, "name": "inner", "ts": 10.0, "dur": 4.0},
            {"ph": "X", "pid": 7, "tid": 2, "name": "next", "ts": 14.0, "dur": 1.0},
            {"ph": "X", "pid": 7, "tid": 2, "name": "outer", "ts": 10.0, "dur": 6.0},
            {"ph": "X", "pid": 7, "tid": 2, "name": "after", "ts": 16, "dur": 2},
            {"ph": "X", "pid": 7, "tid": 1, "name": "alone", "ts": 11.5, "dur": 2.0}
        ], "displayTimeUnit": "ms"}"#;
        let shown: Vec<_> = read(text)
            .unwrap()
            .into_iter()
            .map(|thread| {
                let steps = thread.steps.into_iter();
                let steps: Vec<_> = steps.map(|step| (step.name, step.depth)).collect();
                (thread.name, steps)
            })
            .collect();
        let steps = |list: &[(&str, usize)]| -> Vec<(String, usize)> {
            let owned = list
                .iter()
                .map(|(name, depth)| ((*name).to_owned(), *depth));
            owned.collect()
        };
        assert_eq!(
            shown,
            [
                ("main".to_owned(), steps(&[("alone", 0)])),
                (
                    "vmm".to_owned(),
                    steps(&[("outer", 0), ("inner", 1), ("next", 1), ("after", 0)])
                ),
            ]
        );
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        for (text, why) in [
            ("", "EOF"),
            ("{}", "traceEvents"),
            (r#"{"traceEvents": []}"#, "has no steps"),
            (
                r#"{"traceEvents": [{"ph": "X", "tid": 1, "name": "a", "ts": -1.0, "dur": 1.0}]}"#,
                "\"a\" has no time",
            ),
            (
                r#"{"traceEvents": [{"ph": "X", "tid": 1, "name": "a", "ts": 1e300, "dur": 1.0}]}"#,
                "\"a\" has no time",
            ),
        ] {
            let problem = read(text.as_bytes()).unwrap_err();
            assert!(problem.contains(why), "{text}: {problem}");
        }
    }
}
