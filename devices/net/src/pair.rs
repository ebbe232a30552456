//! A pair of queues as the device has it: whether its worker runs, and with which of the two.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use device::{Error, Result};
use reactor::Task;
use sandbox::Filter;
use virtio::Ring;

use crate::shared::Shared;
use crate::worker::{Order, PairWorker, Side};

/// A pair of queues, with one thread for both. Queues come and go one by one; the thread goes with the last.
#[derive(Debug)]
pub(crate) struct Pair {
    index: usize,
    name: String,
    rules: Filter,
    shared: Arc<Shared>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    task: Task<PairWorker>,
    orders: Sender<Order>,
    sides: Vec<Side>,
}

impl Pair {
    pub(crate) fn new(index: usize, name: String, rules: Filter, shared: Arc<Shared>) -> Self {
        Self {
            index,
            name,
            rules,
            shared,
            running: None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Serves a queue.
    pub(crate) fn start(&mut self, side: Side, ring: Ring) -> Result<()> {
        let failed = |source| Error::Worker {
            name: self.name.clone(),
            source,
        };
        if let Some(running) = &mut self.running {
            let sent = running.orders.send(Order::Take(side, ring));
            sent.map_err(|_| failed(io::Error::other("it has ended")))?;
            running.sides.push(side);
            self.shared.bells[self.index].signal();
            return Ok(());
        }
        let (orders, receiver) = mpsc::channel();
        let queue = Arc::clone(&self.shared.host.tap.queues()[self.index]);
        let mut worker = PairWorker::new(self.index, Arc::clone(&self.shared), queue, receiver);
        worker.take(side, ring, self.shared.ram.clone());
        let task = Task::spawn(&self.name, self.rules.clone(), worker).map_err(failed)?;
        self.running = Some(Running {
            task,
            orders,
            sides: vec![side],
        });
        Ok(())
    }

    /// Gives a queue back. `None` if it was not served, or if the worker failed; the log then says why.
    pub(crate) fn stop(&mut self, side: Side) -> Option<Ring> {
        let running = self.running.as_mut()?;
        let sides = &mut running.sides;
        let position = sides.iter().position(|served| *served == side)?;
        sides.swap_remove(position);
        if !sides.is_empty() {
            let (answer, ring) = mpsc::sync_channel(1);
            running.orders.send(Order::Give(side, answer)).ok()?;
            self.shared.bells[self.index].signal();
            return ring.recv().ok();
        }
        match self.running.take()?.task.stop() {
            Ok(mut worker) => {
                worker.obey_last();
                worker.give(side)
            }
            Err(error) => {
                telemetry::error!("{}: {}", self.name, telemetry::chain(&error).join(": "));
                None
            }
        }
    }
}
