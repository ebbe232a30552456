//! How many frames per second go through a device, each direction by itself: a driver on one thread, the device on
//! another, a tap in a network of its own. Beside it the processor time that the device's thread spends on a frame,
//! which says more where others use the machine. As root: `cargo run --release -p net --example packets [seconds]`.
#![expect(clippy::print_stdout, reason = "it reports to a person")]
#![expect(clippy::cast_precision_loss, reason = "rates are rounded")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use device::Device;
use net::{Net, NetConfig};
use tap::testing::{Wire, ip, own_network};
use tap::{HEADER, Tap};
use virtio::testing::{Bench, Driver, DriverQueue};

/// Guest addresses of buffers: a place for each descriptor.
const BUFFERS: u64 = 0x80_0000;
const PLACE: u64 = 0x4000;
/// Bytes of a receive buffer, and of one that is merged: these follow each other, as Linux has them.
const BUFFER: u32 = 0x800;
const MERGED: u32 = 0x600;
const MRG_RXBUF: u64 = 1 << 15;
const SIZE: u16 = 256;
/// Available ring: no interrupts, as a driver that polls. Used ring: no doorbells.
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(3));
    if !own_network() {
        return;
    }
    for (name, features) in [
        ("small buffers", 0),
        ("merged buffers", MRG_RXBUF | 1 << 7 | 2),
    ] {
        for length in [60, 1514] {
            measure(name, features, length, time);
        }
    }
}

fn measure(name: &str, features: u64, length: usize, time: Duration) {
    let bench = Bench::new();
    let config: NetConfig = keyvalue::from_str("tap=t0,queue_size=256").expect("a flag");
    let tap = Tap::open("t0", 1).expect("root");
    let device = Net::on_tap(&config, tap, bench.environment("_net0"));
    let mut device = device.expect("a device");
    ip("link set t0 txqueuelen 100000");
    device.start().expect("started");
    let driver = Driver::find(&bench, 1);
    let mut queues = driver.start(features);
    bench.attend(&mut device);
    let sent = transmit(&driver, &mut queues[1], length, time);
    let (place, bytes) = match features & MRG_RXBUF {
        0 => (PLACE, BUFFER),
        _ => (u64::from(MERGED), MERGED),
    };
    for index in 0..SIZE {
        let address = BUFFERS + place * u64::from(index);
        queues[0].describe(index, address, bytes, 2, 0);
    }
    let received = receive(&driver, &mut queues[0], length, time);
    println!("{name:15} {length:5} bytes: sent {sent} received {received}");
    drop(queues);
    device.stop().expect("stopped");
}

/// What one direction came to.
struct Rate {
    frames: u64,
    time: Duration,
    /// Processor time of the device's thread.
    spent: u64,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.frames as f64 / self.time.as_secs_f64();
        let each = self.spent as f64 / self.frames as f64;
        write!(f, "{rate:8.0}/s {each:5.0} ns")
    }
}

/// Nanoseconds that the device's thread ran (Documentation/scheduler/sched-stats.rst).
fn spent() -> u64 {
    // It gets its name when it begins to run.
    let path = loop {
        let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
        let mut paths = tasks.flatten().map(|task| task.path());
        let is_worker = |path: &PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "net_qp0")
        };
        if let Some(path) = paths.find(is_worker) {
            break path.join("schedstat");
        }
    };
    let text = std::fs::read_to_string(path).expect("statistics");
    let first = text.split(' ').next();
    first.and_then(|text| text.parse().ok()).expect("a number")
}

fn frame(length: usize) -> Vec<u8> {
    let mut frame = vec![0; length];
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

fn ring(driver: &Driver<'_>, queue: &DriverQueue) {
    if queue.used_flags() & NO_NOTIFY == 0 {
        driver.kick(queue.index);
    }
}

/// Gives chains back to the device as fast as it uses them, until `done`; gives how many it used.
fn serve(driver: &Driver<'_>, queue: &mut DriverQueue, mut done: impl FnMut(u64) -> bool) -> u64 {
    let mut total = 0;
    loop {
        let used = queue.used();
        if !used.is_empty() {
            total += used.len() as u64;
            for (head, _) in used {
                queue.offer(u16::try_from(head).expect("a descriptor"));
            }
            ring(driver, queue);
        }
        if done(total) {
            return total;
        }
    }
}

fn transmit(driver: &Driver<'_>, queue: &mut DriverQueue, length: usize, time: Duration) -> Rate {
    queue.set_available_flags(NO_INTERRUPT);
    let bytes = u32::try_from(HEADER + length).expect("small");
    for index in 0..SIZE {
        // All zeros but for the addresses: a frame nobody wants.
        let address = BUFFERS + PLACE * u64::from(index);
        queue.describe(index, address, bytes, 0, 0);
        queue.offer(index);
    }
    let (start, before) = (Instant::now(), spent());
    driver.kick(queue.index);
    let frames = serve(driver, queue, |_| start.elapsed() > time);
    Rate {
        frames,
        time: start.elapsed(),
        spent: spent() - before,
    }
}

/// The frames wait in the tap before the driver has buffers for them, so that whoever sends is not measured.
fn receive(driver: &Driver<'_>, queue: &mut DriverQueue, length: usize, time: Duration) -> Rate {
    queue.set_available_flags(NO_INTERRUPT);
    let wire = Wire::new("t0");
    let frame = frame(length);
    let mut free: Vec<u16> = (0..SIZE).collect();
    let mut rate = Rate {
        frames: 0,
        time: Duration::ZERO,
        spent: 0,
    };
    while rate.time < time {
        let mut waiting = 0;
        while waiting < 50_000 && wire.send(&frame) {
            waiting += 1;
        }
        let (start, before) = (Instant::now(), spent());
        for index in free.drain(..) {
            queue.offer(index);
        }
        driver.kick(queue.index);
        let mut taken = 0;
        // Buffers are not given back beyond the number of frames, so that the next round begins without.
        while taken < waiting {
            let used = queue.used();
            taken += used.len() as u64;
            for (head, _) in used {
                let head = u16::try_from(head).expect("a descriptor");
                queue.offer(head);
            }
            ring(driver, queue);
        }
        rate.time += start.elapsed();
        rate.spent += spent() - before;
        rate.frames += waiting;
    }
    rate
}
