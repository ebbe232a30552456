//! The guest's side: a driver that polls, with the credit rules of VIRTIO 1.3, 5.10.6.3.

use virtio::testing::{Bench, Driver, DriverQueue};

/// Bytes of a header.
pub(crate) const HEADER: u32 = 44;
/// The guest's room for data, as Linux has it.
const ROOM: u32 = 256 << 10;
/// Guest addresses of packets: those received, those sent, and one without data.
const RECEIVED: u64 = 0x20_0000;
const SENT: u64 = 0x90_0000;
const CONTROL: u64 = 0xf0_0000;
/// Available ring: no interrupts, as a driver that polls. Used ring: no doorbells.
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;
/// Operations.
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

/// Bytes of data in each buffer of a queue, and how many buffers there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) len: u32,
    pub(crate) count: u16,
}

impl Layout {
    /// Distance between buffers.
    fn step(self) -> u64 {
        u64::from(self.len + HEADER).next_multiple_of(64)
    }
}

/// The driver.
pub(crate) struct Guest<'a> {
    bench: &'a Bench,
    driver: &'a Driver<'a>,
    receive: DriverQueue,
    transmit: DriverQueue,
    layout: Layout,
    receive_layout: Layout,
    /// Descriptors for packets with data. The last one is for those without.
    free: Vec<u16>,
    is_control_free: bool,
    owes_credit: bool,
    local: u32,
    told: u32,
    /// The host's room, and what left it.
    room: u32,
    forwarded: u32,
    /// Bytes of data so far.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Packets with data so far.
    pub(crate) packets: u64,
}

impl<'a> Guest<'a> {
    /// Offers all receive buffers.
    pub(crate) fn new(
        bench: &'a Bench,
        driver: &'a Driver<'a>,
        mut queues: Vec<DriverQueue>,
        layout: Layout,
        receive_layout: Layout,
    ) -> Self {
        let mut receive = queues.remove(0);
        let transmit = queues.remove(0);
        receive.set_available_flags(NO_INTERRUPT);
        transmit.set_available_flags(NO_INTERRUPT);
        for index in 0..receive_layout.count {
            let at = RECEIVED + receive_layout.step() * u64::from(index);
            receive.describe(index, at, receive_layout.len + HEADER, 2, 0);
            receive.offer(index);
        }
        driver.kick(receive.index);
        Self {
            bench,
            driver,
            receive,
            transmit,
            layout,
            receive_layout,
            free: (0..layout.count.min(255)).collect(),
            is_control_free: true,
            owes_credit: false,
            local: 0,
            told: 0,
            room: 0,
            forwarded: 0,
            sent: 0,
            received: 0,
            packets: 0,
        }
    }

    /// Accepts the connection that a program of the host asks for.
    pub(crate) fn accept(&mut self) {
        while self.local == 0 {
            self.poll();
        }
        self.control(RESPONSE);
    }

    /// Takes what has come, and tells the host of the room there is.
    pub(crate) fn poll(&mut self) {
        let used = self.receive.used();
        let came = !used.is_empty();
        for (head, _) in used {
            self.look(head);
            self.receive
                .offer(u16::try_from(head).expect("a descriptor"));
        }
        if came {
            ring(self.driver, &self.receive);
        }
        let unknown = self.received().wrapping_sub(self.told);
        if (self.owes_credit || unknown >= ROOM / 4) && self.is_control_free {
            self.owes_credit = false;
            self.control(CREDIT_UPDATE);
        }
        self.reclaim();
    }

    /// Sends as many packets with data as there is room for.
    pub(crate) fn send(&mut self) {
        let before = self.packets;
        let most = if self.layout.len == 1 { 1 } else { usize::MAX };
        for _ in 0..most {
            let waiting = low(self.sent).wrapping_sub(self.forwarded);
            if self.room.saturating_sub(waiting) < self.layout.len {
                break;
            }
            let Some(index) = self.free.pop() else { break };
            let at = SENT + self.layout.step() * u64::from(index);
            self.put(index, at, RW, self.layout.len);
            self.sent += u64::from(self.layout.len);
            self.packets += 1;
        }
        if self.packets != before {
            ring(self.driver, &self.transmit);
        }
    }

    /// Ends the connection.
    pub(crate) fn reset(&mut self) {
        while !self.is_control_free {
            self.poll();
        }
        self.control(RST);
    }

    fn received(&self) -> u32 {
        low(self.received)
    }

    fn look(&mut self, head: u32) {
        let at = RECEIVED + self.receive_layout.step() * u64::from(head);
        let mut header = [0; HEADER as usize];
        self.bench.ram.read(at, &mut header).expect("RAM");
        let number = |at: usize| {
            let bytes = header[at..at + 4].try_into().expect("four");
            u32::from_le_bytes(bytes)
        };
        self.room = number(36);
        self.forwarded = number(40);
        match u16::from_le_bytes([header[30], header[31]]) {
            REQUEST => self.local = number(16),
            RW => {
                self.received += u64::from(number(24));
                self.packets += 1;
            }
            CREDIT_REQUEST => self.owes_credit = true,
            CREDIT_UPDATE => {}
            operation => panic!("operation {operation}"),
        }
    }

    fn reclaim(&mut self) {
        for (head, _) in self.transmit.used() {
            match u16::try_from(head).expect("a descriptor") {
                255 => self.is_control_free = true,
                head => self.free.push(head),
            }
        }
    }

    fn control(&mut self, operation: u16) {
        self.is_control_free = false;
        self.put(255, CONTROL, operation, 0);
        ring(self.driver, &self.transmit);
    }

    fn put(&mut self, index: u16, at: u64, operation: u16, len: u32) {
        let mut header = Vec::with_capacity(HEADER as usize);
        header.extend(3u64.to_le_bytes());
        header.extend(2u64.to_le_bytes());
        header.extend(7u32.to_le_bytes());
        header.extend(self.local.to_le_bytes());
        header.extend(len.to_le_bytes());
        header.extend(1u16.to_le_bytes());
        header.extend(operation.to_le_bytes());
        header.extend(0u32.to_le_bytes());
        header.extend(ROOM.to_le_bytes());
        self.told = self.received();
        header.extend(self.told.to_le_bytes());
        self.bench.ram.write(at, &header).expect("RAM");
        self.transmit.describe(index, at, HEADER + len, 0, 0);
        self.transmit.offer(index);
    }
}

/// A count as packets have it.
fn low(count: u64) -> u32 {
    u32::try_from(count & u64::from(u32::MAX)).expect("its low half")
}

fn ring(driver: &Driver<'_>, queue: &DriverQueue) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    if queue.used_flags() & NO_NOTIFY == 0 {
        driver.kick(queue.index);
    }
}
