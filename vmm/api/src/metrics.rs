//! What there is to count, in the text format of Prometheus (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use machine::{Answer, Counters, Error, Info, Kind};

use crate::Response;

/// What all names begin with.
const PREFIX: &str = "cloud_hypervisor_";

/// The states that a VM can be in, and that there is none.
const STATES: &[&str] = &["Absent", "Created", "Running", "Paused"];

/// The answer, from the driver's two answers. That there is no VM, or that it is not booted, is no failure: who
/// collects metrics asks all the time.
pub(crate) fn response(
    version: &str,
    info: machine::Result<Answer>,
    counted: machine::Result<Answer>,
) -> Response {
    let info = match info {
        Ok(Answer::Info(info)) => Some(info),
        Err(error) if error.kind() == Kind::Absent => None,
        Err(error) => return Response::failed(&error),
        Ok(_) => return Response::failed(&Error::Ending),
    };
    let counters = match counted {
        Ok(Answer::Counters(counters)) => counters,
        _ => Counters::new(),
    };
    Response::metrics(text(version, info.as_deref(), &counters))
}

fn text(version: &str, info: Option<&Info>, counters: &Counters) -> String {
    let mut page = Page::default();
    page.head("build_info", "gauge", "The monitor; always 1.");
    page.sample("build_info", &[("version", version)], 1);
    page.head("vm_state", "gauge", "1 for the state that the VM is in.");
    let state = info.map_or("Absent", |info| info.state);
    for one in STATES {
        page.sample("vm_state", &[("state", one)], u8::from(*one == state));
    }
    if let Some(info) = info {
        page.head(
            "vm_memory_bytes",
            "gauge",
            "Memory that the guest has at the moment.",
        );
        page.sample("vm_memory_bytes", &[], info.memory_actual_size);
    }
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
    page.0
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
        let text = text("53.0.0", None, &counters);
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
        assert!(text.contains("cloud_hypervisor_build_info{version=\"53.0.0\"} 1\n"));
    }

    #[test]
    fn names_that_users_chose_are_escaped() {
        let counters = counters(&[("a\"b\\c\nd", &[("odd-name", 1)])]);
        let text = text("1", None, &counters);
        assert!(
            text.ends_with(
                "cloud_hypervisor_device_odd_name_total{device=\"a\\\"b\\\\c\\nd\"} 1\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn no_vm_is_no_failure_and_an_end_is_one() {
        let absent = || Err(machine::life::Refusal::Absent.into());
        assert_eq!(response("1", absent(), absent()).status, 200);
        let ending = response("1", Err(Error::Ending), Err(Error::Ending));
        assert_eq!(ending.status, 500);
    }
}
