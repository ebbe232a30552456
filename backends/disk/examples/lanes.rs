//! Measures a lane: `cargo run --release -p disk --example lanes -- PATH ENGINE DEPTH BLOCK [read|write] [direct]`.
//!
//! Keeps `DEPTH` requests of `BLOCK` bytes at random places of the image under way for three seconds, as a queue of a
//! device does: everything that is done is begun anew before the next wait. Prints requests per second and processor
//! time per request, in the process (user) and in the kernel for it (system).

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use disk::{Event, ImageType, OpenOptions, Operation, Request, open};
use memory::{GuestRam, IoVectors, RamOptions, RegionSpec};

const TIME: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [path, engine, depth, block, rest @ ..] = words.as_slice() else {
        return Err("PATH io_uring|aio|sync DEPTH BLOCK [read|write] [direct]".into());
    };
    let writes = rest.iter().any(|word| word == "write");
    let options = OpenOptions {
        image_type: ImageType::Raw,
        direct: rest.iter().any(|word| word == "direct"),
        disable_io_uring: engine != "io_uring",
        disable_aio: engine == "sync",
        ..OpenOptions::new(path)
    };
    let (depth, block): (u16, u32) = (depth.parse()?, block.parse()?);
    let disk = open(&options)?;
    let mut lane = disk.lane(depth)?;
    let blocks = disk.capacity() / u64::from(block);
    let size = usize::from(depth) * block as usize;
    let regions = [RegionSpec {
        start: 0,
        size: size.next_multiple_of(2 << 20) as u64,
    }];
    let ram = GuestRam::new(&regions, &RamOptions::default())?;

    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut request = |tag: u64, mut vectors: IoVectors| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = (random >> 8) % blocks * u64::from(block);
        vectors.clear();
        vectors.push(tag * u64::from(block), block)?;
        let operation = match writes {
            true => Operation::Write { offset, vectors },
            false => Operation::Read { offset, vectors },
        };
        Ok::<_, memory::Error>(Request { tag, operation })
    };
    for tag in 0..depth.into() {
        lane.push(request(tag, IoVectors::new(ram.clone()))?);
    }
    let (begin, used) = (Instant::now(), processor_time()?);
    let (mut done, mut waits) = (0_u64, 0_u64);
    let mut events = Vec::new();
    while begin.elapsed() < TIME {
        lane.wait(&mut events)?;
        waits += 1;
        for event in events.drain(..) {
            if let Event::Done {
                tag,
                result,
                vectors: Some(vectors),
            } = event
            {
                result?;
                done += 1;
                lane.push(request(tag, vectors)?);
            }
        }
    }
    let (seconds, now) = (begin.elapsed().as_secs_f64(), processor_time()?);
    let each = |before: f64, after: f64| (after - before) * 1e6 / done as f64;
    println!(
        "{:?}: {:.0} requests/s, {:.2} per wait, user {:.2} µs, system {:.2} µs per request",
        disk.engine(),
        done as f64 / seconds,
        done as f64 / waits as f64,
        each(used.0, now.0),
        each(used.1, now.1),
    );
    Ok(())
}

/// Seconds that this process has used: user, system (proc(5), /proc/pid/stat).
fn processor_time() -> Result<(f64, f64), Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(')').ok_or("/proc/self/stat has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .ok_or("/proc/self/stat is short")?
            .parse()
            .map_err(Box::<dyn Error>::from)
    };
    let (user, system): (f64, f64) = (ticks(11)?, ticks(12)?);
    Ok((user / 100.0, system / 100.0))
}
