//! Collects steps and writes them.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};

/// Steps beyond these are only counted: a machine with thousands of devices does not take memory for its trace.
const MOST: usize = 10_000;

/// A step that has ended.
struct Recorded {
    /// Index in [`Recorder::threads`].
    thread: usize,
    name: String,
    /// Since the start of the process.
    time: Range<Duration>,
}

/// All steps of the process, until they are written.
pub(super) struct Recorder {
    /// Where they go.
    pub(super) file: Option<File>,
    threads: Vec<String>,
    steps: Vec<Recorded>,
    left_out: u64,
    finished: bool,
}

impl Recorder {
    pub(super) const fn new() -> Self {
        Self {
            file: None,
            threads: Vec::new(),
            steps: Vec::new(),
            left_out: 0,
            finished: false,
        }
    }

    pub(super) fn add(&mut self, thread: &str, name: String, time: Range<Duration>) {
        if self.finished {
            return;
        }
        if self.steps.len() >= MOST {
            self.left_out += 1;
            return;
        }
        let known = self.threads.iter().position(|known| known == thread);
        let thread = known.unwrap_or_else(|| {
            self.threads.push(thread.to_owned());
            self.threads.len() - 1
        });
        self.steps.push(Recorded { thread, name, time });
    }

    /// Writes once; from then on nothing is taken.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        let text = self.events().to_string();
        self.steps = Vec::new();
        match self.file.take() {
            Some(mut file) => file.write_all(text.as_bytes()),
            None => Ok(()),
        }
    }

    fn events(&self) -> Value {
        let pid = std::process::id();
        let names = (1..).zip(&self.threads).map(|(number, name): (u32, _)| {
            json!({"ph": "M", "pid": pid, "tid": number, "name": "thread_name", "args": {"name": name}})
        });
        let steps = self.steps.iter().map(|step| {
            let length = step.time.end.saturating_sub(step.time.start);
            json!({
                "ph": "X", "pid": pid, "tid": step.thread + 1, "name": step.name,
                "ts": microseconds(step.time.start), "dur": microseconds(length),
            })
        });
        json!({
            "displayTimeUnit": "ms",
            "otherData": {"left_out": self.left_out},
            "traceEvents": names.chain(steps).collect::<Vec<_>>(),
        })
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(begin: u64, end: u64) -> Range<Duration> {
        Duration::from_micros(begin)..Duration::from_micros(end)
    }

    #[test]
    fn steps_have_thread_name_begin_and_duration_and_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace");
        let mut recorder = Recorder::new();
        recorder.add("main", "one".to_owned(), span(10, 30));
        recorder.file = Some(File::create(&path).unwrap());
        recorder.add("vmm", "two \"_disk0\"".to_owned(), span(20, 20));
        recorder.add("main", "three".to_owned(), span(30, 31));
        recorder.finish().unwrap();
        recorder.add("main", "late".to_owned(), span(40, 50));
        recorder.finish().unwrap();
        let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let events = written["traceEvents"].as_array().unwrap();
        let shown: Vec<Value> = events
            .iter()
            .map(|event| match event["ph"].as_str().unwrap() {
                "M" => json!([event["tid"], event["args"]["name"]]),
                _ => json!([event["tid"], event["name"], event["ts"], event["dur"]]),
            })
            .collect();
        assert_eq!(
            shown,
            [
                json!([1, "main"]),
                json!([2, "vmm"]),
                json!([1, "one", 10.0, 20.0]),
                json!([2, "two \"_disk0\"", 20.0, 0.0]),
                json!([1, "three", 30.0, 1.0]),
            ]
        );
        assert_eq!(written["otherData"]["left_out"], 0);
    }

    #[test]
    fn there_is_a_most_of_steps() {
        let mut recorder = Recorder::new();
        for _ in 0..MOST + 3 {
            recorder.add("main", String::new(), span(0, 1));
        }
        assert_eq!(recorder.steps.len(), MOST);
        assert_eq!(recorder.events()["otherData"]["left_out"], 3);
        recorder.finish().unwrap();
        assert!(recorder.steps.is_empty());
    }
}
