//! How much goes through a device between a driver and a program of the host, each direction by itself, and how long
//! a byte takes there and back. Beside it the processor time of the device's thread, which says more where others use
//! the machine. `cargo run --release -p vsock --example streams [seconds] [part of a name]`.
#![expect(clippy::print_stdout, reason = "it reports to a person")]
#![expect(clippy::cast_precision_loss, reason = "rates are rounded")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use device::Device;
use sandbox::Filter;
use virtio::OverPci;
use virtio::testing::{Bench, Driver};
use vsock::{Listener, Sockets, TICK};

mod guest;

use guest::{Guest, Layout};

/// The device's thread.
const THREAD: &str = "_vsock0";
/// What a program of the host reads and writes at once.
const CHUNK: usize = 256 << 10;
/// Transmit buffers of 64 KiB, the most that Linux has in one packet.
const LARGE: Layout = Layout {
    len: 64 << 10,
    count: 64,
};
/// What a program that writes little at a time makes of it.
const SMALL: Layout = Layout {
    len: 64,
    count: 256,
};
/// Receive buffers as Linux has them: 4 KiB with the header.
const PAGES: Layout = Layout {
    len: 4096 - guest::HEADER,
    count: 256,
};

/// A measurement, in words.
type Run = fn(Duration) -> String;

fn main() {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(2.0));
    let part = words.next().unwrap_or_default();
    let cases: [(&str, Run); 6] = [
        ("to the host, 64 KiB packets", |time| to_host(LARGE, time)),
        ("to the host, 64 B packets", |time| to_host(SMALL, time)),
        ("to the guest, 4 KiB buffers", |time| {
            to_guest(PAGES, CHUNK, time)
        }),
        ("to the guest, 64 KiB buffers", |time| {
            to_guest(LARGE, CHUNK, time)
        }),
        ("to the guest, 64 B writes", |time| {
            to_guest(PAGES, 64, time)
        }),
        ("there and back, 1 B", there_and_back),
    ];
    for (name, run) in cases {
        if name.contains(&part) {
            println!("{name:30} {}", run(time));
        }
    }
}

/// A device with one connection between this program, as a program of the host, and the driver.
fn with_connection(
    transmit: Layout,
    receive: Layout,
    run: impl FnOnce(&mut Guest<'_>, UnixStream) -> String,
) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vsock");
    let bench = Bench::new();
    let listener = Listener::open(&path).expect("a socket");
    let sockets = Sockets::new(3, listener, bench.ram.clone(), THREAD, Filter::none(), TICK);
    let environment = bench.environment(THREAD);
    let device = OverPci::new("vsock", sockets.expect("a device"), environment);
    let mut device = device.expect("a device");
    device.start().expect("started");
    let driver = Driver::find(&bench, 1);
    let queues = driver.start(0);
    bench.attend(&mut device);
    let mut guest = Guest::new(&bench, &driver, queues, transmit, receive);
    let mut client = UnixStream::connect(&path).expect("a connection");
    client.write_all(b"CONNECT 7\n").expect("a greeting");
    guest.accept();
    let mut answer = [0];
    while answer != [b'\n'] {
        client.read_exact(&mut answer).expect("an answer");
    }
    let result = run(&mut guest, client);
    device.stop().expect("stopped");
    result
}

fn to_host(layout: Layout, time: Duration) -> String {
    with_connection(layout, PAGES, |guest, mut client| {
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; CHUNK];
            while client.read(&mut chunk).expect("data") > 0 {}
        });
        let (start, before) = (Instant::now(), spent());
        while start.elapsed() < time {
            guest.poll();
            guest.send();
        }
        let rate = Rate::since(start, before, guest.sent, guest.packets);
        guest.reset();
        reader.join().expect("it read to the end");
        rate.stream()
    })
}

fn to_guest(layout: Layout, chunk: usize, time: Duration) -> String {
    with_connection(SMALL, layout, |guest, mut client| {
        let writer = std::thread::spawn(move || {
            let chunk = vec![1; chunk];
            while client.write_all(&chunk).is_ok() {}
        });
        let (start, before) = (Instant::now(), spent());
        while start.elapsed() < time {
            guest.poll();
        }
        let rate = Rate::since(start, before, guest.received, guest.packets);
        guest.reset();
        writer.join().expect("it wrote until the end");
        rate.stream()
    })
}

fn there_and_back(time: Duration) -> String {
    let byte = Layout { len: 1, count: 16 };
    with_connection(byte, PAGES, |guest, mut client| {
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while client.read(&mut byte).expect("data") > 0 {
                client.write_all(&byte).expect("a way back");
            }
        });
        let (start, before) = (Instant::now(), spent());
        let mut times = Vec::new();
        while start.elapsed() < time {
            let (sent, received) = (Instant::now(), guest.received);
            guest.send();
            while guest.received == received {
                guest.poll();
            }
            times.push(sent.elapsed());
        }
        let rounds = times.len() as u64;
        let rate = Rate::since(start, before, rounds, rounds);
        guest.reset();
        echo.join().expect("it read to the end");
        times.sort();
        let each = rate.spent as f64 / rounds as f64 / 1000.0;
        format!(
            "median {:?}, least {:?}; device {each:.1} µs of processor time",
            times[times.len() / 2],
            times[0]
        )
    })
}

/// What a stream came to.
struct Rate {
    bytes: u64,
    packets: u64,
    time: Duration,
    /// Processor time of the device's thread in nanoseconds.
    spent: u64,
}

impl Rate {
    fn since(start: Instant, before: u64, bytes: u64, packets: u64) -> Self {
        Self {
            bytes,
            packets,
            time: start.elapsed(),
            spent: spent() - before,
        }
    }

    fn stream(&self) -> String {
        let mebibytes = self.bytes as f64 / f64::from(1 << 20);
        format!(
            "{:7.1} MB/s; device {:6.1} µs of processor time for each MiB, {:5.0} ns for each packet",
            self.bytes as f64 / 1e6 / self.time.as_secs_f64(),
            self.spent as f64 / 1000.0 / mebibytes,
            self.spent as f64 / self.packets as f64,
        )
    }
}

/// Nanoseconds that the device's thread ran (Documentation/scheduler/sched-stats.rst).
fn spent() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let task = tasks.flatten().map(|task| task.path()).find(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == THREAD)
    });
    let path = task.expect("it works").join("schedstat");
    let text = std::fs::read_to_string(path).expect("statistics");
    let first = text.split(' ').next();
    first.and_then(|text| text.parse().ok()).expect("a number")
}
