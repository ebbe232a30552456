//! What is measured: one load on one device.

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    Block(Block),
    Net { send: bool, size: u32 },
    Vsock(Vsock),
}

/// A load on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Writes, not reads.
    pub(super) write: bool,
    /// 4 KiB anywhere; otherwise 128 KiB one after the other.
    pub(super) random: bool,
    /// Requests in flight on each queue.
    pub(super) depth: u32,
    pub(super) queues: u32,
    /// Around the host's page cache.
    pub(super) direct: bool,
}

/// A load on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vsock {
    ToHost,
    FromHost,
    Echo,
}

impl Cell {
    /// All, or those of one device.
    pub(super) fn all(only: Option<&str>) -> Vec<Self> {
        let wanted = |name| only.is_none_or(|only| only == name);
        let mut cells = Vec::new();
        if wanted("block") {
            cells.extend(Block::all().map(Self::Block));
        }
        if wanted("net") {
            for send in [true, false] {
                cells.extend([64, 1500].map(|size| Self::Net { send, size }));
            }
        }
        if wanted("vsock") {
            cells.extend([Vsock::ToHost, Vsock::FromHost, Vsock::Echo].map(Self::Vsock));
        }
        cells
    }

    /// For tables.
    pub(super) fn name(self) -> String {
        match self {
            Self::Block(block) => {
                let pattern = if block.random {
                    "4k random"
                } else {
                    "128k seq"
                };
                let kind = if block.write { "write" } else { "read" };
                let cache = if block.direct { "direct" } else { "cached" };
                let Block { depth, queues, .. } = block;
                format!("block {cache} {pattern} {kind} qd{depth} q{queues}")
            }
            Self::Net { send: true, size } => format!("net send {size} B"),
            Self::Net { size, .. } => format!("net receive {size} B"),
            Self::Vsock(Vsock::ToHost) => "vsock to host".to_owned(),
            Self::Vsock(Vsock::FromHost) => "vsock from host".to_owned(),
            Self::Vsock(Vsock::Echo) => "vsock echo of 1 B".to_owned(),
        }
    }

    /// Bytes that one unit of the guest's count is; 0 if bytes are of no interest.
    pub(super) fn bytes(self) -> f64 {
        match self {
            Self::Block(block) => f64::from(block.size()),
            Self::Net { size, .. } => f64::from(size),
            Self::Vsock(Vsock::Echo) => 0.0,
            Self::Vsock(_) => 1.0,
        }
    }

    /// What the guest is told, without how long.
    pub(super) fn words(self) -> String {
        match self {
            Self::Block(block) => format!(
                "bench=block write={} random={} size={} depth={} queues={}",
                u8::from(block.write),
                u8::from(block.random),
                block.size(),
                block.depth,
                block.queues
            ),
            Self::Net { send, size } => format!("bench=net send={} size={size}", u8::from(send)),
            Self::Vsock(Vsock::ToHost) => "bench=vsock send=1".to_owned(),
            Self::Vsock(Vsock::FromHost) => "bench=vsock send=0".to_owned(),
            Self::Vsock(Vsock::Echo) => "bench=vsock send=2".to_owned(),
        }
    }

    /// Ours has to do this many times as much per CPU-second as QEMU.
    pub(super) fn goal(self) -> f64 {
        match self {
            Self::Block(Block { random: true, .. }) | Self::Net { .. } => 1.25,
            _ => 1.0,
        }
    }
}

impl Block {
    fn all() -> impl Iterator<Item = Self> {
        let flags = [false, true];
        flags.into_iter().flat_map(move |direct| {
            [true, false].into_iter().flat_map(move |random| {
                flags.into_iter().flat_map(move |write| {
                    [(1, 1), (32, 1), (1, 2), (32, 2)].map(|(depth, queues)| Self {
                        write,
                        random,
                        depth,
                        queues,
                        direct,
                    })
                })
            })
        })
    }

    /// Bytes of a request.
    pub(super) fn size(self) -> u32 {
        if self.random { 4 << 10 } else { 128 << 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_a_name_of_its_own() {
        let cells = Cell::all(None);
        let names: std::collections::BTreeSet<_> = cells.iter().map(|cell| cell.name()).collect();
        assert_eq!(names.len(), cells.len());
        assert_eq!(cells.len(), 32 + 4 + 3);
        assert_eq!(Cell::all(Some("net")).len(), 4);
    }
}
