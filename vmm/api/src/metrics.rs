//! What there is to count, in the text format of Prometheus (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use device::Histogram;
use machine::{Counters, Measures};

/// What all names begin with.
const PREFIX: &str = "cloud_hypervisor_";

/// The states that a VM can be in, and that there is none.
const STATES: &[&str] = &["Absent", "Created", "Running", "Paused"];

/// The version of the monitor, which is that of all crates.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the histograms of a network say.
const RECEIVE: &str = "How long frames took, from when the device turned to its tap until the driver was told, by queue.";
const TRANSMIT: &str = "How long frames took, from when the device turned to the queue until the driver was told that \
                        the tap has them, a full tap's time included, by queue.";

pub(crate) fn text(measures: &Measures) -> String {
    let mut page = Page::default();
    page.head("build_info", "gauge", "The monitor; always 1.");
    page.sample("build_info", &[("version", VERSION)], 1);
    page.head("vm_state", "gauge", "1 for the state that the VM is in.");
    let state = measures.state.unwrap_or("Absent");
    for one in STATES {
        page.sample("vm_state", &[("state", one)], u8::from(*one == state));
    }
    if let Some(memory) = measures.memory {
        let about = "Memory that the guest has at the moment.";
        page.head("vm_memory_bytes", "gauge", about);
        page.sample("vm_memory_bytes", &[], memory);
    }
    counters(&mut page, &measures.counters);
    histograms(&mut page, &measures.histograms);
    page.0
}

fn counters(page: &mut Page, counters: &Counters) {
    // A family's samples are together, whatever device they are of.
    let mut families: BTreeMap<Family<'_>, Vec<(&str, u64)>> = BTreeMap::new();
    for (device, counted) in counters {
        for (name, value) in counted {
            let family = Family::of(name);
            if !family.is_unset(*value) {
                families.entry(family).or_default().push((device, *value));
            }
        }
    }
    for (family, samples) in families {
        let name = family.name();
        let about = format!("The counter {} of vm.counters.", family.counter);
        page.head(&name, family.kind(), &about);
        for (device, value) in samples {
            page.sample(&name, &[("device", device)], value);
        }
    }
}

fn histograms(page: &mut Page, devices: &[(String, Vec<Histogram>)]) {
    let mut families: BTreeMap<&str, Vec<(&str, &Histogram)>> = BTreeMap::new();
    for (device, histograms) in devices {
        for histogram in histograms {
            let family = families.entry(histogram.name).or_default();
            family.push((device, histogram));
        }
    }
    for (name, histograms) in families {
        let about = match name {
            "receive_latency" => RECEIVE,
            "transmit_latency" => TRANSMIT,
            _ => {
                "How long requests took, from when they were taken from the queue until they were done, by queue."
            }
        };
        let name = format!("device_{name}_seconds");
        page.head(&name, "histogram", about);
        for (device, histogram) in histograms {
            let queue = histogram.queue.to_string();
            let labels = [("device", device), ("queue", &queue)];
            let [device, queue] = labels;
            let bucket = format!("{name}_bucket");
            for (bound, count) in &histogram.buckets {
                page.sample(&bucket, &[device, queue, ("le", &seconds(*bound))], count);
            }
            page.sample(&bucket, &[device, queue, ("le", "+Inf")], histogram.count);
            page.sample(&format!("{name}_sum"), &labels, seconds(histogram.sum));
            page.sample(&format!("{name}_count"), &labels, histogram.count);
        }
    }
}

/// Microseconds as seconds, without rounding.
fn seconds(microseconds: u64) -> String {
    format!(
        "{}.{:06}",
        microseconds / 1_000_000,
        microseconds % 1_000_000
    )
}

/// The samples of one counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Family<'a> {
    counter: &'a str,
}

impl<'a> Family<'a> {
    fn of(counter: &'a str) -> Self {
        Self { counter }
    }

    /// Latencies go up and down; everything else is counted.
    fn is_latency(self) -> bool {
        self.counter.contains("_latency_")
    }

