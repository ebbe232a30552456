//! The worker: takes what the guest wrote to the disk (VIRTIO 1.3, 5.19.6).

use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use reactor::{Interest, Readiness, Sources, Token, Worker};
use virtio::{Chain, Error, Ring};

/// Takes what was written until now to the disk.
pub type Flush = Box<dyn FnMut() -> io::Result<()> + Send>;

/// The type of request that there is.
const FLUSH: u32 = 0;
/// Answers.
const DONE: u32 = 0;
const FAILED: u32 = u32::MAX;

/// Serves the queue. All requests that wait are served with one call to the kernel: what was written before the
/// last of them was made was written before that call.
pub(crate) struct Flusher {
    ring: Ring,
    sync: Flush,
    /// Requests of this round, with what is to be answered if the flush succeeds.
    waiting: Vec<(Chain, u32)>,
}

impl Flusher {
    pub(crate) fn new(ring: Ring, sync: Flush) -> Self {
        Self {
            ring,
            sync,
            waiting: Vec::new(),
        }
    }

    pub(crate) fn into_parts(self) -> (Ring, Flush) {
        (self.ring, self.sync)
    }

    /// Serves what is there, but no more than a queue full.
    fn serve(&mut self) {
        self.ring.silence();
        for _ in 0..self.ring.size() {
            let Some(chain) = self.ring.pop() else {
                break;
            };
            match request(&chain) {
                Ok(kind) => {
                    let answer = if kind == FLUSH { DONE } else { FAILED };
                    self.waiting.push((chain, answer));
                }
                Err(error) => {
                    self.ring.fail(&error);
                    self.ring.complete(chain, 0);
                    break;
                }
            }
        }
        let wanted = self.waiting.iter().any(|(_, answer)| *answer == DONE);
        let flushed = if wanted { self.flush() } else { DONE };
        for (mut chain, answer) in self.waiting.drain(..) {
            let written = respond(&mut chain, answer.max(flushed));
            self.ring.complete(chain, written);
        }
        self.ring.notify();
        if self.ring.listen() {
            self.ring.kick().signal();
        }
    }

    fn flush(&mut self) -> u32 {
        loop {
            match (self.sync)() {
                Ok(()) => return DONE,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    telemetry::warn!("pmem: cannot take what the guest wrote to the disk: {error}");
                    return FAILED;
                }
            }
        }
    }
}

/// The type of a request that can be answered.
fn request(chain: &Chain) -> virtio::Result<u32> {
    let mut kind = [0; 4];
    if chain.reader().read_exact(&mut kind).is_err() {
        return Err(Error::Request("a request to persistent memory has no type"));
    }
    if chain.writable_len() < 4 {
        return Err(Error::Request(
            "a request to persistent memory has no room for the answer",
        ));
    }
    Ok(u32::from_le_bytes(kind))
}

fn respond(chain: &mut Chain, answer: u32) -> u32 {
    let mut writer = chain.writer();
    // There is room: it was looked at.
    if let Err(error) = writer.write_all(&answer.to_le_bytes()) {
        telemetry::warn!("pmem: cannot answer the guest: {error}");
    }
    writer.written()
}

impl Worker for Flusher {
    fn register(&mut self, sources: &mut Sources) -> io::Result<()> {
        sources.add(self.ring.kick(), Token(0), Interest::READ)
    }

    fn ready(&mut self, _: Token, _: Readiness, _: &mut Sources) -> io::Result<ControlFlow<()>> {
        self.ring.kick().take();
        self.serve();
        Ok(ControlFlow::Continue(()))
    }
}
