use serde_json::json;

use super::*;

fn sample(when: Instant, operations: u64, ticks: u64) -> Sample {
    Sample {
        when,
        info: json!({
            "state": "Running", "memory_actual_size": 1 << 29, "config": {"memory": {"size": 1 << 30}},
        }),
        counters: json!({"_disk0": {"read_ops": operations, "errors": 0}}),
        threads: [("vcpu10", ticks), ("vcpu2", 7), ("vmm", 3)]
            .map(|(name, ticks)| (name.to_owned(), ticks))
            .into(),
        resident: Some(100 << 20),
    }
}

#[test]
fn a_screen_has_rates_of_what_was_counted() {
    let start = Instant::now();
    let hundred = rustix::param::clock_ticks_per_second();
    let before = sample(start, 1000, 0);
    let now = sample(start + Duration::from_secs(2), 1500, hundred);
    assert_eq!(
        render(&before, &now),
        "Running  memory 512M of 1G, resident 100M\n\n\
         THREAD  BUSY\nvcpu2   0 %\nvcpu10  50 %\nothers  0 %\n\n\
         DEVICE  COUNTER   PER SECOND  IN ALL\n_disk0  read_ops  250         1500\n"
    );
}

#[test]
fn counters_that_begin_anew_are_no_negative_rates() {
    let lines = rates(
        &json!({"a": {"x": 100}}),
        &json!({"a": {"x": 5}, "b": {"y": 8}}),
        1.0,
    );
    assert_eq!(lines[1], ["a", "x", "0", "5"]);
    assert_eq!(lines[2], ["b", "y", "8", "8"]);
}

#[test]
fn the_time_of_a_thread_is_read_whatever_its_name_is() {
    let stat = "12 (a) (b) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0";
    assert_eq!(thread(stat), Some(("a) (b".to_owned(), 42)));
    assert_eq!(thread("12 S 1"), None);
    let own = threads("/proc/self/task");
    assert!(!own.is_empty());
    assert!(threads("/proc/0/task").is_empty());
    assert!(resident("/proc/self/status").unwrap() > 0);
}

#[test]
fn sizes_are_short() {
    assert_eq!(size(512), "512");
    assert_eq!(size((512 << 20) + 3), "512M");
    assert_eq!(size((5 << 30) + 3), "5G");
}
