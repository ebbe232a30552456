//! The registers, connected: interrupts to a line, output to a stream, input from a worker.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{Shared, Target};
use hypervisor::IrqLine;
use reactor::Kick;
use serde::{Deserialize, Serialize};
use stream::{Output, Receiver};
use vm_superio::serial::{SerialEvents, SerialState};
use vm_superio::{Serial as Registers, Trigger};

/// Signals the interrupt line. A line that cannot be signalled is logged: the guest polls, if slowly.
#[derive(Clone)]
struct Line(Arc<IrqLine>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        if let Err(error) = self.0.trigger() {
            telemetry::error!("serial port: {}", telemetry::chain(&error).join(": "));
        }
        Ok(())
    }
}

/// The output, which outlives the registers when these are replaced by saved ones.
#[derive(Clone)]
struct Printer(Shared<Output>);

impl Write for Printer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}

/// Tells the worker that the guest made room, if it waits for that.
#[derive(Clone)]
struct Room {
    resume: Kick,
    wanted: Arc<AtomicBool>,
}

impl SerialEvents for Room {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        if self.wanted.swap(false, Ordering::AcqRel) {
            self.resume.signal();
        }
    }
}

/// The port's registers.
pub(crate) struct Uart {
    registers: Registers<Line, Room, Printer>,
    line: Line,
    room: Room,
    printer: Printer,
}

impl Uart {
    pub(crate) fn new(line: IrqLine, output: Output, resume: Kick) -> Self {
        let line = Line(Arc::new(line));
        let room = Room {
            resume,
            wanted: Arc::new(AtomicBool::new(false)),
        };
        let printer = Printer(Shared::new(output));
        let registers = Registers::with_events(line.clone(), room.clone(), printer.clone());
        Self {
            registers,
            line,
            room,
            printer,
        }
    }

    /// Replaces the registers by saved ones.
    pub(crate) fn put(&mut self, state: State) -> Result<(), String> {
        let (line, room, printer) = (self.line.clone(), self.room.clone(), self.printer.clone());
        self.registers = Registers::from_state(&state.into(), line, room, printer)
            .map_err(|error| format!("the receive FIFO does not fit: {error:?}"))?;
        Ok(())
    }
}

impl fmt::Debug for Uart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uart")
            .field("state", &self.registers.state())
            .finish_non_exhaustive()
    }
}

impl Target for Uart {
    /// Registers are a byte wide: a wider access reads ones.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            *value = self.registers.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let ([value], Ok(offset)) = (data, u8::try_from(offset)) else {
            return;
        };
        if let Err(vm_superio::serial::Error::IOError(error)) = self.registers.write(offset, *value)
        {
            telemetry::warn!("serial port: output is lost: {error}");
        }
    }
}

/// The receiving end of what is typed: a port, or none between two.
#[derive(Debug)]
pub(crate) struct Feed(pub(crate) Option<Shared<Uart>>);

impl Receiver for Feed {
    fn room(&mut self) -> usize {
        let Some(uart) = &self.0 else {
            return 0;
        };
        let uart = uart.lock();
        let room = uart.registers.fifo_capacity();
        if room == 0 {
            uart.room.wanted.store(true, Ordering::Release);
        }
        room
    }

    fn receive(&mut self, bytes: &[u8]) {
        // It fails only if there is no room, and never takes more than there was; in loop-back mode the guest
        // hears only itself.
        if let Some(uart) = &self.0 {
            let _ = uart.lock().registers.enqueue_raw_bytes(bytes);
        }
    }
}

/// State at rest, version 1: the registers of a 16550.
#[derive(Serialize, Deserialize)]
pub(crate) struct State {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    received: Vec<u8>,
}

impl State {
    pub(crate) fn of(uart: &Uart) -> Self {
        let state = uart.registers.state();
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }
}

impl From<State> for SerialState {
    fn from(state: State) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.received,
        }
    }
}
