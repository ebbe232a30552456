//! A device on a real tap, in a network of the test's own; at its other end a packet socket.

mod config;
mod control;
mod frames;
mod full;
mod life;
mod offloads;

use std::sync::Arc;

use ::device::Device;
use sandbox::Filter;
use tap::testing::{Wire, ip, own_network};
use tap::{HEADER, Settings, Tap};
use virtio::OverPci;
use virtio::testing::{Bench, Driver, DriverQueue, Part, eventually};

use super::*;

/// Interface that tests use.
const TAP: &str = "t0";
const MAC: MacAddress = MacAddress([0x12, 0x34, 0x56, 0x78, 0x90, 0xab]);
/// Queues of the first pair.
const RX: u16 = 0;
const TX: u16 = 1;

fn config(flag: &str) -> NetConfig {
    let config: NetConfig = keyvalue::from_str(&format!("mac={MAC},{flag}")).unwrap();
    config.check(&Facts::default()).unwrap();
    config
}

/// Opens the tap as the configuration asks.
fn host(config: &NetConfig) -> Arc<HostEnd> {
    let tap = Tap::open(TAP, config.pairs()).unwrap();
    let (address, mac) = (None, None);
    let mtu = config.mtu;
    tap.configure(&Settings { address, mac, mtu }).unwrap();
    let mtu = tap.mtu().map(|mtu| mtu.try_into().unwrap());
    Arc::new(HostEnd::new(tap, MAC, mtu))
}

fn device_on(bench: &Bench, config: &NetConfig, host: Arc<HostEnd>) -> OverPci<Network> {
    let environment = bench.environment("_net0");
    let network = network(config, host, "_net0", &environment).unwrap();
    OverPci::new("net", network, environment).unwrap()
}

/// A started device on a new tap.
fn device(bench: &Bench, config: &NetConfig) -> OverPci<Network> {
    let mut device = device_on(bench, config, host(config));
    device.start().unwrap();
    device
}

fn frame(number: u8, length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..=250)
        .cycle()
        .map(|byte: u8| byte ^ number)
        .take(length)
        .collect();
    frame[..6].copy_from_slice(&MAC.0);
    frame[6..12].copy_from_slice(&[0x2e, 0, 0, 0, 0, number]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// A frame as the guest sends it.
fn with_header(frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend(frame);
    bytes
}

fn counter(device: &OverPci<Network>, name: &str) -> u64 {
    let counters = device.counters();
    let found = counters.iter().find(|(counter, _)| *counter == name);
    found.unwrap().1
}

/// Name, queue and number of frames of each histogram.
fn times(device: &OverPci<Network>) -> Vec<(&'static str, u16, u64)> {
    let histograms = device.histograms();
    let about = histograms
        .iter()
        .map(|one| (one.name, one.queue, one.count));
    about.collect()
}

fn sends(wire: &Wire, frame: &[u8]) {
    eventually(|| wire.send(frame));
}