    fn kind(self) -> &'static str {
        if self.is_latency() {
            "gauge"
        } else {
            "counter"
        }
    }

    fn name(self) -> String {
        let end = if self.is_latency() {
            "_microseconds"
        } else {
            "_total"
        };
        format!("device_{}{end}", self.counter)
    }

    /// A latency before the first operation is no latency: it is the largest number, or a ten-thousandth of that.
    fn is_unset(self, value: u64) -> bool {
        self.is_latency() && value >= u64::MAX / 10_000
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, about: &str) {
        let name = valid(name);
        let about = about.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {PREFIX}{name} {about}"));
        self.line(format_args!("# TYPE {PREFIX}{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let mut text = String::new();
        for (index, (label, value)) in labels.iter().enumerate() {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let before = if index == 0 { "{" } else { "," };
            text.push_str(&format!("{before}{label}=\"{value}\""));
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let name = valid(name);
        self.line(format_args!("{PREFIX}{name}{text} {value}"));
    }

    fn line(&mut self, text: impl Display) {
        // A string takes all that it is given.
        let _ = writeln!(self.0, "{text}");
    }
}

/// A name of the letters that names may have.
fn valid(name: &str) -> String {
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() { c } else { '_' }
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(all: &[(&str, &[(&str, u64)])]) -> Counters {
        all.iter()
            .map(|(id, counted)| {
                let counted = counted.iter().map(|(name, value)| ((*name).into(), *value));
                ((*id).into(), counted.collect())
            })
            .collect()
    }

    #[test]
    fn a_family_is_together_and_latencies_are_gauges() {
        let counters = counters(&[
            ("_disk0", &[("read_ops", 3), ("read_latency_avg", 17)]),
            (
                "_disk1",
                &[("read_ops", 0), ("read_latency_avg", u64::MAX / 10_000)],
            ),
        ]);
        let measures = Measures {
            counters,
            ..Measures::default()
        };
        let text = text(&measures);
        let at = text.find("# HELP cloud_hypervisor_device").unwrap();
        assert_eq!(
            &text[at..],
            "# HELP cloud_hypervisor_device_read_latency_avg_microseconds The counter read_latency_avg of vm.counters.\n\
             # TYPE cloud_hypervisor_device_read_latency_avg_microseconds gauge\n\
             cloud_hypervisor_device_read_latency_avg_microseconds{device=\"_disk0\"} 17\n\
             # HELP cloud_hypervisor_device_read_ops_total The counter read_ops of vm.counters.\n\
             # TYPE cloud_hypervisor_device_read_ops_total counter\n\
             cloud_hypervisor_device_read_ops_total{device=\"_disk0\"} 3\n\
             cloud_hypervisor_device_read_ops_total{device=\"_disk1\"} 0\n"
        );
        assert!(text.contains("cloud_hypervisor_vm_state{state=\"Absent\"} 1\n"));
        let build = format!("cloud_hypervisor_build_info{{version=\"{VERSION}\"}} 1\n");
        assert!(text.contains(&build));
    }

    #[test]
    fn names_that_users_chose_are_escaped() {
        let counters = counters(&[("a\"b\\c\nd", &[("odd-name", 1)])]);
        let measures = Measures {
            counters,
            ..Measures::default()
        };
        let text = text(&measures);
        assert!(
            text.ends_with(
                "cloud_hypervisor_device_odd_name_total{device=\"a\\\"b\\\\c\\nd\"} 1\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_histogram_has_rising_buckets_a_sum_and_a_count() {
        let histogram = Histogram {
            name: "read_latency",
            queue: 1,
            count: 3,
            sum: 1_500_007,
            buckets: vec![(1, 0), (1 << 20, 2)],
        };
        let measures = Measures {
            state: Some("Paused"),
            memory: Some(4096),
            histograms: vec![("_disk0".into(), vec![histogram])],
            ..Measures::default()
        };
        let text = text(&measures);
        assert!(text.contains("cloud_hypervisor_vm_memory_bytes 4096\n"));
        let at = text.find("# HELP cloud_hypervisor_device").unwrap();
        let name = "cloud_hypervisor_device_read_latency_seconds";
        let labels = "device=\"_disk0\",queue=\"1\"";
        assert_eq!(
            &text[at..],
            format!(
                "# HELP {name} How long requests took, from when they were taken from the queue until they were done, by queue.\n\
                 # TYPE {name} histogram\n\
                 {name}_bucket{{{labels},le=\"0.000001\"}} 0\n\
                 {name}_bucket{{{labels},le=\"1.048576\"}} 2\n\
                 {name}_bucket{{{labels},le=\"+Inf\"}} 3\n\
                 {name}_sum{{{labels}}} 1.500007\n\
                 {name}_count{{{labels}}} 3\n"
            )
        );
    }
}
