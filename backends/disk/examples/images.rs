//! Measures an image as `qemu-img bench` does, for `cargo xtask bench disk`:
//! `images PATH FORMAT DEPTH BLOCK STEP COUNT read|write [direct]`.
//!
//! Keeps `DEPTH` requests of `BLOCK` bytes under way, each `STEP` bytes behind the one before and from the start again
//! behind the end, until `COUNT` are done. Prints the seconds that took.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::env;
use std::error::Error;
use std::time::Instant;

use disk::{Event, ImageType, OpenOptions, Operation, Request, open};
use memory::{GuestRam, IoVectors, RamOptions, RegionSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [path, format, depth, block, step, count, rest @ ..] = words.as_slice() else {
        return Err("PATH raw|qcow2|vhd|vhdx DEPTH BLOCK STEP COUNT read|write [direct]".into());
    };
    let is = |wanted: &str| rest.iter().any(|word| word == wanted);
    let writes = is("write");
    let options = OpenOptions {
        image_type: match &**format {
            "raw" => ImageType::Raw,
            "qcow2" => ImageType::Qcow2,
            "vhd" => ImageType::FixedVhd,
            "vhdx" => ImageType::Vhdx,
            other => return Err(format!("the format {other} is not known").into()),
        },
        direct: is("direct"),
        read_only: !writes,
        backing_files: true,
        ..OpenOptions::new(path)
    };
    let (depth, block): (u16, u32) = (depth.parse()?, block.parse()?);
    let (step, count): (u64, u64) = (step.parse()?, count.parse()?);
    let disk = open(&options)?;
    let mut lane = disk.lane(depth)?;
    let size = usize::from(depth) * block as usize;
    let regions = [RegionSpec {
        start: 0,
        size: size.next_multiple_of(2 << 20) as u64,
    }];
    let ram = GuestRam::new(&regions, &RamOptions::default())?;
    // Memory that was never touched is not what is measured; `qemu-img bench` fills its buffers before it begins.
    let mut all = IoVectors::new(ram.clone());
    all.push(0, u32::try_from(size)?)?;
    all.clear_at(0, size);
    let capacity = disk.capacity() / u64::from(block) * u64::from(block);
    let mut offset = 0;
    let mut request = |tag: u64, mut vectors: IoVectors| {
        vectors.clear();
        vectors.push(tag * u64::from(block), block)?;
        let operation = match writes {
            true => Operation::Write { offset, vectors },
            false => Operation::Read { offset, vectors },
        };
        offset = (offset + step) % capacity;
        Ok::<_, memory::Error>(Request { tag, operation })
    };
    let begin = Instant::now();
    let mut begun = 0;
    while begun < count.min(depth.into()) {
        lane.push(request(begun, IoVectors::new(ram.clone()))?);
        begun += 1;
    }
    let mut done = 0;
    let mut events = Vec::new();
    while done < count {
        lane.wait(&mut events)?;
        for event in events.drain(..) {
            if let Event::Done {
                tag,
                result,
                vectors: Some(vectors),
            } = event
            {
                result?;
                done += 1;
                if begun < count {
                    lane.push(request(tag, vectors)?);
                    begun += 1;
                }
            }
        }
    }
    println!("{:.6}", begin.elapsed().as_secs_f64());
    Ok(())
}
