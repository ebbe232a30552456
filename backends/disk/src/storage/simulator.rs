//! Files in memory whose power can be cut.
//!
//! Every write, change of length and flush of all files of a [`Simulator`] is in one list. [`Simulator::cut`] gives
//! what the files may hold if the power fails after so many of them: what was flushed is there; of what was not, any
//! sectors are, each alone.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Storage;

/// What the hardware writes as a whole.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Step {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
    Flush,
}

#[derive(Debug, Default)]
struct State {
    before: Vec<Vec<u8>>,
    now: Vec<Vec<u8>>,
    /// With the number of the file.
    steps: Vec<(usize, Step)>,
    /// So many steps from now each one fails.
    fails_after: Option<usize>,
}

/// Files in memory, and what was done to them.
#[derive(Debug, Default)]
pub(crate) struct Simulator(Mutex<State>);

/// One of the files.
#[derive(Debug)]
struct File {
    simulator: Arc<Simulator>,
    number: usize,
}

impl Simulator {
    /// Files with these bytes, all durable.
    pub(crate) fn new(files: Vec<Vec<u8>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            before: files.clone(),
            now: files,
            ..State::default()
        })))
    }

    /// The file of this number.
    pub(crate) fn file(self: &Arc<Self>, number: usize) -> Arc<dyn Storage> {
        Arc::new(File {
            simulator: Arc::clone(self),
            number,
        })
    }

    /// How many steps were made.
    pub(crate) fn steps(&self) -> usize {
        self.state().steps.len()
    }

    /// After `count` more steps each further one is an I/O error.
    pub(crate) fn fail_after(&self, count: Option<usize>) {
        self.state().fails_after = count;
    }

    /// The bytes of the files as they are.
    pub(crate) fn contents(&self) -> Vec<Vec<u8>> {
        self.state().now.clone()
    }

    /// The bytes of the files if the power fails after the first `count` steps. `chance` says for each sector that was
    /// not flushed whether it was written all the same; steps that were not flushed keep their order, as one that is
    /// lost is the same as one that came before.
    pub(crate) fn cut(&self, count: usize, mut chance: impl FnMut() -> bool) -> Vec<Vec<u8>> {
        let state = self.state();
        let steps = &state.steps[..count];
        let flushed = |file: usize| {
            let is_flush = |(of, step): &(usize, Step)| *of == file && matches!(step, Step::Flush);
            steps.iter().rposition(is_flush).unwrap_or(0)
        };
        let flushed: Vec<usize> = (0..state.before.len()).map(flushed).collect();
        let mut files = state.before.clone();
        for (at, (number, step)) in steps.iter().enumerate() {
            let (file, durable) = (&mut files[*number], at < flushed[*number]);
            match step {
                Step::Flush => {}
                Step::Length(length) if durable || chance() => file.resize(*length, 0),
                Step::Length(_) => {}
                Step::Write { offset, bytes } => {
                    for (start, part) in sectors(*offset, bytes) {
                        if durable || chance() {
                            put(file, start, part);
                        }
                    }
                }
            }
        }
        files
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of `bytes` at `offset` that are in different sectors.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = offset + at;
        let count = (SECTOR - start % SECTOR).min(bytes.len() - at);
        let part = &bytes[at..at + count];
        at += count;
        (count > 0).then_some((start, part))
    })
}

fn put(file: &mut Vec<u8>, start: usize, part: &[u8]) {
    let end = start + part.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[start..end].copy_from_slice(part);
}

impl File {
    fn make(&self, step: Step) -> io::Result<()> {
        let mut state = self.simulator.state();
        match &mut state.fails_after {
            Some(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(left) => *left -= 1,
            None => {}
        }
        let file = &mut state.now[self.number];
        match &step {
            Step::Write { offset, bytes } => {
                if offset + bytes.len() > file.len() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                put(file, *offset, bytes);
            }
            Step::Length(length) => file.resize(*length, 0),
            Step::Flush => {}
        }
        state.steps.push((self.number, step));
        Ok(())
    }
}

impl Storage for File {
    fn length(&self) -> u64 {
        self.simulator.state().now[self.number].len() as u64
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let state = self.simulator.state();
        let file = &state.now[self.number];
        let start = usize::try_from(offset).map_or(file.len(), |at| at.min(file.len()));
        let count = bytes.len().min(file.len() - start);
        bytes[..count].copy_from_slice(&file[start..start + count]);
        Ok(count)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = bytes.to_vec();
        self.make(Step::Write { offset, bytes })
    }

    fn flush(&self) -> io::Result<()> {
        self.make(Step::Flush)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        if length > 1 << 30 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.make(Step::Length(length))
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        let end = (offset + length).min(self.length());
        if let Ok(count) = usize::try_from(end.saturating_sub(offset)) {
            self.write(offset, &vec![0; count])?;
        }
        Ok(true)
    }
}

#[test]
fn what_was_not_flushed_may_be_lost_in_parts() {
    let simulator = Simulator::new(vec![vec![0; 1024], Vec::new()]);
    let (one, other) = (simulator.file(0), simulator.file(1));
    one.write(0, &[1; 1024]).unwrap();
    other.set_length(4).unwrap();
    one.flush().unwrap();
    one.write(500, &[2; 24]).unwrap();
    assert_eq!(simulator.steps(), 4);
    let none = simulator.cut(4, || false);
    assert_eq!(none, [vec![1; 1024], Vec::new()]);
    let mut turn = false;
    let half = simulator.cut(4, || {
        turn = !turn;
        turn
    });
    // The other file has its length, and of the last write only what is in the second sector.
    assert_eq!((half[0][511], half[0][512], half[1].len()), (1, 2, 4));
    assert_eq!(simulator.cut(4, || true), simulator.contents());
    assert_eq!(simulator.cut(0, || true), [vec![0; 1024], Vec::new()]);
    simulator.fail_after(Some(1));
    one.flush().unwrap();
    assert!(one.write(0, &[3]).is_err() && one.flush().is_err());
    assert_eq!(simulator.contents()[0][0], 1);
}
